"""Placeholders such as `{learning_rate}` in command lines, configuration values and patterns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from backends.contract import Scalar

BUILT_IN: Mapping[str, str] = {
    "output": "the folder in which the program writes",
    "folder": "the folder of the trial, around {output}",
    "log": "the file with the program's output",
    "config": "the configuration file of the trial",
    "checkpoint": "the newest checkpoint, in `resume`",
    "seed": "the seed of the trial",
    "key": "the key of the trial",
    "model": "the base model",
    "train_file": "the prepared training examples",
    "valid_file": "the prepared validation examples",
    "metrics_file": "a file for JSON lines with the program's numbers",
    "cpus": "the CPU cores of the trial",
    "gpus": "the GPUs of the trial",
    "port": "a free port for processes that train together",
    "processes": "the processes on each machine: one for each GPU",
    "nodes": "the machines of the trial",
    "node": "the number of this machine, from 0 on",
    "address": "the address of the first machine of the trial",
}
"""What finesweep fills in, beside the hyperparameters, and what it means."""

NAME = r"[A-Za-z_][A-Za-z0-9_]*"

_PLACEHOLDER = re.compile(rf"\{{\{{(?P<literal>{NAME})\}}\}}|(?<!\$)\{{(?P<name>{NAME})\}}")
"""`{name}`. `${NAME}` is a variable of the shell, and `{{name}}` stands for the text `{name}`."""


def is_placeholder_name(name: str) -> bool:
    """Return whether a placeholder can have this name."""
    return re.fullmatch(NAME, name) is not None


def placeholders_in(value: Any) -> Iterator[str]:
    """Yield the names of the placeholders in a text, or in all texts of a JSON value."""
    if isinstance(value, str):
        yield from (found["name"] for found in _PLACEHOLDER.finditer(value) if found["name"])
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from placeholders_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from placeholders_in(item)


def filled(text: str, values: Mapping[str, Scalar]) -> str | None:
    """Return the text with its placeholders replaced, or None if a value is absent."""
    if any(name not in values for name in placeholders_in(text)):
        return None
    return _PLACEHOLDER.sub(lambda found: as_text(values[found["name"]]) if found["name"] else found[0][1:-1], text)


def filled_value(value: Any, values: Mapping[str, Scalar]) -> Any:
    """Return a JSON value with its placeholders replaced; None if a value is absent.

    A text that is one placeholder becomes a value of its type. An item or an entry that lacks a
    value is left out.
    """
    if isinstance(value, str):
        whole = _PLACEHOLDER.fullmatch(value)
        return values.get(whole["name"]) if whole and whole["name"] else filled(value, values)
    if isinstance(value, Mapping):
        entries = {key: filled_value(item, values) for key, item in value.items()}
        return {key: item for key, item in entries.items() if item is not None or value[key] is None}
    if isinstance(value, list | tuple):
        items = [(item, filled_value(item, values)) for item in value]
        return [new for written, new in items if new is not None or written is None]
    return value


def filled_arguments(arguments: Sequence[str], values: Mapping[str, Scalar]) -> list[str]:
    """Return the arguments with their placeholders replaced.

    An argument that lacks a value is left out, with the option before it (`--flag {x}`).
    """
    result: list[str] = []
    for argument in arguments:
        text = filled(argument, values)
        if text is not None:
            result.append(text)
        elif result and argument.startswith("{") and _is_option(result[-1]):
            result.pop()
    return result


def as_text(value: Scalar) -> str:
    """Return a value as programs read it: numbers in full precision, `true` and `false`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)


def _is_option(argument: str) -> bool:
    return argument.startswith("-") and len(argument) > 1 and "=" not in argument
