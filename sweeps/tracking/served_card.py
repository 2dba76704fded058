"""The card of a registered model: how columns become prompts, and what its labels are called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from backends import codec
from backends.contract import Dataset
from sweeps.data.templates import FieldError, Template

FILE_NAME = "card.json"


@dataclass(frozen=True)
class ServedCard:
    """How a table's columns become a registered model's prompts, and what its labels are called.

    `prompt` is the template with numbered places for the values of `fields`. It is None if the
    model takes conversations, in a column `messages`. `label_names` are the labels without white
    space and stop sequence, in the order of training; see `label_name`.

    A row has the columns of a table. A line is a line of the model's training data, without the
    completion.
    """

    fields: tuple[str, ...]
    prompt: str | None
    separator: str
    label_names: Annotated[tuple[str, ...], Field(alias="names")]

    @classmethod
    def for_dataset(cls, dataset: Dataset, prompt: str | None, separator: str) -> ServedCard:
        """Return the card of a model that was trained on this data.

        `prompt` and `separator` are those of `PreparedData`.
        """
        return cls.for_labels(dataset.labels, dataset.stop, prompt, separator)

    @classmethod
    def for_labels(cls, labels: tuple[str, ...], stop: str, prompt: str | None, separator: str) -> ServedCard:
        """Return the card of a model that chooses among these labels of its training data."""
        label_names = tuple(label_name(label, stop) for label in labels)
        if len(set(label_names)) < len(label_names):  # the labels differ in white space only
            label_names = labels
        if prompt is None:
            return cls((), None, "", label_names)
        template = Template.parse(prompt)
        return cls(template.fields, template.positional, separator, label_names)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a table needs."""
        return tuple(dict.fromkeys(self.fields)) if self.prompt is not None else ("messages",)

    def row_of_line(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row that a line of a prepared data file was made from."""
        if self.prompt is None:
            messages = [{key: message[key] for key in ("role", "content")} for message in line["messages"]]
            return {"messages": messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages}
        row = dict(zip(self.fields, line["segments"], strict=True))
        # A segment lacks a separator that ends the last text.
        if self.line_of_row(row)["prompt"] != line["prompt"]:
            row[self.fields[-1]] += self.separator
        return row

    def row_of_record(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row of a record: its columns as texts, or its conversation without the answer.

        Raises FieldError if the record lacks a column, or if a column is not text.
        """
        if self.prompt is None:
            return {"messages": _conversation(record)}
        values = Template("", self.fields, "", self.prompt).values(record)
        return dict(zip(self.fields, values, strict=True))

    def line_of_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the line of a row: exactly the input that the model was trained on.

        `served_model` repeats this code, because it runs where this package is not installed.
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
        hint = 'write [{"role": ..., "content": ...}]'
        raise FieldError("messages", "the field 'messages' is not a list of messages", hint)
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            hint = 'write {"role": ..., "content": ...}'
            raise FieldError("messages", f"messages.{number} has no role or no content that is text", hint)
    conversation = [{"role": message["role"], "content": message["content"]} for message in messages]
    return conversation[:-1] if conversation[-1]["role"] == "assistant" and len(conversation) > 1 else conversation


def label_name(label: str, stop: str) -> str:
    """Return a label without its stop sequence and without the space that begins a completion."""
    return (label.removesuffix(stop) if stop else label).strip()


def read(folder: Path) -> ServedCard:
    """Read the card of a saved model.

    Raises OSError or ValueError if the model was not saved by this package.
    """
    value = json.loads((folder / "artifacts" / FILE_NAME).read_text(encoding="utf-8"))
    return codec.from_json(ServedCard, value)
