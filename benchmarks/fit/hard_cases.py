"""Checks for `screening` that the loss did what makes a hard case hard, by the oracle."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from statistics import median

from benchmarks.fit.oracle_summary import OracleSummary
from benchmarks.fit.records import Record

# Noisy: the typical jump of the validation loss between two evaluations, as a share of the loss.
NOISY = 0.01
EARLIER = 1.08
"""An earlier loss is clearly higher at this many times the final loss, or the minimum."""
BUMP = 1.15
"""A bump at the beginning rises to at least this many times the base model's loss."""
GAP_RATIO = 1.2
"""There is a gap if the held-out loss is at least this many times the training loss."""


def _late_drop(record: Record) -> str | None:
    loss = OracleSummary(record.oracle).loss
    before = median(loss[len(loss) // 3 : max(len(loss) // 3 + 1, int(0.55 * len(loss)))])
    return None if before >= EARLIER * loss[-1] else "no effect: the loss did not fall at the drop of the rate"


def _bump(record: Record) -> str | None:
    oracle = record.oracle
    early = max(oracle.loss[: max(1, len(oracle.loss) // 4)])
    return None if early >= BUMP * oracle.base_loss else "no effect: no bump at the beginning"


def _double_descent(record: Record) -> str | None:
    loss = OracleSummary(record.oracle).loss
    descends_twice = any(
        max(loss[at:]) >= EARLIER * min(loss[: at + 1]) and min(loss[: at + 1]) >= loss[-1]
        for at in range(len(loss) - 1)
        if loss[at] == min(loss[: at + 1])
    )
    return None if descends_twice else "no effect: the loss did not rise and fall again below"


def _constant_gap(record: Record) -> str | None:
    summary = OracleSummary(record.oracle)
    ratio = summary.loss[-1] / max(summary.train_loss[-1], 1e-9)
    return None if ratio >= GAP_RATIO else "no effect: there is no gap"


def _noisy(record: Record) -> str | None:
    losses = [point.valid_loss for point in record.curve.points if point.valid_loss is not None]
    tail = losses[len(losses) // 2 :]
    if len(tail) < 2:
        return "not visible: no validation loss"
    jump = median(abs(after - before) for before, after in pairwise(tail))
    return None if jump >= NOISY * median(tail) else "no effect: the validation loss is smooth"


HARD_CASES: dict[str, Callable[[Record], str | None]] = {
    "late drop of the rate": _late_drop,
    "bump at the beginning": _bump,
    "double descent": _double_descent,
    "constant gap": _constant_gap,
    "noisy but flat": _noisy,
}
