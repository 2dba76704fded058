"""Which label a model means, and how sure it is: pure functions of the answers that hosts give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Token:
    """A token of an answer, and the alternatives to it with their log-probabilities, itself among them."""

    text: str
    logprob: float
    alternatives: Mapping[str, float]


def of_text(labels: Sequence[str], text: str) -> int | None:
    """Return which label a text is, white space around it aside."""
    return next((n for n, each in enumerate(labels) if each.strip() == text.strip()), None)


def of_alternatives(labels: Sequence[str], tokens: Sequence[Token]) -> tuple[float, ...] | None:
    """Return a log-probability of each label (nats), or None where the answer says nothing about any.

    The answer is followed token by token as long as more than one label can still follow; each alternative to a token
    counts for the labels that it leads to, in equal parts where there are several, as its own continuation is not
    told. From where only one label is left, that label's probability is taken to be the path's. A label that no
    alternative leads to is at most as probable as the least probable alternative: it gets that.
    """
    wanted = [each.strip() for each in labels]
    mass = [0.0] * len(labels)
    path, logprob = "", 0.0
    least = 0.0
    for token in tokens:
        for text, value in token.alternatives.items():
            least = min(least, logprob + value)
            if text != token.text:
                _count(mass, wanted, path + text, math.exp(logprob + value))
        path, logprob = path + token.text, logprob + token.logprob
        least = min(least, logprob)
        possible = [each for each in wanted if _leads(path, each)]
        if len(possible) < 2:
            break
    _count(mass, wanted, path, math.exp(logprob), final=True)
    if not any(mass):
        return None
    return tuple(min(0.0, math.log(each)) if each > 0 else least for each in mass)


def of_echo(prompt: str, logprobs: Mapping[str, Any]) -> float:
    """Return the log-probability of what follows the prompt in a text that was read back with those of its tokens."""
    tokens, values, offsets = logprobs["tokens"], logprobs["token_logprobs"], logprobs["text_offset"]
    return math.fsum(
        value
        for token, value, offset in zip(tokens, values, offsets, strict=True)
        # a token across the border belongs to both
        if value is not None and offset + len(token) > len(prompt)
    )


def chat_tokens(choice: Mapping[str, Any]) -> list[Token]:
    """Return the tokens of a chat answer; none where the host told no probabilities."""
    content = (choice.get("logprobs") or {}).get("content") or []
    return [
        Token(
            each["token"],
            each["logprob"],
            {
                **{other["token"]: other["logprob"] for other in each.get("top_logprobs") or ()},
                each["token"]: each["logprob"],
            },
        )
        for each in content
    ]


def completion_tokens(choice: Mapping[str, Any]) -> list[Token]:
    """Return the tokens of a continued text; none where the host told no probabilities."""
    told = choice.get("logprobs") or {}
    tokens, values = told.get("tokens") or [], told.get("token_logprobs") or []
    others = told.get("top_logprobs") or [{}] * len(tokens)
    return [
        Token(token, value, {**(other or {}), token: value})
        for token, value, other in zip(tokens, values, others, strict=False)
        if value is not None
    ]


def _leads(path: str, label: str) -> bool:
    """Return whether an answer that begins with `path` can be `label`."""
    begun = path.lstrip()
    return label.startswith(begun) or begun.rstrip() == label


def _count(mass: list[float], labels: Sequence[str], path: str, probability: float, *, final: bool = False) -> None:
    if not path.strip():
        return  # white space leads to all of them, and so says nothing
    meant = [n for n, each in enumerate(labels) if each == path.strip()] if final else []
    meant = meant or [n for n, each in enumerate(labels) if _leads(path, each)]
    for n in meant:
        mass[n] += probability / len(meant)
