"""Today's common rules as classifiers of learning curves, and the search for their best thresholds.

Each rule sees the same curve as the judge, and each has two forms. `plain` can only detect
over-fitting and calls everything else healthy, as people use the rule. `expert` lets the same rule
decide about over-fitting and adds checks for the other classes that any practitioner would make:

- A non-finite value, or a loss far above its start, is divergence.
- Fewer than two evaluations, no validation, a run that was cut off while it still improved, or a
  rise on few validation examples that the rule does not call over-fitting is unsettled.
- A metric near chance (without a metric, a loss near its start), or a validation loss that still
  falls steeply when training ends, is under-fitting.

All thresholds of these checks are searched, too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from backends.training_logs.learning_curve import LearningCurve
from benchmarks.fit import metrics
from benchmarks.fit.records import CAUSES, Record

Series = list[float]
Thresholds = Mapping[str, float]


def series(curve: LearningCurve, name: str) -> Series:
    """Return the known values of one measure in the order of the epochs."""
    points = sorted(curve.points, key=lambda point: (point.epoch, point.step))
    return [value for point in points if (value := getattr(point, name)) is not None]


def validation(curve: LearningCurve) -> Series:
    """Return the series that the rules watch (lower is better): validation loss, or without one the
    error rate.
    """
    return series(curve, "valid_loss") or [1 - metric for metric in series(curve, "valid_metric")]


def training(curve: LearningCurve) -> Series:
    """Return the series of the training examples for the measure that `validation` uses."""
    if series(curve, "valid_loss"):
        return series(curve, "train_loss")
    return [1 - metric for metric in series(curve, "train_metric")]


# ------------------------------------------------------------------------ is the curve over-fitted?
def above_minimum(curve: LearningCurve, at: Thresholds) -> bool:
    """Whether the last validation loss exceeds the lowest one by more than a share of it."""
    valid = validation(curve)
    return len(valid) > 1 and valid[-1] > (1 + at["share"]) * min(valid)


def mean_of_last(curve: LearningCurve, at: Thresholds) -> bool:
    """Whether the mean of the last validation losses exceeds the lowest one by more than a share of
    it.
    """
    valid = validation(curve)
    last = valid[-int(at["count"]) :]
    return len(valid) > 1 and sum(last) / len(last) > (1 + at["share"]) * min(valid)


def ratio(curve: LearningCurve, at: Thresholds) -> bool:
    """Whether the last validation loss exceeds the training loss by more than a factor."""
    valid, train = validation(curve), training(curve)
    return bool(valid and train) and valid[-1] > at["ratio"] * train[-1]


def patience(curve: LearningCurve, at: Thresholds) -> bool:
    """Whether early stopping would have fired: no new best in a number, and in a share, of
    evaluations in a row.
    """
    valid = validation(curve)
    best, waited, allowed = math.inf, 0, max(at["patience"], at["share"] * len(valid))
    for value in valid:
        best, waited = (
            (value, 0) if value < best - at["delta"] * abs(best if best < math.inf else 0) else (best, waited + 1)
        )
        if waited >= allowed:
            return True
    return False


def correlation(curve: LearningCurve, at: Thresholds) -> bool:
    """Whether the Spearman correlation of training and validation loss over the evaluations is
    below a threshold.
    """
    valid, train = validation(curve), training(curve)
    if len(valid) != len(train) or len(valid) < 2:
        return False
    one, other = rankdata(valid), rankdata(train)
    if one.std() == 0 or other.std() == 0:
        return False
    return float(np.corrcoef(one, other)[0, 1]) < at["correlation"]


@dataclass(frozen=True)
class Rule:
    """A test for over-fitting and the candidates for its thresholds, including the published
    ones.
    """

    name: str
    is_overfit: Callable[[LearningCurve, Thresholds], bool]
    grid: Mapping[str, Sequence[float]]

    def thresholds(self) -> Iterator[dict[str, float]]:
        """Yield all combinations of thresholds."""
        return combinations(self.grid)


RULES = (
    Rule(
        "above the minimum",
        above_minimum,
        {"share": (0.0, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)},
    ),
    Rule(
        "mean of the last above the minimum",
        mean_of_last,
        {"count": (5,), "share": (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)},
    ),
    Rule(
        "train/validation ratio",
        ratio,
        {"ratio": (1.02, 1.05, 1.1, 1.2, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0, 5.0, 10.0, 20.0, 50.0)},
    ),
    Rule(
        "patience",
        patience,
        {"patience": (1, 2, 3, 5, 10, 20, 50, 100), "share": (0.0, 0.25, 0.5, 0.75), "delta": (0.0, 0.01)},
    ),
    Rule(
        "Spearman correlation",
        correlation,
        {"correlation": (-0.99, -0.75, -0.5, -0.25, -0.1, 0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)},
    ),
)


def combinations(grid: Mapping[str, Sequence[float]]) -> Iterator[dict[str, float]]:
    """Yield a mapping for each combination of a grid's values."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


