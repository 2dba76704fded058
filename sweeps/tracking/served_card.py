"""How the columns of a table become the prompts of a registered model, and what its labels are called."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.contract import Dataset
from sweeps.data.templates import FieldError, Template


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
        return cls.of_labels(dataset.labels, dataset.stop, prompt, separator)

    @classmethod
    def of_labels(cls, labels: tuple[str, ...], stop: str, prompt: str | None, separator: str) -> Card:
        """Return the card of a model that chooses among these labels, as they stand in its training data."""
        names = tuple(name(label, stop) for label in labels)
        if len(set(names)) < len(names):  # they differ in white space only
            names = labels
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
        row = dict(zip(self.fields, line["segments"], strict=True))
        if self.line(row)["prompt"] != line["prompt"]:  # a separator at the end of the last text is not in its segment
            row[self.fields[-1]] += self.separator
        return row

    def values(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns out of a record, as texts, or its conversation.

        Raises FieldError where the record lacks one, or it is no text.
        """
        if self.prompt is None:
            return {"messages": _conversation(record)}
        found = Template("", self.fields, "", self.prompt).values(record)
        return dict(zip(self.fields, found, strict=True))

    def line(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the model was trained to see, as one line of its training data without the completion.

        `served_model` has the same for where this package is not.
        """
        if self.prompt is None:
            return {"messages": row["messages"]}
        values = [str(row[field]) for field in self.fields]
        prompt = self.prompt.format(*values)
        if not prompt.endswith(self.separator):
            prompt += self.separator
        if self.separator and values[-1].endswith(self.separator):
            values[-1] = values[-1].removesuffix(self.separator)
        return {"prompt": prompt, "segments": values}


def _conversation(record: Mapping[str, Any]) -> list[dict[str, str]]:
    messages = record.get("messages")
    if messages is None:
        raise FieldError("messages", "the field 'messages' is missing", missing=True)
    if not isinstance(messages, list) or not messages:
        raise FieldError("messages", "'messages' is not a list of messages", 'write [{"role": ..., "content": ...}]')
    for number, each in enumerate(messages):
        if not isinstance(each, dict) or not all(isinstance(each.get(key), str) for key in ("role", "content")):
            hint = 'write {"role": ..., "content": ...}'
            raise FieldError("messages", f"messages.{number} lacks a role or a content that is a text", hint)
    kept = [{"role": message["role"], "content": message["content"]} for message in messages]
    return kept[:-1] if kept[-1]["role"] == "assistant" and len(kept) > 1 else kept


def name(label: str, stop: str) -> str:
    """Return a label as people say it: without the stop sequence and the space that begins a completion."""
    return (label.removesuffix(stop) if stop else label).strip()


def read(folder: Path) -> Card:
    """Read the card of a saved model. Raises OSError, KeyError or ValueError where it is none of ours."""
    value = json.loads((folder / "artifacts" / "card.json").read_text(encoding="utf-8"))
    fields: Sequence[str] = value["fields"]
    return Card(tuple(fields), value["prompt"], value["separator"], tuple(value["names"]))
