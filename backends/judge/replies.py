"""Reads the judge's replies: one JSON object with a grade, or with the better answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

CONTENT_FILTER = "content_filter"
"""The error code of a host (Azure) that rejects a text, and the finish reason of a reply that it
cuts off."""

_DECODER = json.JSONDecoder()
_WHOLE_NUMBER = re.compile(r"[+-]?\d+(\.0+)?")
_PREFERENCES = {"a": 1, "b": -1, "tie": 0}


def grade_in(reply: str, low: int, high: int) -> int | None:
    """Return the grade in a reply; None if it has none, several, or one outside the scale."""
    grades = {_whole_number(found["grade"]) for found in _objects(reply) if "grade" in found}
    grade = grades.pop() if len(grades) == 1 else None
    return grade if grade is not None and low <= grade <= high else None


def preference_in(reply: str) -> int | None:
    """Return 1 if the reply prefers A, -1 for B, 0 for a tie; None if it says nothing or both."""
    values = {str(found["better"]).strip().lower() for found in _objects(reply) if "better" in found}
    return _PREFERENCES.get(values.pop()) if len(values) == 1 else None


def _whole_number(value: Any) -> int | None:
    if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if value == value // 1 else None


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects in a text, which may stand between other words or in a code fence."""
    position = text.find("{")
    while position >= 0:
        try:
            value, end = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError):
            end = position + 1
        else:
            yield value
        position = text.find("{", end)
