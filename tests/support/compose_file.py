"""Reads our Compose file as `docker compose` does: variables, defaults, and the order of start."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

_VARIABLE = re.compile(r"\$(?:(\$)|\{([A-Za-z_][A-Za-z0-9_]*)(?:(:-|:\?)([^}]*))?\})")


class UnsetError(Exception):
    """A required variable is empty or not set. The message comes from the file."""


def load(file: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the file with its variables filled in.

    Raises UnsetError if a required variable has no value, and ValueError for a form of a variable
    that this module does not know.
    """
    compose: dict[str, Any] = _filled(yaml.safe_load(file.read_text(encoding="utf-8")), variables)
    return compose


def used_variables(file: Path) -> dict[str, str | None]:
    """Return the variables of the file with their defaults (`:-`), or None if required (`:?`)."""
    variables: dict[str, str | None] = {}
    for _, name, form, rest in _VARIABLE.findall(file.read_text(encoding="utf-8")):
        if name:
            variables[name] = None if form == ":?" else rest
    return variables


def waits_for(service: Mapping[str, Any]) -> dict[str, str]:
    """Return the services that a service waits for, with the condition for each."""
    return {name: dependency["condition"] for name, dependency in service.get("depends_on", {}).items()}


def in_order(services: Mapping[str, Any]) -> list[str]:
    """Return the services so that each follows those it waits for, otherwise in the file's order.

    Raises ValueError if services wait for each other.
    """
    ordered: list[str] = []
    remaining = list(services)
    while remaining:
        ready = next((name for name in remaining if set(waits_for(services[name])) <= set(ordered)), None)
        if ready is None:
            raise ValueError(f"these services wait for each other: {remaining}")
        ordered.append(ready)
        remaining.remove(ready)
    return ordered


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, variables) for item in value]
    if not isinstance(value, str):
        return value
    if "$" in _VARIABLE.sub("", value):
        raise ValueError(f"unknown form of a variable: {value}")

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
