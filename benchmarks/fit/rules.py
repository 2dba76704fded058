"""The rules that people use today, as classifiers over learning curves, and the search for their best thresholds.

Each rule sees what the judge sees. Each is given in two forms: `plain`, which can only tell over-fitting and calls the
rest healthy, as people use it; and `expert`, in which the same rule decides about over-fitting after a fixed reading of
the rest that any practitioner would add: a value that is not finite, or a loss far above where it began, is divergence;
fewer than two evaluations, no validation, a run that was cut off while it still improved, or a rise on few validation
examples that the rule does not call over-fitting, is unsettled; a metric near chance (without one, a loss near where it
began), and a validation loss that still falls steeply when training ends, is under-fitting. All numbers in it are
searched, too.
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
    """Return one measure over the evaluations, where it is known, in the order of the epochs."""
    points = sorted(curve.points, key=lambda each: (each.epoch, each.step))
    return [value for each in points if (value := getattr(each, name)) is not None]


def validation(curve: LearningCurve) -> Series:
    """Return what the rules watch, lower is better: the validation loss; without one, the share of errors."""
    return series(curve, "valid_loss") or [1 - each for each in series(curve, "valid_metric")]


def training(curve: LearningCurve) -> Series:
    """Return the same of the training examples, of the same measure as `validation`."""
    if series(curve, "valid_loss"):
        return series(curve, "train_loss")
    return [1 - each for each in series(curve, "train_metric")]


# ----------------------------------------------------------------------------------------- is this curve over-fitted?
def above_minimum(curve: LearningCurve, at: Thresholds) -> bool:
    """The last validation loss lies more than a share above the lowest one."""
    seen = validation(curve)
    return len(seen) > 1 and seen[-1] > (1 + at["share"]) * min(seen)


def ratio(curve: LearningCurve, at: Thresholds) -> bool:
    """The last validation loss is more than so many times the training loss."""
    seen, trained = validation(curve), training(curve)
    return bool(seen and trained) and seen[-1] > at["ratio"] * trained[-1]


def patience(curve: LearningCurve, at: Thresholds) -> bool:
    """Early stopping would have fired: no new best in so many evaluations, and in such a share of all, in a row."""
    seen = validation(curve)
    best, waited, allowed = math.inf, 0, max(at["patience"], at["share"] * len(seen))
    for value in seen:
        best, waited = (
            (value, 0) if value < best - at["delta"] * abs(best if best < math.inf else 0) else (best, waited + 1)
        )
        if waited >= allowed:
            return True
    return False


def correlation(curve: LearningCurve, at: Thresholds) -> bool:
    """The Spearman correlation of training and validation loss over the evaluations is below a threshold."""
    seen, trained = validation(curve), training(curve)
    if len(seen) != len(trained) or len(seen) < 2:
        return False
    one, other = rankdata(seen), rankdata(trained)
    if one.std() == 0 or other.std() == 0:
        return False
    return float(np.corrcoef(one, other)[0, 1]) < at["correlation"]


@dataclass(frozen=True)
class Rule:
    """A way of telling over-fitting, and the thresholds to choose from; the published ones are among them."""

    name: str
    tells: Callable[[LearningCurve, Thresholds], bool]
    grid: Mapping[str, Sequence[float]]

    def thresholds(self) -> Iterator[dict[str, float]]:
        """Yield all combinations."""
        return combinations(self.grid)


RULES = (
    Rule(
        "above the minimum",
        above_minimum,
        {"share": (0.0, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)},
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


# --------------------------------------------------------------------------------------------------- the expert's rest
EXPERT_GRID: Mapping[str, Sequence[float]] = {
    "margin": (0.02, 0.05, 0.1, 0.15),
    "far": (1.02, 1.1, 1.2, 1.5, 2.0),
    "falling": (0.01, 0.02, 0.03, 0.05, 0.1, 0.2),
    "level": (0.03, 0.1, 0.2),
    "few": (0, 25),
}


def before(curve: LearningCurve, at: Thresholds) -> str | None:
    """Return the class that the expert sees before asking about over-fitting, or None."""
    values = [each for point in curve.points for each in point.values]
    if curve.ended == "diverged" or not all(map(math.isfinite, values)):
        return "diverged"
    trained, seen = series(curve, "train_loss"), validation(curve)
    base = curve.baseline.train_loss if curve.baseline and curve.baseline.train_loss is not None else None
    start = base if base is not None else max(trained[:1], default=None)
    if trained and start is not None and trained[-1] > at["far"] * start:
        return "diverged"
    if len(seen) < 2:
        return "unsettled"
    return None


def after(curve: LearningCurve, at: Thresholds) -> str:
    """Return the class of a curve that is not over-fitted."""
    seen = validation(curve)
    if curve.valid_examples and curve.valid_examples < at["few"] and seen[-1] > min(seen):
        return "unsettled"
    back = max(1, len(seen) // 4)
    falling = seen[-1 - back] - seen[-1] > at["falling"] * abs(seen[-1 - back])
    if curve.ended == "failed" or (curve.ended == "stopped" and falling):
        return "unsettled"
    metric, floor = series(curve, "valid_metric"), chance(curve)
    if metric and floor is not None:
        nothing = metric[-1] < floor + at["margin"]
    else:
        base = curve.baseline.valid_loss if curve.baseline else None
        start = base if base is not None else seen[0]
        nothing = seen[-1] > (1 - at["level"]) * start
    return "underfit" if nothing or falling else "healthy"


def chance(curve: LearningCurve) -> float | None:
    """Return the metric of a model that knows nothing, where it is known."""
    if curve.chance is not None:
        return curve.chance
    return 1 / curve.classes if curve.classes else None


# -------------------------------------------------------------------------------------------------------- classifying
def plain(rule: Rule, curve: LearningCurve, at: Thresholds) -> str:
    """Return `overfit` or `healthy`."""
    return "overfit" if rule.tells(curve, at) else "healthy"


def expert(rule: Rule, curve: LearningCurve, at: Thresholds) -> str:
    """Return one of the five classes."""
    found = before(curve, at)
    if found is not None:
        return found
    return "overfit" if rule.tells(curve, at) else after(curve, at)


def best_plain(
    rule: Rule, curves: Sequence[Record], measure: Callable[[metrics.Matrix], float]
) -> tuple[dict[str, float], float]:
    """Return the thresholds with the highest measure, the first of equals, and that measure."""
    truth = [each.cause for each in curves]
    scored = [
        (at, measure(metrics.confusion(truth, [plain(rule, each.curve, at) for each in curves])))
        for at in rule.thresholds()
    ]
    return max(scored, key=lambda each: each[1])


@dataclass(frozen=True)
class Reading:
    """What the expert makes of some curves, by one choice of his thresholds, before he asks the rule.

    `otherwise` are the numbers of the classes where the rule says no; where `is_open` it is asked at all.
    """

    thresholds: dict[str, float]
    otherwise: NDArray[np.int64]
    is_open: NDArray[np.bool_]


def readings(curves: Sequence[Record]) -> list[Reading]:
    """Return the expert's reading by all combinations of his thresholds."""
    place = {name: at for at, name in enumerate(CAUSES)}
    found = []
    for rest in combinations(EXPERT_GRID):
        early = [before(each.curve, rest) for each in curves]
        late = [place[one or after(each.curve, rest)] for one, each in zip(early, curves, strict=True)]
        found.append(Reading(rest, np.array(late), np.array([one is None for one in early])))
    return found


def best_expert(
    rule: Rule, curves: Sequence[Record], measure: Callable[[metrics.Matrix], float], read: Sequence[Reading]
) -> tuple[dict[str, float], float]:
    """The same over all combinations of the rule's and the expert's thresholds; `read` are `readings(curves)`."""
    size, overfit = len(CAUSES), CAUSES.index("overfit")
    truth = np.array([CAUSES.index(each.cause) for each in curves]) * size
    told = [(at, np.array([rule.tells(each.curve, at) for each in curves])) for at in rule.thresholds()]
    best: tuple[dict[str, float], float] = ({}, -1.0)
    for reading, (at, yes) in itertools.product(read, told):
        said = np.where(reading.is_open & yes, overfit, reading.otherwise)
        value = measure(np.bincount(truth + said, minlength=size * size).reshape(size, size))
        if value > best[1]:
            best = ({**at, **reading.thresholds}, value)
    return best
