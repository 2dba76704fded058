"""Regular expressions that a user writes, with a time limit for each text.

The module `regex` matches: its syntax includes that of `re`, and it can stop a pattern that
backtracks without end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from backends.metrics.failures import user_error

REGEX = {"regex": "pip install regex"}

MATCH_TIMEOUT_S = 10.0
"""A pattern that needs longer for one text is an error: it backtracks without end."""


def compiled(pattern: str, *, ignore_case: bool = False) -> Any:
    """Return the compiled pattern. Raises ValueError if it is no regular expression."""
    import regex

    try:
        return regex.compile(pattern, regex.IGNORECASE if ignore_case else 0)
    except regex.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None


def matches(pattern: Any, text: str) -> Iterator[Any]:
    """Yield the matches of a compiled pattern. Raises BackendError (user) if it takes too long."""
    try:
        yield from pattern.finditer(text, timeout=MATCH_TIMEOUT_S)
    except TimeoutError:
        raise user_error(
            f"the pattern {pattern.pattern!r} needs more than {MATCH_TIMEOUT_S:g} s for one text",
            "Simplify it: avoid a repetition inside a repetition.",
        ) from None
