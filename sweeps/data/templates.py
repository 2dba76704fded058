"""Templates over the columns of a record: `{premise}`, `{instances.0.input}`, and `{{` for a brace."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

from sweeps.data.findings import nearest


class FieldError(Exception):
    """A record does not have what a template asks for. `missing` is true where the field itself is not there."""

    def __init__(self, field: str, message: str, hint: str = "", *, missing: bool = False) -> None:
        super().__init__(message)
        self.field = field
        self.message = message
        self.hint = hint
        self.missing = missing


@dataclass(frozen=True)
class Template:
    """A parsed template: `fields` in the order of the text, `tail` the literal text after the last of them."""

    text: str
    fields: tuple[str, ...]
    tail: str
    positional: str
    """The same text with numbered fields, for `str.format`."""

    @classmethod
    def parse(cls, text: str) -> Template:
        """Parse a template. Raises ValueError, saying what is wrong, for anything but literal text and fields."""
        fields: list[str] = []
        pieces: list[str] = []
        tail = ""
        try:
            parsed = list(Formatter().parse(text))
        except ValueError as broken:
            raise ValueError(f"{broken}: write a column as {{name}} and a brace as {{{{ or }}}}") from None
        for literal, field, format_spec, conversion in parsed:
            tail += literal
            pieces.append(_escaped(literal))
            if field is None:
                continue
            if not field.strip():
                raise ValueError("a field needs a column's name: {name}")
            if format_spec or conversion:
                raise ValueError(f"{{{field}}} may not have a format or a conversion; give only the column's name")
            pieces.append(f"{{{len(fields)}}}")
            fields.append(field)
            tail = ""
        if not fields:
            raise ValueError("there is no {column} in it, so that it would be the same for every example")
        return cls(text, tuple(fields), tail, "".join(pieces))

    def values(self, record: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the fields' texts in order. Raises FieldError where one is missing or not a text."""
        return tuple([_text(record, field) for field in self.fields])

    def fill(self, values: Sequence[str]) -> str:
        """Return the text with these values in the places of the fields."""
        return self.positional.format(*values)


def _text(record: Mapping[str, Any], field: str) -> str:
    value = record.get(field, record)  # the record itself stands for "not there": it is no text
    if type(value) is str:
        return value
    if value is record:
        value = _walk(record, field)
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if value is None:
        raise FieldError(field, f"the field {field!r} is null")
    inside = nearest("", [str(key) for key in (value if isinstance(value, dict) else range(len(value)))], f"{field}.")
    raise FieldError(field, f"the field {field!r} is a {_KINDS.get(type(value), 'value')}, not a text", inside)


_KINDS: Mapping[type, str] = {dict: "mapping", list: "list"}


def _walk(record: Mapping[str, Any], field: str) -> Any:
    """Follow a dotted path. A column whose own name has the dots was looked up before."""
    here: Any = record
    steps = field.split(".")
    for number, step in enumerate(steps):
        prefix = ".".join(steps[:number]) + "." if number else ""
        if isinstance(here, Mapping):
            if step not in here:
                hint = nearest(step, [str(key) for key in here], prefix)
                raise FieldError(field, f"the field {field!r} is missing", hint, missing=True)
            here = here[step]
        elif isinstance(here, list):
            if not step.isdecimal() or int(step) >= len(here):
                hint = f"{prefix[:-1]!r} is a list of {len(here)}, counted from 0"
                raise FieldError(field, f"the field {field!r} is missing", hint, missing=True)
            here = here[int(step)]
        else:
            hint = f"{prefix[:-1]!r} has nothing inside"
            raise FieldError(field, f"the field {field!r} is missing", hint, missing=True)
    return here


def _escaped(literal: str) -> str:
    return literal.replace("{", "{{").replace("}", "}}")
