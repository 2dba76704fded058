"""What is wrong in a sweep file, in words that help to mend it: the place, the written key, the nearest valid name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sweeps.errors import Problem, suggestion
from sweeps.spec.yaml_source import Document, KeyPath

_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "tuple": "a list",
    "list": "a list",
    "dict": "keys with values",
    "mapping": "keys with values",
    "model": "keys with values",
}
_BOUNDS = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
_BOUND_WORDS = {"gt": "above", "ge": "of at least", "lt": "below", "le": "of at most"}


def explained(
    error: ValidationError, document: Document, model: type[BaseModel], prefix: KeyPath = ()
) -> Iterable[Problem]:
    """Return what pydantic found, each mistake once: it tells for each type of a key that the value is not of it.

    `model` is what the document was read as, or, where `prefix` says so, what a section of it was read as.
    """
    found: dict[KeyPath, list[ErrorDetails]] = {}
    for each in error.errors(include_url=False):
        found.setdefault(_written_path(document.value, prefix, tuple(each["loc"])), []).append(each)
    for location, errors in found.items():
        yield _problem(location, errors, document, model)


def _problem(location: KeyPath, errors: Sequence[ErrorDetails], document: Document, model: type[BaseModel]) -> Problem:
    each, key = errors[0], str(location[-1]) if location else ""
    place, dotted = document.place(location), ".".join(str(part) for part in location)
    if each["type"] == "extra_forbidden":
        return Problem(place, f"unknown key `{dotted}`", suggestion(key, _fields_at(model, tuple(each["loc"])[:-1])))
    if each["type"] == "missing":
        return Problem(place, f"`{dotted}` is missing", f"add `{key}:`; `sweep init` writes an example")
    if each["type"] == "literal_error":
        options = [str(each).strip("'") for each in re.findall(r"'[^']*'", each.get("ctx", {}).get("expected", ""))]
        return Problem(place, f"`{dotted}` cannot be {each['input']!r}", suggestion(str(each["input"]), options))
    if wanted := list(dict.fromkeys(filter(None, map(_wanted, errors)))):
        return Problem(place, f"`{dotted}` cannot be {each['input']!r}", f"write {' or '.join(wanted)}")
    message = each["msg"].removeprefix("Value error, ")
    return Problem(place, f"`{dotted}`: {message[:1].lower()}{message[1:]}", f"it is {each['input']!r}")


def _wanted(error: ErrorDetails) -> str:
    """Say in a few words what pydantic wanted to find; empty where its own message must do."""
    kind = error["type"]
    if name := _BOUNDS.get(kind):
        return f"a number {_BOUND_WORDS[name]} {error['ctx'][name]:g}"
    if kind == "too_short":
        return f"at least {error['ctx']['min_length']} of them"
    return _TYPES.get(kind.split("_")[0], "") if kind not in ("value_error", "assertion_error") else ""


def _written_path(value: Any, prefix: KeyPath, location: KeyPath) -> KeyPath:
    """Keep of pydantic's location what the file has: a lone objective has no index, a type is no key."""
    path: list[str | int] = list(prefix)
    for part in prefix:
        value = value.get(part) if isinstance(value, dict) else None
    for part in location:
        if isinstance(part, int) and not isinstance(value, list):
            continue
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part] if part < len(value) else None
        else:
            break
        path.append(part)
    return tuple(path)


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
    for each in get_args(annotation):
        yield from _models_in(each)


def by_line(problem: Problem) -> tuple[str, int]:
    """Return what sorts problems in the order of the file."""
    name, _, line = problem.place.rpartition(":")
    return (name, int(line)) if line.isdigit() else (problem.place, 0)
