"""Turn pydantic's validation errors into problems: line, key as written, nearest valid name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sweeps.errors import Problem, suggestion
from sweeps.spec.yaml_source import Document, KeyPath

_TYPE_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "tuple": "a list",
    "list": "a list",
    "dict": "keys with values",
    "mapping": "keys with values",
    "model": "keys with values",
    "finite": "a finite number",
}
_BOUNDS = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
_BOUND_WORDS = {"gt": "above", "ge": "of at least", "lt": "below", "le": "of at most"}


def validation_problems(
    error: ValidationError, document: Document, model: type[BaseModel], prefix: KeyPath = ()
) -> Iterable[Problem]:
    """Yield one problem per mistake.

    For a key of several types pydantic reports each type; they become one problem.

    `model` is the model that pydantic applied to the document, or to the section at `prefix`.
    """
    errors_at: dict[KeyPath, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        errors_at.setdefault(_written_path(document.value, prefix, tuple(details["loc"])), []).append(details)
    for location, errors in errors_at.items():
        yield _problem(location, errors, document, model)


def _problem(location: KeyPath, errors: Sequence[ErrorDetails], document: Document, model: type[BaseModel]) -> Problem:
    first, key = errors[0], str(location[-1]) if location else ""
    place, dotted = document.place(location), ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        return Problem(place, f"unknown key `{dotted}`", suggestion(key, _fields_at(model, tuple(first["loc"])[:-1])))
    if first["type"] == "missing":
        return Problem(place, f"`{dotted}` is missing", f"add `{key}:`; `sweep init` writes an example")
    if first["type"] == "literal_error":
        expected = first.get("ctx", {}).get("expected", "")
        options = [quoted.strip("'") for quoted in re.findall(r"'[^']*'", expected)]
        return Problem(place, f"`{dotted}` cannot be {first['input']!r}", suggestion(str(first["input"]), options))
    if expected_values := list(dict.fromkeys(filter(None, map(_expected_value, errors)))):
        return Problem(place, f"`{dotted}` cannot be {first['input']!r}", f"write {' or '.join(expected_values)}")
    message = first["msg"].removeprefix("Value error, ")
    return Problem(place, f"`{dotted}`: {message[:1].lower()}{message[1:]}", f"the value is {first['input']!r}")


def _expected_value(error: ErrorDetails) -> str:
    """Describe the value that pydantic expected; empty where pydantic's own message is better."""
    kind = error["type"]
    if name := _BOUNDS.get(kind):
        return f"a number {_BOUND_WORDS[name]} {error['ctx'][name]:g}"
    if kind == "too_short":
        return f"at least {error['ctx']['min_length']} of them"
    return _TYPE_NAMES.get(kind.split("_")[0], "") if kind not in ("value_error", "assertion_error") else ""


def _written_path(value: Any, prefix: KeyPath, location: KeyPath) -> KeyPath:
    """Return the part of pydantic's location that the file has.

    pydantic also puts an index for a single objective and the names of types into its location.
    """
    path: list[str | int] = list(prefix)
    for part in prefix:
        value = _item(value, part)
    for part in location:
        if isinstance(part, int) and not isinstance(value, list):
            continue
        if not isinstance(value, dict | list) or (isinstance(value, list) and not isinstance(part, int)):
            break
        value = _item(value, part)
        path.append(part)
    return tuple(path)


def _item(value: Any, part: str | int) -> Any:
    """Return the item of a mapping or a list; None if there is none."""
    if isinstance(value, dict):
        return value.get(part)
    return value[part] if isinstance(value, list) and isinstance(part, int) and part < len(value) else None


def _fields_at(model: type[BaseModel], location: KeyPath) -> list[str]:
    """Return the field names of the nested model at `location`."""
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        if field is None:
            return []
        nested = list(_models_in(field.annotation))
        if not nested:
            return []
        model = nested[0]
    return list(model.model_fields)


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def file_order(problem: Problem) -> tuple[str, int]:
    """Return the sort key that puts problems in the order of the file."""
    name, _, line = problem.place.rpartition(":")
    return (name, int(line)) if line.isdigit() else (problem.place, 0)
