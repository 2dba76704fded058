"""Score labels by a model's answer: which label it means, and with which log-probability.

Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Token:
    """A token of an answer, and the log-probabilities of its alternatives, itself included."""

    text: str
    logprob: float
    alternatives: Mapping[str, float]


def label_index(labels: Sequence[str], text: str) -> int | None:
    """Return the index of the label that equals a text, apart from surrounding white space."""
    return next((index for index, label in enumerate(labels) if label.strip() == text.strip()), None)


def label_logprobs(labels: Sequence[str], tokens: Sequence[Token]) -> tuple[float, ...] | None:
    """Return a log-probability for each label (nats), or None if the answer matches no label.

    The function follows the answer token by token while several labels can still match. Each
    alternative to a token counts for the labels that it can lead to, in equal parts if there are
    several, because its own continuation is unknown. As soon as one label is left, it gets the
    probability of the path. A label without any matching alternative is at most as probable as the
    least probable alternative: it gets that value.
    """
    stripped = [label.strip() for label in labels]
    mass = [0.0] * len(labels)
    path, path_logprob = "", 0.0
    least_logprob = 0.0
    for token in tokens:
        for text, logprob in token.alternatives.items():
            least_logprob = min(least_logprob, path_logprob + logprob)
            if text != token.text:
                _add_mass(mass, stripped, path + text, math.exp(path_logprob + logprob))
        path, path_logprob = path + token.text, path_logprob + token.logprob
        least_logprob = min(least_logprob, path_logprob)
        if sum(_can_become(path, label) for label in stripped) < 2:
            break
    _add_mass(mass, stripped, path, math.exp(path_logprob), final=True)
    if not any(mass):
        return None
    return tuple(min(0.0, math.log(share)) if share > 0 else least_logprob for share in mass)


def continuation_logprob(prompt: str, logprobs: Mapping[str, Any]) -> float:
    """Return the log-probability of the text after the prompt.

    `logprobs` are those of an echoed text: its tokens, their log-probabilities and their offsets.
    """
    tokens, values, offsets = logprobs["tokens"], logprobs["token_logprobs"], logprobs["text_offset"]
    return math.fsum(
        value
        for token, value, offset in zip(tokens, values, offsets, strict=True)
        # A token across the end of the prompt belongs to both and counts.
        if value is not None and offset + len(token) > len(prompt)
    )


def chat_tokens(choice: Mapping[str, Any]) -> list[Token]:
    """Return the tokens of a chat answer; none if the host returned no log-probabilities."""
    content = (choice.get("logprobs") or {}).get("content") or []
    tokens = []
    for entry in content:
        alternatives = {other["token"]: other["logprob"] for other in entry.get("top_logprobs") or ()}
        tokens.append(Token(entry["token"], entry["logprob"], {**alternatives, entry["token"]: entry["logprob"]}))
    return tokens


def completion_tokens(choice: Mapping[str, Any]) -> list[Token]:
    """Return the tokens of a completion; none if the host returned no log-probabilities."""
    logprobs = choice.get("logprobs") or {}
    texts, values = logprobs.get("tokens") or [], logprobs.get("token_logprobs") or []
    alternatives = logprobs.get("top_logprobs") or [{}] * len(texts)
    return [
        Token(text, value, {**(others or {}), text: value})
        for text, value, others in zip(texts, values, alternatives, strict=False)
        if value is not None
    ]


def _can_become(path: str, label: str) -> bool:
    """Return whether an answer that begins with `path` can be `label`."""
    begun = path.lstrip()
    return label.startswith(begun) or begun.rstrip() == label


def _add_mass(mass: list[float], labels: Sequence[str], path: str, probability: float, *, final: bool = False) -> None:
    """Add a path's probability to the labels it can become; if `final`, to its equal."""
    if not path.strip():
        return  # White space can become any label, so it says nothing.
    matching = [index for index, label in enumerate(labels) if label == path.strip()] if final else []
    matching = matching or [index for index, label in enumerate(labels) if _can_become(path, label)]
    for index in matching:
        mass[index] += probability / len(matching)
