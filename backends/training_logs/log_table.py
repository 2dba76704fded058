"""A training log as rows of cells, before anybody interprets its columns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backends.training_logs.learning_curve import RunEnd

MISSING = frozenset({"", "-", "none", "null", "na", "n/a", "<na>", "no log"})
"""Cell texts for a value that was not measured. `nan` is not among them: it is a measured value
that is not finite."""

_PLAIN_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?(nan|inf|infinity)", re.IGNORECASE)


@dataclass(frozen=True)
class LogRow:
    """One row and its place in the log, for messages. A cell is a text or a JSON value."""

    place: str
    cells: Mapping[str, Any]


@dataclass(frozen=True)
class LogTable:
    """The rows of a log, in the order in which they were written.

    `hosted` is true for a file that a hosted fine-tuning service made. `scope` is the scope of the
    recommendation catalogue that fits the run, None if none does. `notes` list the reader's
    assumptions so far, and `left_out` what it left out.
    """

    name: str
    format: str
    rows: tuple[LogRow, ...]
    ended: RunEnd = "complete"
    scope: str | None = None
    hosted: bool = False
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def parse_number(cell: Any) -> float | None:
    """Return the number in a cell, or None if the value is missing.

    The number may be NaN or infinite.

    Raises ValueError for a cell that is neither.
    """
    if cell is None:
        return None
    if isinstance(cell, str):
        text = cell.strip()
        if text.lower() in MISSING:
            return None
        if text.endswith("%"):
            share = parse_number(text[:-1])
            return None if share is None else share / 100
        if _PLAIN_NUMBER.fullmatch(text) is None:
            raise ValueError(text)
        return float(text)
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        raise ValueError(cell)
    try:
        return float(cell)
    except OverflowError:
        raise ValueError("a number of hundreds of digits") from None
