"""How the columns of a table become the prompts of a registered model, and what its labels are called."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.contract import Dataset
from sweeps.data.templates import Template


@dataclass(frozen=True)
class Card:
    """`prompt` is the template with numbered places for the values of `fields`, or None where the model takes
    conversations, in a column `messages`. `names` are the labels as people say them, in the order of training."""

    fields: tuple[str, ...]
    prompt: str | None
    separator: str
    names: tuple[str, ...]

    @classmethod
    def of(cls, dataset: Dataset, prompt: str | None, separator: str) -> Card:
        """Return the card of a model that was trained on this data; `prompt` as in `PreparedData`."""
        names = tuple(name(each, dataset.stop) for each in dataset.labels)
        if len(set(names)) < len(names):  # they differ in white space only
            names = dataset.labels
        if prompt is None:
            return cls((), None, "", names)
        template = Template.parse(prompt)
        return cls(template.fields, template.positional, separator, names)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a table needs."""
        return tuple(dict.fromkeys(self.fields)) if self.prompt is not None else ("messages",)

    def row(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns that a line of a prepared data file was made of."""
        if self.prompt is None:
            messages = list(line["messages"])
            return {"messages": messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages}
        return dict(zip(self.fields, line["segments"], strict=True))


def name(label: str, stop: str) -> str:
    """Return a label as people say it: without the stop sequence and the space that begins a completion."""
    return (label.removesuffix(stop) if stop else label).strip()


def read(folder: Path) -> Card:
    """Read the card of a saved model. Raises OSError, KeyError or ValueError where it is none of ours."""
    value = json.loads((folder / "artifacts" / "card.json").read_text(encoding="utf-8"))
    fields: Sequence[str] = value["fields"]
    return Card(tuple(fields), value["prompt"], value["separator"], tuple(value["names"]))
