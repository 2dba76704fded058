"""Remove a secret from texts and from values that hold texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, cast

SHORTEST_SECRET = 8

REPLACEMENT = "<key>"

_Value = TypeVar("_Value")


def redacted(value: _Value, secret: str) -> _Value:
    """Return a text, a JSON value or a dataclass with the secret replaced in each of its texts.

    A text on its own loses every secret. Inside other values, a secret of fewer than eight
    characters stays, because it would match almost everywhere.
    """
    result: Any = value
    if isinstance(result, str):
        result = result.replace(secret, REPLACEMENT) if secret else result
    elif len(secret) < SHORTEST_SECRET:
        pass
    elif isinstance(result, bytes):
        result = result.replace(secret.encode(), REPLACEMENT.encode())
    elif isinstance(result, Mapping):
        result = {redacted(name, secret): redacted(inner, secret) for name, inner in result.items()}
    elif isinstance(result, list | tuple):
        result = type(result)(redacted(inner, secret) for inner in result)
    elif dataclasses.is_dataclass(result) and not isinstance(result, type):
        fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
        result = dataclasses.replace(result, **redacted(fields, secret))
    return cast(_Value, result)
