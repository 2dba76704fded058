"""Reads a Compose file as `docker compose` does, as far as ours goes: variables, defaults, what must be set, order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

_VARIABLE = re.compile(r"\$(?:(\$)|\{([A-Za-z_][A-Za-z0-9_]*)(?:(:-|:\?)([^}]*))?\})")


class UnsetError(Exception):
    """A variable that the file insists on is empty or not set; the text is the file's own."""


def load(file: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the file with its variables filled in. Raises UnsetError, and ValueError for a form it does not know."""
    read: dict[str, Any] = _filled(yaml.safe_load(file.read_text(encoding="utf-8")), variables)
    return read


def used_variables(file: Path) -> dict[str, str | None]:
    """Each variable of the file, and what follows it: its default (`:-`), or None where it must be set (`:?`)."""
    found: dict[str, str | None] = {}
    for _, name, form, rest in _VARIABLE.findall(file.read_text(encoding="utf-8")):
        if name:
            found[name] = None if form == ":?" else rest
    return found


def waits_for(service: Mapping[str, Any]) -> dict[str, str]:
    """The services that must come first, each with the condition."""
    return {name: each["condition"] for name, each in service.get("depends_on", {}).items()}


def in_order(services: Mapping[str, Any]) -> list[str]:
    """Each service after those it waits for, else as in the file. Raises ValueError where they wait in a circle."""
    ordered: list[str] = []
    left = list(services)
    while left:
        ready = next((name for name in left if set(waits_for(services[name])) <= set(ordered)), None)
        if ready is None:
            raise ValueError(f"these wait for each other: {left}")
        ordered.append(ready)
        left.remove(ready)
    return ordered


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, variables) for each in value]
    if not isinstance(value, str):
        return value
    if "$" in _VARIABLE.sub("", value):
        raise ValueError(f"a form of variable that is not known here: {value}")

    def fill(match: re.Match[str]) -> str:
        dollar, name, form, rest = match.groups()
        if dollar:
            return "$"
        given = variables.get(name, "")
        if given or form is None:
            return given
        if form == ":?":
            raise UnsetError(rest)
        return str(rest)

    return _VARIABLE.sub(fill, value)
