"""The task metrics of one state of a model, with the texts on which they were measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from backends import codec
from backends.contract import GENERATED_SAMPLE, Charged, Event, Generated, GeneratedText, Measured

GENERATED_FILE = "generated.jsonl"
"""The file beside a kept model with all texts that it generated, one `GeneratedText` a line."""

_MAX_SHOWN_CHARACTERS = 2000
"""Longer prompts, references and texts are cut in events, but not in `GENERATED_FILE`."""


@dataclass(frozen=True)
class TaskMeasurement:
    """The task metrics of one state of the model, with the texts on which they were measured.

    `values` are by the names of evaluations (`valid_...`). `usd` is what measuring has cost: None
    if the price is unknown.
    """

    values: Mapping[str, float]
    texts: tuple[GeneratedText, ...]
    usd: float | None = 0.0

    def events(self, measured: Measured, *, is_paid: bool) -> list[Event]:
        """Return the events of an evaluation that found these values besides `measured`.

        The cost is among them if there is a metric that `is_paid`.
        """
        charged = [Charged(self.usd, 0)] if is_paid else []
        shown = Generated(
            measured.step,
            measured.epoch,
            tuple(_cut(text) for text in self.texts[:GENERATED_SAMPLE]),
            examples=len(self.texts),
            truncated=sum(text.truncated for text in self.texts),
        )
        return [*charged, shown, self.added_to(measured)]

    def added_to(self, measured: Measured) -> Measured:
        """Return the evaluation with the task metrics among its values."""
        return replace(measured, values={**measured.values, **self.values})

    def files(self) -> dict[str, str]:
        """Return the content of the files to keep beside the model, by name."""
        lines = (json.dumps(codec.to_json(text), ensure_ascii=False) for text in self.texts)
        return {GENERATED_FILE: "".join(f"{line}\n" for line in lines)}

    def to_json(self) -> dict[str, Any]:
        """Return the measurement as JSON values."""
        return {"values": dict(self.values), "texts": [codec.to_json(text) for text in self.texts]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the measurement that `to_json` wrote. It costs nothing to read it."""
        return cls(value["values"], tuple(codec.from_json(GeneratedText, text) for text in value["texts"]))


def _cut(text: GeneratedText) -> GeneratedText:
    parts: Sequence[str] = (text.prompt, text.reference, text.text)
    prompt, reference, generated = (
        part if len(part) <= _MAX_SHOWN_CHARACTERS else part[: _MAX_SHOWN_CHARACTERS - 1] + "…" for part in parts
    )
    return replace(text, prompt=prompt, reference=reference, text=generated)
