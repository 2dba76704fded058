"""Answers with a model at a host that speaks the OpenAI protocol. Stands alone: it travels with the model.

The facts: `base_url`, `model`, `chat` (whether the model takes messages, else it continues a text), `key_name` (the
environment variable with the API key, or with `_FILE` behind it the variable that names a file with the key),
`needs_key`, `labels` as they stand in the training data, `stop`, `system_message`, `alternatives`, `token_limit_field`,
`extra_headers` and `extra_body`. The key is read when the model answers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

Line = Mapping[str, Any]
Answer = tuple[str, list[float] | None]

_TOGETHER = 8
_LABEL_TOKENS = 16
"""A label is told from the others well before."""
_TIMEOUT_S, _RETRIES = 60.0, 5


def load(folder: str, facts: Mapping[str, Any]) -> HostedModel:
    """Return the model; nothing is asked yet."""
    return HostedModel(facts)


class HostedModel:
    """Asks the host for a label, and how probable the others were where it tells."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.facts = facts
        self.labels = [str(each) for each in facts["labels"]]
        stop = str(facts["stop"])
        said = [(each.removesuffix(stop) if stop else each).removeprefix(" ") for each in self.labels]
        self.spoken = said if facts["chat"] else self.labels

    def answer(self, lines: Sequence[Line]) -> list[Answer]:
        """Answer lines in their order."""
        from openai import OpenAI, OpenAIError

        key = self._key()
        try:
            return self._answers(OpenAI, key, lines)
        except OpenAIError as error:  # some hosts quote the key that they refuse
            raise RuntimeError(str(error).replace(key, "<key>")) from None

    def _answers(self, client_type: Any, key: str, lines: Sequence[Line]) -> list[Answer]:
        headers = dict(self.facts["extra_headers"])
        with (
            client_type(
                base_url=self.facts["base_url"],
                api_key=key,
                timeout=_TIMEOUT_S,
                max_retries=_RETRIES,
                default_headers=headers,
            ) as client,
            ThreadPoolExecutor(max_workers=_TOGETHER) as pool,
        ):
            return list(pool.map(lambda line: self._ask(client, line), lines))

    def _key(self) -> str:
        name = str(self.facts["key_name"])
        if value := os.environ.get(name, "").strip():
            return value
        if file := os.environ.get(f"{name}_FILE", "").strip():
            return Path(file).read_text(encoding="utf-8").strip()
        if self.facts["needs_key"]:
            raise RuntimeError(f"the host wants an API key: set {name}, or {name}_FILE to a file that holds it")
        return "no-key"

    def _ask(self, client: Any, line: Line) -> Answer:
        fields: dict[str, Any] = {"model": self.facts["model"], "temperature": 0.0}
        fields |= {"extra_body": self.facts["extra_body"]} if self.facts["extra_body"] else {}
        limit = min(_LABEL_TOKENS, max(len(each.encode()) for each in self.spoken))
        alternatives = self.facts["alternatives"]
        if self.facts["chat"]:
            fields |= {"messages": self._messages(line), self.facts["token_limit_field"]: limit}
            fields |= {"logprobs": True, "top_logprobs": alternatives} if alternatives else {}
            answer = client.chat.completions.create(**fields).to_dict()
        else:
            fields |= {"prompt": self._text(line), "max_tokens": limit}
            fields |= {"logprobs": alternatives} if alternatives else {}
            answer = client.completions.create(**fields).to_dict()
        choices = answer.get("choices") or []
        if not choices:
            raise RuntimeError(f"{self.facts['model']} gave no answer")
        return self._meant(choices[0])

    def _text(self, line: Line) -> str:
        if "prompt" not in line:
            raise RuntimeError(f"{self.facts['model']} continues a text, and was given messages")
        return str(line["prompt"])

    def _messages(self, line: Line) -> list[dict[str, str]]:
        if "messages" in line:
            messages = list(line["messages"])
            return messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages
        system = self.facts["system_message"]
        before = [{"role": "system", "content": system}] if system else []
        return [*before, {"role": "user", "content": str(line["prompt"])}]

    def _meant(self, choice: Mapping[str, Any]) -> Answer:
        """Return the label that is meant. A text that is no label is returned as it is: it is a wrong answer."""
        told = (choice.get("logprobs") or {}) if self.facts["alternatives"] else {}
        values = _probabilities(self.spoken, (told.get("content") or []) if self.facts["chat"] else _tokens(told))
        if values is not None:
            return self.labels[values.index(max(values))], values
        text = (choice.get("message") or {}).get("content") if self.facts["chat"] else choice.get("text")
        text = str(text or "")
        meant = [label for label, each in zip(self.labels, self.spoken, strict=True) if each.strip() == text.strip()]
        return (meant[0] if meant else text), None


def _tokens(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the tokens of a continued text in the form in which those of a message are told."""
    tokens, values = told.get("tokens") or [], told.get("token_logprobs") or []
    others = told.get("top_logprobs") or [{}] * len(tokens)
    return [
        {
            "token": token,
            "logprob": value,
            "top_logprobs": [{"token": text, "logprob": each} for text, each in (other or {}).items()],
        }
        for token, value, other in zip(tokens, values, others, strict=False)
        if value is not None
    ]


def _probabilities(labels: Sequence[str], tokens: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """Return a log-probability of each label, or None where the answer says nothing about any.

    The answer is followed token by token while several labels can still follow. Each alternative counts for the labels
    that it leads to, in equal parts. A label that nothing leads to gets the least that was told.
    """
    wanted = [each.strip() for each in labels]
    mass, path, logprob, least = [0.0] * len(wanted), "", 0.0, 0.0
    for token in tokens:
        others = {each["token"]: each["logprob"] for each in token.get("top_logprobs") or ()}
        for text, value in others.items():
            least = min(least, logprob + value)
            if text != token["token"]:
                _count(mass, wanted, path + text, math.exp(logprob + value))
        path, logprob = path + token["token"], logprob + token["logprob"]
        least = min(least, logprob)
        if sum(_leads(path, each) for each in wanted) < 2:
            break
    exact = [n for n, each in enumerate(wanted) if each == path.strip()]
    if exact:
        mass[exact[0]] += math.exp(logprob)
    else:
        _count(mass, wanted, path, math.exp(logprob))
    if not any(mass):
        return None
    return [min(0.0, math.log(each)) if each > 0 else least for each in mass]


def _leads(path: str, label: str) -> bool:
    begun = path.lstrip()
    return label.startswith(begun) or begun.rstrip() == label


def _count(mass: list[float], labels: Sequence[str], path: str, probability: float) -> None:
    meant = [n for n, each in enumerate(labels) if _leads(path, each)] if path.strip() else []
    for n in meant:
        mass[n] += probability / len(meant)
