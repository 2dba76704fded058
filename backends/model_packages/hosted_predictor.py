"""Predicts labels or texts with a model at a host that speaks the OpenAI protocol.

A copy of this module travels with the model. It stands alone: it imports nothing of this software.

The settings: `base_url`, `model`, `chat` (the model takes messages; otherwise it continues a text),
`key_name` (the environment variable with the API key; with `_FILE` appended, the variable that
names a file with the key), `needs_key`, `labels` as they appear in the training data, `stop`,
`system_message`, `alternatives` (log-probabilities per token), `token_limit_field`,
`extra_headers`, `extra_body`, and `generation`: how the model writes if there are no labels
(`max_tokens`, `stops`, `temperature`, `top_p`, `seed`). The predictor reads the key at every call.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

Line = Mapping[str, Any]
LabelScores = tuple[str, list[float] | None]
"""The text of the predicted label, and the log-probability of each label, None if the host
reports none; a generated text, and None."""

_MAX_CONCURRENT = 8
_MAX_LABEL_TOKENS = 16
"""The first tokens of a label are enough to distinguish it from the others."""
_TIMEOUT_S, _RETRIES = 60.0, 5
_SECONDS_PER_TOKEN = 0.25
"""How slowly a host may generate, on top of `_TIMEOUT_S`."""
_MAX_STOPS = 4
"""The most stop texts that the protocol allows. The others are cut off here."""


def load(folder: str, settings: Mapping[str, Any]) -> HostedModel:
    """Return the model. Sends no request yet."""
    return HostedModel(settings)


class HostedModel:
    """Asks the host for a label and, if the host reports them, for all log-probabilities.

    Without labels, it asks for a text.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.labels = [str(label) for label in settings["labels"]]
        stop = str(settings["stop"])
        chat_labels = [(label.removesuffix(stop) if stop else label).removeprefix(" ") for label in self.labels]
        self.answer_texts = chat_labels if settings["chat"] else self.labels

    def predict(self, lines: Sequence[Line]) -> list[LabelScores]:
        """Return the predictions in the order of the lines.

        Raises RuntimeError, without the key in its text.
        """
        from openai import OpenAI, OpenAIError

        key = self._key()
        try:
            return self._predictions(OpenAI, key, lines)
        except OpenAIError as error:  # some hosts quote the key that they refuse
            raise RuntimeError(str(error).replace(key, "<key>")) from None

    def _predictions(self, client_type: Any, key: str, lines: Sequence[Line]) -> list[LabelScores]:
        headers = dict(self.settings["extra_headers"])
        with (
            client_type(
                base_url=self.settings["base_url"],
                api_key=key,
                timeout=_TIMEOUT_S,
                max_retries=_RETRIES,
                default_headers=headers,
            ) as client,
            ThreadPoolExecutor(max_workers=_MAX_CONCURRENT) as pool,
        ):
            return list(pool.map(lambda line: self._predict_line(client, line), lines))

    def _key(self) -> str:
        name = str(self.settings["key_name"])
        if value := os.environ.get(name, "").strip():
            return value
        if file := os.environ.get(f"{name}_FILE", "").strip():
            return Path(file).read_text(encoding="utf-8").strip()
        if self.settings["needs_key"]:
            raise RuntimeError(f"the host requires an API key: set {name}, or set {name}_FILE to a file with the key")
        return "no-key"

    def _predict_line(self, client: Any, line: Line) -> LabelScores:
        if not self.labels:
            return self._written(client, line), None
        token_limit = min(_MAX_LABEL_TOKENS, max(len(text.encode()) for text in self.answer_texts))
        alternatives = self.settings["alternatives"]
        logprobs: dict[str, Any] = {"logprobs": alternatives} if alternatives else {}
        if self.settings["chat"] and alternatives:
            logprobs = {"logprobs": True, "top_logprobs": alternatives}
        return self._label_scores(self._choice(client, line, token_limit, {"temperature": 0.0, **logprobs}))

    def _written(self, client: Any, line: Line) -> str:
        """Return a generated text. It ends before the first stop text even if the host went on."""
        generation = self.settings.get("generation")
        if generation is None:
            raise RuntimeError("this model was kept by a version that could not generate: run the sweep again")
        max_tokens, stops = int(generation["max_tokens"]), list(generation["stops"])
        fields: dict[str, Any] = {"temperature": float(generation["temperature"])}
        fields["timeout"] = _TIMEOUT_S + _SECONDS_PER_TOKEN * max_tokens
        if fields["temperature"] > 0:
            fields |= {"top_p": generation["top_p"]} if generation["top_p"] < 1 else {}
            fields["seed"] = generation["seed"]
        fields |= {"stop": stops[:_MAX_STOPS]} if stops else {}
        choice = self._choice(client, line, max_tokens, fields)
        text = _content(choice.get("message") or {}) if self.settings["chat"] else str(choice.get("text") or "")
        ends = [end for stop in stops if (end := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text

    def _choice(self, client: Any, line: Line, max_tokens: int, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the only choice of the host's answer."""
        extra = {"extra_body": self.settings["extra_body"]} if self.settings["extra_body"] else {}
        request: dict[str, Any] = {"model": self.settings["model"], **fields, **extra}
        if self.settings["chat"]:
            tools = {"tools": line["tools"]} if line.get("tools") else {}
            request |= {"messages": self._messages(line), self.settings["token_limit_field"]: max_tokens, **tools}
            response = client.chat.completions.create(**request).to_dict()
        else:
            request |= {"prompt": self._prompt(line), "max_tokens": max_tokens}
            response = client.completions.create(**request).to_dict()
        choices = response.get("choices") or []
        if not choices:
            raise RuntimeError(f"{self.settings['model']} returned no answer")
        choice: Mapping[str, Any] = choices[0]
        return choice

    def _prompt(self, line: Line) -> str:
        if "prompt" not in line:
            raise RuntimeError(f"{self.settings['model']} continues a text, but the line has messages")
        return str(line["prompt"])

    def _messages(self, line: Line) -> list[dict[str, Any]]:
        if "messages" in line:
            messages = [_for_host(message) for message in line["messages"]]
            return messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages
        system = self.settings["system_message"]
        system_messages = [{"role": "system", "content": system}] if system else []
        return [*system_messages, {"role": "user", "content": str(line["prompt"])}]

    def _label_scores(self, choice: Mapping[str, Any]) -> LabelScores:
        """Return the label that the host chose.

        A text that is not a label is returned as it is: a wrong answer.
        """
        is_chat = self.settings["chat"]
        logprobs = (choice.get("logprobs") or {}) if self.settings["alternatives"] else {}
        tokens = (logprobs.get("content") or []) if is_chat else _completion_tokens(logprobs)
        scores = _label_logprobs(self.answer_texts, tokens)
        if scores is not None:
            return self.labels[scores.index(max(scores))], scores
        text = (choice.get("message") or {}).get("content") if is_chat else choice.get("text")
        text = str(text or "")
        for label, answer_text in zip(self.labels, self.answer_texts, strict=True):
            if answer_text.strip() == text.strip():
                return label, None
        return text, None


def _for_host(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message without its weight, and without an empty content beside its calls."""
    has_no_text = bool(message.get("tool_calls")) and not message.get("content")
    return {key: value for key, value in message.items() if key != "weight" and not (has_no_text and key == "content")}


def _content(message: Mapping[str, Any]) -> str:
    """Return the text of a message; without one, that of its refusal or of its calls of tools."""
    if text := message.get("content") or message.get("refusal"):
        return str(text)
    calls = [call.get("function") for call in message.get("tool_calls") or ()]
    return json.dumps(calls, ensure_ascii=False) if calls else ""


def _completion_tokens(logprobs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Convert log-probabilities of the completions API to the format of the chat API."""
    tokens, values = logprobs.get("tokens") or [], logprobs.get("token_logprobs") or []
    alternatives = logprobs.get("top_logprobs") or [{}] * len(tokens)
    return [
        {
            "token": token,
            "logprob": value,
            "top_logprobs": [{"token": text, "logprob": logprob} for text, logprob in (others or {}).items()],
        }
        for token, value, others in zip(tokens, values, alternatives, strict=False)
        if value is not None
    ]


def _label_logprobs(labels: Sequence[str], tokens: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """Return a log-probability for each label, or None if the tokens match no label.

    The function follows the answer token by token while at least two labels can still follow. Each
    alternative token adds its probability, in equal parts, to the labels that it can lead to. A
    label without any probability gets the lowest log-probability in the answer.
    """
    stripped = [label.strip() for label in labels]
    mass, path, logprob, lowest = [0.0] * len(stripped), "", 0.0, 0.0
    for token in tokens:
        alternatives = {other["token"]: other["logprob"] for other in token.get("top_logprobs") or ()}
        for text, value in alternatives.items():
            lowest = min(lowest, logprob + value)
            if text != token["token"]:
                _add_probability(mass, stripped, path + text, math.exp(logprob + value))
        path, logprob = path + token["token"], logprob + token["logprob"]
        lowest = min(lowest, logprob)
        if sum(_can_lead_to(path, label) for label in stripped) < 2:
            break
    exact = [n for n, label in enumerate(stripped) if label == path.strip()]
    if exact:
        mass[exact[0]] += math.exp(logprob)
    else:
        _add_probability(mass, stripped, path, math.exp(logprob))
    if not any(mass):
        return None
    return [min(0.0, math.log(probability)) if probability > 0 else lowest for probability in mass]


def _can_lead_to(path: str, label: str) -> bool:
    start = path.lstrip()
    return label.startswith(start) or start.rstrip() == label


def _add_probability(mass: list[float], labels: Sequence[str], path: str, probability: float) -> None:
    """Divide a probability among the labels that `path` can lead to.

    Whitespace alone leads to none.
    """
    reachable = [n for n, label in enumerate(labels) if _can_lead_to(path, label)] if path.strip() else []
    for n in reachable:
        mass[n] += probability / len(reachable)