# ------------------------------------------------------------------------ the expert's other checks
EXPERT_GRID: Mapping[str, Sequence[float]] = {
    "margin": (0.02, 0.05, 0.1, 0.15),
    "far": (1.02, 1.1, 1.2, 1.5, 2.0),
    "falling": (0.01, 0.02, 0.03, 0.05, 0.1, 0.2),
    "level": (0.03, 0.1, 0.2),
    "few": (0, 25),
}


def class_before_rule(curve: LearningCurve, at: Thresholds) -> str | None:
    """Return the class that the expert recognises before applying the rule, or None."""
    values = [value for point in curve.points for value in point.values]
    if curve.ended == "diverged" or not all(map(math.isfinite, values)):
        return "diverged"
    train, valid = series(curve, "train_loss"), validation(curve)
    base = curve.baseline.train_loss if curve.baseline and curve.baseline.train_loss is not None else None
    start = base if base is not None else max(train[:1], default=None)
    if train and start is not None and train[-1] > at["far"] * start:
        return "diverged"
    if len(valid) < 2:
        return "unsettled"
    return None


def class_after_rule(curve: LearningCurve, at: Thresholds) -> str:
    """Return the class of a curve that the rule does not call over-fitted."""
    valid = validation(curve)
    if curve.valid_examples and curve.valid_examples < at["few"] and valid[-1] > min(valid):
        return "unsettled"
    back = max(1, len(valid) // 4)
    falling = valid[-1 - back] - valid[-1] > at["falling"] * abs(valid[-1 - back])
    if curve.ended == "failed" or (curve.ended == "stopped" and falling):
        return "unsettled"
    metric, floor = series(curve, "valid_metric"), chance(curve)
    if metric and floor is not None:
        nothing = metric[-1] < floor + at["margin"]
    else:
        base = curve.baseline.valid_loss if curve.baseline else None
        start = base if base is not None else valid[0]
        nothing = valid[-1] > (1 - at["level"]) * start
    return "underfit" if nothing or falling else "healthy"


def chance(curve: LearningCurve) -> float | None:
    """Return the metric of a model that has learnt nothing, or None if it is unknown."""
    if curve.chance is not None:
        return curve.chance
    return 1 / curve.classes if curve.classes else None


# -------------------------------------------------------------------------------------- classifying
def plain(rule: Rule, curve: LearningCurve, at: Thresholds) -> str:
    """Return `overfit` or `healthy`."""
    return "overfit" if rule.is_overfit(curve, at) else "healthy"


def expert(rule: Rule, curve: LearningCurve, at: Thresholds) -> str:
    """Return one of the five classes."""
    early = class_before_rule(curve, at)
    if early is not None:
        return early
    return "overfit" if rule.is_overfit(curve, at) else class_after_rule(curve, at)


def best_plain(
    rule: Rule, run_records: Sequence[Record], measure: Callable[[metrics.Matrix], float]
) -> tuple[dict[str, float], float]:
    """Return the thresholds with the highest measure (the first of equals) and that measure."""
    truth = [record.cause for record in run_records]
    scored = [
        (at, measure(metrics.confusion(truth, [plain(rule, record.curve, at) for record in run_records])))
        for at in rule.thresholds()
    ]
    return max(scored, key=lambda pair: pair[1])


@dataclass(frozen=True)
class ExpertReading:
    """The expert's classes of some curves by one choice of thresholds, without the rule.

    `otherwise` (N,) holds the class indices for curves that the rule does not call over-fitted.
    `is_open` (N,) says whether the rule decides about a curve at all.
    """

    thresholds: dict[str, float]
    otherwise: NDArray[np.int64]
    is_open: NDArray[np.bool_]


def readings(run_records: Sequence[Record]) -> list[ExpertReading]:
    """Return the expert's readings for all combinations of the expert's thresholds."""
    index = {name: at for at, name in enumerate(CAUSES)}
    expert_readings = []
    for thresholds in combinations(EXPERT_GRID):
        early = [class_before_rule(record.curve, thresholds) for record in run_records]
        late = [
            index[cause or class_after_rule(record.curve, thresholds)]
            for cause, record in zip(early, run_records, strict=True)
        ]
        is_open = np.array([cause is None for cause in early])
        expert_readings.append(ExpertReading(thresholds, np.array(late), is_open))
    return expert_readings


def best_expert(
    rule: Rule, run_records: Sequence[Record], measure: Callable[[metrics.Matrix], float], read: Sequence[ExpertReading]
) -> tuple[dict[str, float], float]:
    """Return the same for all combinations of the rule's and the expert's thresholds.

    `read` is the result of `readings(run_records)`.
    """
    size, overfit = len(CAUSES), CAUSES.index("overfit")
    truth = np.array([CAUSES.index(record.cause) for record in run_records]) * size
    rule_results = [
        (at, np.array([rule.is_overfit(record.curve, at) for record in run_records])) for at in rule.thresholds()
    ]
    best: tuple[dict[str, float], float] = ({}, -1.0)
    for reading, (at, overfitted) in itertools.product(read, rule_results):
        predicted = np.where(reading.is_open & overfitted, overfit, reading.otherwise)
        value = measure(np.bincount(truth + predicted, minlength=size * size).reshape(size, size))
        if value > best[1]:
            best = ({**at, **reading.thresholds}, value)
    return best
