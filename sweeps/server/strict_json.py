"""JSON as the server accepts it from clients, and as it sends it.

Python's `json` accepts more than the standard allows: NaN, numbers beyond a float, and halves of a
character outside the basic plane ("lone surrogates"). None of these can be stored and printed again
as JSON, so the server refuses them where they enter.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

MAX_DEPTH = 64
"""How deeply arrays and objects may be nested."""

_LARGEST_INTEGER = 2**63 - 1
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class JsonError(ValueError):
    """A text is not JSON that the server accepts.

    `place` names the wrong value, like `task.stop`; it is empty if the text as a whole is wrong.
    """

    def __init__(self, message: str, place: str = "") -> None:
        super().__init__(message)
        self.message, self.place = message, place


def parse(body: bytes) -> Any:
    """Return the value of a JSON text in UTF-8.

    Raises JsonError if it is not JSON, is nested deeper than `MAX_DEPTH`, or has a number or a
    character that cannot be stored.
    """
    try:
        text = body.decode("utf-8-sig")
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_storable_integer)
    except UnicodeDecodeError as error:
        raise JsonError(f"The body is not UTF-8 text: {error.reason} at byte {error.start}.") from error
    except json.JSONDecodeError as error:
        message = "We could not parse the JSON body of your request. The API expects a JSON payload."
        raise JsonError(f"{message} ({error.msg} at character {error.pos})") from error
    except RecursionError as error:
        raise _too_deep() from error
    _check(value)
    return value


def has_lone_surrogate(text: str) -> bool:
    """Return whether a text has half a character, which no encoding of Unicode can store."""
    return not text.isascii() and _LONE_SURROGATE.search(text) is not None


def to_bytes(value: Any) -> bytes:
    """Return a value as JSON in UTF-8, whatever an older version stored in it.

    A lone surrogate becomes U+FFFD, the replacement character. A non-finite number becomes null.
    """
    try:
        return _dump(value).encode()
    except ValueError:  # UnicodeEncodeError is one, too
        return _dump(_printable(value)).encode()


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return _LONE_SURROGATE.sub("\ufffd", value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(item) for item in value]
    return value


def _refuse_constant(name: str) -> float:
    raise JsonError(f"{name} is not JSON. Numbers must be finite.")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise JsonError(f"The number {digits[:40]} is too large.")
    return number


def _storable_integer(digits: str) -> int:
    # first the length: Python refuses to convert thousands of digits
    if len(digits) > 20 or abs(int(digits)) > _LARGEST_INTEGER:
        raise JsonError(f"The number {digits[:40]} is too large.")
    return int(digits)


def _check(value: Any) -> None:
    """Raise JsonError for a text with half a character, and for deep nesting."""
    waiting: list[tuple[Any, tuple[str, ...]]] = [(value, ())]
    while waiting:
        item, path = waiting.pop()
        if isinstance(item, str):
            if has_lone_surrogate(item):
                place = ".".join(path)[:128]
                message = f"{place or 'The body'} has half a character (a lone surrogate, like \\ud800). Remove it."
                raise JsonError(message, place)
            continue
        if not isinstance(item, dict | list):
            continue
        if len(path) >= MAX_DEPTH:
            raise _too_deep()
        if isinstance(item, dict):
            for key, member in item.items():
                if has_lone_surrogate(key):
                    raise JsonError("A name has half a character (a lone surrogate, like \\ud800). Remove it.")
                waiting.append((member, (*path, key)))
        else:
            waiting.extend((member, (*path, str(position))) for position, member in enumerate(item))


def _too_deep() -> JsonError:
    return JsonError(f"The body is nested too deeply; {MAX_DEPTH} levels are allowed.")
