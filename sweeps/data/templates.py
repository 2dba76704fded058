"""Templates over the columns of a record: `{premise}`, `{instances.0.input}`, `{{` for a brace."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

from sweeps.data.findings import nearest_hint
from sweeps.data.readers.record import RepeatedColumn


class FieldError(Exception):
    """A record has no text for a field of a template.

    `missing` is true if the record does not have the field at all.
    """

    def __init__(self, field: str, message: str, hint: str = "", *, missing: bool = False) -> None:
        super().__init__(message)
        self.field = field
        self.message = message
        self.hint = hint
        self.missing = missing


@dataclass(frozen=True)
class Template:
    """A parsed template: its `fields` in order, and the literal `tail` after the last of them."""

    text: str
    fields: tuple[str, ...]
    tail: str
    positional: str
    """The same text with numbered fields, for `str.format`."""

    @classmethod
    def parse(cls, text: str) -> Template:
        """Parse a template of literal text and fields. Raises ValueError for anything else."""
        fields: list[str] = []
        pieces: list[str] = []
        tail = ""
        try:
            parsed = list(Formatter().parse(text))
        except ValueError as problem:
            raise ValueError(f"{problem}; write a column as {{name}} and a brace as {{{{ or }}}}") from None
        for literal, field, format_spec, conversion in parsed:
            tail += literal
            pieces.append(_escaped(literal))
            if field is None:
                continue
            if not field.strip():
                raise ValueError("write the name of a column between the braces: {name}")
            if format_spec or conversion:
                raise ValueError(f"{{{field}}} may not have a format or a conversion; write only the column's name")
            pieces.append(f"{{{len(fields)}}}")
            fields.append(field)
            tail = ""
        if not fields:
            raise ValueError("the template names no {column}, so it would be the same for every example")
        return cls(text, tuple(fields), tail, "".join(pieces))

    def values(self, record: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the texts of the fields in order.

        Raises FieldError if a field is missing or not text.
        """
        return tuple([_text(record, field) for field in self.fields])

    def fill(self, values: Sequence[str]) -> str:
        """Return the text with these values in place of the fields."""
        return self.positional.format(*values)


def optional_text(record: Mapping[str, Any], field: str) -> str:
    """Return the text of a field, empty if it is null.

    Raises FieldError if the record does not have it, or if it is not text.
    """
    return "" if _value(record, field) is None else _text(record, field)


def _text(record: Mapping[str, Any], field: str) -> str:
    value = _value(record, field)
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if value is None:
        raise FieldError(field, f"the field {field!r} is null")
    if isinstance(value, RepeatedColumn):
        raise FieldError(field, str(value), "rename one of them in the header")
    sized = value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    keys = [str(key) for key in sized]
    message = f"the field {field!r} is a {_KINDS.get(type(value), 'value')}, not text"
    raise FieldError(field, message, nearest_hint("", keys, f"{field}."))


def _value(record: Mapping[str, Any], field: str) -> Any:
    value = record.get(field, record)  # the record itself stands for a missing value
    return _follow_path(record, field) if value is record else value


_KINDS: Mapping[type, str] = {dict: "mapping", list: "list"}


def _follow_path(record: Mapping[str, Any], field: str) -> Any:
    """Follow a dotted path. The caller has tried a column whose own name has the dots."""
    value: Any = record
    steps = field.split(".")
    for number, step in enumerate(steps):
        prefix = ".".join(steps[:number]) + "." if number else ""
        if isinstance(value, Mapping):
            if step not in value:
                hint = nearest_hint(step, [str(key) for key in value], prefix)
                raise FieldError(field, f"the field {field!r} is missing", hint, missing=True)
            value = value[step]
        elif isinstance(value, list):
            if not step.isdecimal() or int(step) >= len(value):
                hint = f"{prefix[:-1]!r} is a list of {len(value)}; positions count from 0"
                raise FieldError(field, f"the field {field!r} is missing", hint, missing=True)
            value = value[int(step)]
        else:
            hint = f"{prefix[:-1]!r} is a single value"
            raise FieldError(field, f"the field {field!r} is missing", hint, missing=True)
    return value


def _escaped(literal: str) -> str:
    return literal.replace("{", "{{").replace("}", "}}")
