"""What the trials of a sweep say about one range: where the best lie, and which way is better.

Pure functions over the ended trials. Steering and the advice of a sweep use the same evidence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol, TypeVar

from optuna.distributions import CategoricalDistribution

from search_spaces.domains import Domain, same_value
from search_spaces.limits import Scalar
from sweeps.spec.objective import Objective
from sweeps.trials.trial import Trial
from sweeps.verdicts.verdict import VerdictKind

T = TypeVar("T")

ALIKE = 0.25
"""Two trials are alike if each of their other hyperparameters differs by at most a quarter of its
range, on the scale of the range, and other choices are the same."""

APART = 0.1
"""Values of a hyperparameter differ if they are a tenth of its range apart."""

MAX_COMPARED = 100
"""Of more trials, this many are compared pair by pair: evenly spaced ones, in their own order."""

Coordinates = Mapping[str, tuple[float | None, Scalar | None]]
"""The position and the value of each searched hyperparameter; see `coordinates`."""

Limits = tuple[float | None, float | None]
"""The lowest and the highest value that a range may reach. None: no limit."""


class Parameter(Protocol):
    """The part of a hyperparameter of a resolved space that evidence uses."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def distribution(self) -> Domain | None:
        """Its values; None if it is fixed."""
        ...


@dataclass(frozen=True)
class RankedTrial:
    """A trial with its quality: more is better, and a trial that diverged without a value has the
    least.
    """

    trial: Trial
    quality: float


@dataclass(frozen=True)
class RangeEvidence:
    """The evidence about one hyperparameter from `trials` comparable trials that have it.

    `best` are the best trials, with their values of it. `correlation` is the rank correlation of
    its value with the quality, None if all are equal. Of two trials that are alike in everything
    else, `larger_better` times the larger value was the better one, and `smaller_better` times the
    smaller one.
    """

    trials: int
    best: tuple[tuple[Trial, float], ...]
    correlation: float | None
    larger_better: int
    smaller_better: int

    @property
    def best_values(self) -> tuple[float, ...]:
        """The values of the best trials."""
        return tuple(value for _, value in self.best)

    def chance(self, sign: float) -> float:
        """Return how probable a correlation this strong in the direction of `sign` is by chance.

        One-sided, by Fisher's transformation with the variance 1.06 / (n - 3) of a rank correlation
        (Fieller, Hartley and Pearson 1957, Biometrika 44).
        """
        if self.correlation is None or self.trials < 4:
            return 1.0
        bounded = min(max(sign * self.correlation, -0.9999), 0.9999)
        return 0.5 * math.erfc(math.atanh(bounded) * math.sqrt((self.trials - 3) / 1.06) / math.sqrt(2))


