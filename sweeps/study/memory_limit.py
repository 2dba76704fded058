"""What a trial that ran out of memory says about other points: which of them would run out, too.

Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import log

from optuna.distributions import FloatDistribution, IntDistribution

from backends.contract import FailureKind, Scalar
from search_spaces.space import ResolvedSpace
from sweeps.trials.trial import Trial, TrialState

NEARBY = 0.1
"""The share of a range within which a point counts as near another. Used where nobody knows which
hyperparameters need memory."""


class MemoryLimit:
    """The points of a sweep that are known not to fit into memory.

    `drivers` are the hyperparameters on which the memory of a run depends; see
    `Capabilities.memory_drivers`.
    """

    def __init__(self, drivers: Collection[str] = ()) -> None:
        self._drivers = frozenset(drivers)
        self._exceeded: dict[int, Mapping[str, Scalar]] = {}

    def learn(self, trial: Trial) -> None:
        """Take note of a trial if it has failed for lack of memory."""
        if trial.state is TrialState.FAILED and trial.failure is FailureKind.OUT_OF_MEMORY:
            self._exceeded[trial.number] = trial.hyperparameters

    def excluded_by(self, point: Mapping[str, Scalar], space: ResolvedSpace) -> int | None:
        """Return the number of a trial that shows that `point` does not fit; None if there is none.

        A point does not fit if no driver needs less memory than in a trial that ran out of it.
        Where neither point has a driver, only points near that trial are excluded: with the same
        choices, and with each number within a tenth of its range.
        """
        return next((number for number, other in self._exceeded.items() if self._needs_more(point, other, space)), None)

    def _needs_more(self, point: Mapping[str, Scalar], other: Mapping[str, Scalar], space: ResolvedSpace) -> bool:
        drivers = {name for name in {*point, *other} if name in self._drivers}
        if drivers:
            return all(_at_least(point.get(name), other.get(name)) for name in drivers)
        return point.keys() == other.keys() and all(_is_near(name, point[name], other[name], space) for name in point)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _at_least(value: Scalar | None, other: Scalar | None) -> bool:
    """Whether a value needs at least the memory of another: a number that is not lower, or the same
    text.
    """
    if value is None or other is None or not (_is_number(value) and _is_number(other)):
        return type(value) is type(other) and value == other
    return float(value) >= float(other)


def _is_near(name: str, value: Scalar, other: Scalar, space: ResolvedSpace) -> bool:
    parameter = space.parameter(name)
    distribution = None if parameter is None else parameter.distribution
    if not isinstance(distribution, IntDistribution | FloatDistribution) or not (
        _is_number(value) and _is_number(other)
    ):
        return type(value) is type(other) and value == other
    return abs(_position(float(value), distribution) - _position(float(other), distribution)) <= NEARBY


def _position(value: float, distribution: IntDistribution | FloatDistribution) -> float:
    """Return where a value lies in its range: 0 is the low end, 1 the high end."""
    low, high = float(distribution.low), float(distribution.high)
    if low == high:
        return 0.0
    if distribution.log:
        return (log(value) - log(low)) / (log(high) - log(low)) if value > 0 else 0.0
    return (value - low) / (high - low)
