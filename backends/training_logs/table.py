"""A history as it was written, rows of cells of which nobody has said what they mean; and the curve it becomes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from backends.training_logs.learning_curve import Ended, LearningCurve

MISSING = frozenset({"", "-", "none", "null", "na", "n/a", "<na>"})
"""Words in a cell for a value that was not measured. `nan` is none of them: it was measured, and is not finite."""

_PLAIN_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?(nan|inf|infinity)", re.IGNORECASE)

HINT = "a history has columns as train_loss, valid_loss, valid_accuracy, and epoch or step; docs/guide/fit.md lists all"


class TrainingLogError(Exception):
    """A training log cannot be read: the place in it, what is wrong there, and what to do about it."""

    def __init__(self, place: str, message: str, hint: str = HINT) -> None:
        super().__init__(f"{place}: {message}")
        self.place = place
        self.message = message
        self.hint = hint


@dataclass(frozen=True)
class Context:
    """What a history does not say of itself, as far as somebody else knows it.

    `metric` names the metric to judge by. `train_examples` and `valid_examples` are the sizes of the two sets,
    `classes` is the number of labels, and the baselines are the validation loss and metric before training.
    """

    metric: str | None = None
    train_examples: int | None = None
    valid_examples: int | None = None
    classes: int | None = None
    baseline_loss: float | None = None
    baseline_metric: float | None = None


@dataclass(frozen=True)
class Row:
    """One row with the place where it stands. A cell is a text or a JSON value."""

    place: str
    cells: Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A history's rows, in the order in which they were written. `hosted` is the result file of a fine-tuning service.

    `scope` is the scope of the recommendation catalogue that fits, where one does.
    """

    name: str
    format: str
    rows: tuple[Row, ...]
    ended: Ended = "complete"
    scope: str | None = None
    hosted: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class NamedCurve:
    """A learning curve with where it comes from.

    `axis` says what the points' `epoch` counts: steps, where the epochs cannot be known. `notes` say what was taken for
    granted or left out, `ignored` are the columns that nothing was read from.
    """

    name: str
    format: str
    curve: LearningCurve
    axis: Literal["epoch", "step"] = "epoch"
    notes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    scope: str | None = None


def number(cell: Any) -> float | None:
    """Return a cell's number, NaN and infinities as they are; None where it is missing.

    Raises ValueError for what is no number.
    """
    if cell is None:
        return None
    if isinstance(cell, str):
        text = cell.strip()
        if text.lower() in MISSING:
            return None
        if _PLAIN_NUMBER.fullmatch(text) is None:
            raise ValueError(text)
        return float(text)
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        raise ValueError(cell)
    try:
        return float(cell)
    except OverflowError:
        raise ValueError("a number of hundreds of digits") from None