def position(domain: Domain, value: object) -> float | None:
    """Return the position of a number in a range or in a list of numbers, 0 and 1 at its ends.

    On the scale of the range; outside of it, below 0 or above 1. None if it has no position.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    if isinstance(domain, CategoricalDistribution):
        numbers = numeric_choices(domain)
        if len(numbers) < 2 or float(value) not in numbers:
            return None
        return numbers.index(float(value)) / (len(numbers) - 1)
    low, high = float(domain.low), float(domain.high)
    if low == high:
        return 1.0
    if domain.log:
        return None if value <= 0 else math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def numeric_choices(domain: CategoricalDistribution) -> list[float]:
    """Return the choices in order if all are numbers, else an empty list."""
    if any(isinstance(choice, bool) or not isinstance(choice, int | float) for choice in domain.choices):
        return []
    return sorted(float(choice) for choice in domain.choices if isinstance(choice, int | float))


def ranked(ended: Iterable[Trial], objective: Objective) -> list[RankedTrial]:
    """Return the trials that can be compared by the objective, in the given order.

    A trial without a value counts only if it diverged: other failures say nothing about its point.
    """
    sign = 1.0 if objective.direction == "maximize" else -1.0
    found = []
    for trial in ended:
        if trial.duplicate_of is not None or not trial.state.ended:
            continue
        if trial.values is not None:
            value = sign * trial.values[0]
            found.append(RankedTrial(trial, value if math.isfinite(value) else -math.inf))
        elif trial.verdict is not None and trial.verdict.kind is VerdictKind.DIVERGED:
            found.append(RankedTrial(trial, -math.inf))
    return found


def best_trials(trials: Sequence[RankedTrial]) -> list[RankedTrial]:
    """Return the best quarter, best first: at least one, and only trials that beat the median."""
    if len(trials) < 2:
        return []
    middle = median(ranked_trial.quality for ranked_trial in trials)
    ordered = sorted(trials, key=lambda ranked_trial: (-ranked_trial.quality, ranked_trial.trial.number))
    quarter = ordered[: max(1, len(trials) // 4)]
    return [ranked_trial for ranked_trial in quarter if ranked_trial.quality > middle]


def evidence(name: str, domains: Mapping[str, Domain], trials: Sequence[RankedTrial]) -> RangeEvidence:
    """Gather the evidence about the hyperparameter `name` of a space with these domains."""
    domain = domains[name]
    placed = [
        (ranked_trial, place)
        for ranked_trial in trials
        if (place := position(domain, ranked_trial.trial.hyperparameters.get(name))) is not None
    ]
    best = [
        (ranked_trial.trial, float(ranked_trial.trial.hyperparameters[name]))
        for ranked_trial in best_trials([ranked_trial for ranked_trial, _ in placed])
    ]
    larger, smaller = _comparisons(name, domains, placed)
    correlation = _rank_correlation([place for _, place in placed], [entry.quality for entry, _ in placed])
    return RangeEvidence(len(placed), tuple(best), correlation, larger, smaller)


def coordinates(domains: Mapping[str, Domain], trial: Trial) -> Coordinates:
    """Return the position and the value of each searched hyperparameter of a trial."""
    values = trial.hyperparameters
    return {name: (position(domain, values.get(name)), values.get(name)) for name, domain in domains.items()}


def are_alike(name: str, one: Coordinates, other: Coordinates) -> bool:
    """Return whether two trials differ little in all hyperparameters but `name`."""
    for other_name, (place, value) in one.items():
        if other_name == name:
            continue
        other_place, other_value = other[other_name]
        if place is not None and other_place is not None:
            if abs(place - other_place) > ALIKE:
                return False
        elif not same_value(value, other_value):
            return False
    return True


def _comparisons(
    name: str, domains: Mapping[str, Domain], placed: Sequence[tuple[RankedTrial, float]]
) -> tuple[int, int]:
    compared = [(*entry, coordinates(domains, entry[0].trial)) for entry in evenly_spaced(placed)]
    larger = smaller = 0
    for index, (one, place, where) in enumerate(compared):
        for other, other_place, other_where in compared[:index]:
            if abs(place - other_place) < APART or one.quality == other.quality:
                continue
            if are_alike(name, where, other_where):
                is_larger = (place > other_place) == (one.quality > other.quality)
                larger, smaller = larger + is_larger, smaller + (not is_larger)
    return larger, smaller


def evenly_spaced(trials: Sequence[T]) -> Sequence[T]:
    """Return at most `MAX_COMPARED` of the trials."""
    return trials[:: max(1, math.ceil(len(trials) / MAX_COMPARED))]


def _rank_correlation(some: Sequence[float], others: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation, None if one of the two does not vary."""
    if len(some) < 2:
        return None
    first, second = _ranks(some), _ranks(others)
    middle = (len(some) + 1) / 2
    spread = math.sqrt(sum((rank - middle) ** 2 for rank in first) * sum((rank - middle) ** 2 for rank in second))
    if spread == 0:
        return None
    return sum((one - middle) * (other - middle) for one, other in zip(first, second, strict=True)) / spread


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the ranks from 1 on; equal values share their mean rank."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for index in order[start : end + 1]:
            ranks[index] = (start + end) / 2 + 1
        start = end + 1
    return ranks


def searched_domains(parameters: Iterable[Parameter]) -> dict[str, Domain]:
    """Return the domains of the searched hyperparameters by name."""
    return {parameter.name: parameter.distribution for parameter in parameters if parameter.distribution is not None}


def ends(domain: Domain) -> tuple[float, float] | None:
    """Return the lowest and the highest number of a range or a list of numbers; else None."""
    if isinstance(domain, CategoricalDistribution):
        numbers = numeric_choices(domain)
        return (numbers[0], numbers[-1]) if len(numbers) > 1 else None
    return float(domain.low), float(domain.high)
