"""Whether a hard case is one: by the oracle, that the loss did what makes the case hard. Used by `screening`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from statistics import median

from benchmarks.fit.course import Course
from benchmarks.fit.records import Record

# Noisy: the validation loss typically jumps by so much of itself from one evaluation to the next.
NOISY = 0.01
EARLIER = 1.08
"""A loss was clearly higher before, or between, at so many times that of the end, or of its minimum."""
BUMP = 1.15
"""A bump at the beginning rises to so many times the base model's loss."""
A_GAP = 1.2
"""Losses are apart at so many times the training loss."""


def _late_drop(record: Record) -> str | None:
    loss = Course(record.oracle).loss
    before = median(loss[len(loss) // 3 : max(len(loss) // 3 + 1, int(0.55 * len(loss)))])
    return None if before >= EARLIER * loss[-1] else "no effect: the loss did not fall at the drop of the rate"


def _bump(record: Record) -> str | None:
    oracle = record.oracle
    early = max(oracle.loss[: max(1, len(oracle.loss) // 4)])
    return None if early >= BUMP * oracle.base_loss else "no effect: no bump at the beginning"


def _double_descent(record: Record) -> str | None:
    loss = Course(record.oracle).loss
    found = any(
        max(loss[at:]) >= EARLIER * min(loss[: at + 1]) and min(loss[: at + 1]) >= loss[-1]
        for at in range(len(loss) - 1)
        if loss[at] == min(loss[: at + 1])
    )
    return None if found else "no effect: the loss did not rise and fall again below"


def _constant_gap(record: Record) -> str | None:
    course = Course(record.oracle)
    ratio = course.loss[-1] / max(course.train_loss[-1], 1e-9)
    return None if ratio >= A_GAP else "no effect: there is no gap"


def _noisy(record: Record) -> str | None:
    shown = [each.valid_loss for each in record.curve.points if each.valid_loss is not None]
    tail = shown[len(shown) // 2 :]
    if len(tail) < 2:
        return "not visible: no validation loss"
    jump = median(abs(one - other) for one, other in pairwise(tail))
    return None if jump >= NOISY * median(tail) else "no effect: the validation loss is smooth"


HARD_CASES: dict[str, Callable[[Record], str | None]] = {
    "late drop of the rate": _late_drop,
    "bump at the beginning": _bump,
    "double descent": _double_descent,
    "constant gap": _constant_gap,
    "noisy but flat": _noisy,
}
