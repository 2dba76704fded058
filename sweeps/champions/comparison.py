"""How far a challenger is ahead of its opponent on the same examples, and which guards it breaks. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweeps.spec.sweep_file import ChampionSpec

LEVEL = 0.95
"""The share of chance that the interval of the difference covers."""

RESAMPLES = 4000

NAMED_CLASSES = 5
"""So many classes that miss the floor are named, the worst first."""


@dataclass(frozen=True)
class Comparison:
    """Two models on the same examples: the share that each gets right, and the difference with its interval.

    `chance` is the probability that a challenger that is no better wins at least so many of the examples on which
    exactly one of the two is right: the exact one-sided sign test, which is McNemar's.
    """

    examples: int
    challenger: float
    opponent: float
    low: float
    high: float
    chance: float

    @property
    def difference(self) -> float:
        """How much larger the challenger's share is."""
        return self.challenger - self.opponent

    @property
    def beyond_noise(self) -> bool:
        """Whether the challenger is better by more than chance explains, by the interval and by the exact test."""
        return self.low > 0 and self.chance <= (1 - LEVEL) / 2


def compare(challenger: NDArray[np.bool_], opponent: NDArray[np.bool_], seed: int) -> Comparison:
    """Compare which of the same examples each gets right, by a paired bootstrap over examples.

    Drawing n examples with replacement and adding up differences of -1, 0 and 1 is drawing how often each occurs, so
    the counts are drawn at once. The same arguments give the same result. Raises ValueError where the two are not about
    the same number of examples, or about none.
    """
    if challenger.shape != opponent.shape or challenger.size == 0:
        raise ValueError(f"cannot be paired: {challenger.size} and {opponent.size} examples")
    count = int(challenger.size)
    won, lost = int((challenger & ~opponent).sum()), int((~challenger & opponent).sum())
    shares = np.array([won, lost, count - won - lost]) / count
    drawn = np.random.default_rng([seed, count]).multinomial(count, shares, RESAMPLES)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / count, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Comparison(
        examples=count,
        challenger=float(challenger.mean()),
        opponent=float(opponent.mean()),
        low=float(low),
        high=float(high),
        chance=_at_least(won, won + lost),
    )


def _at_least(heads: int, tosses: int) -> float:
    """Return the exact probability of at least so many heads; whole numbers neither round nor overflow."""
    outcomes: int = 2**tosses
    return sum(math.comb(tosses, each) for each in range(heads, tosses + 1)) / outcomes


def recalls(truth: Sequence[str], right: NDArray[np.bool_]) -> dict[str, float]:
    """Return for each class that occurs which share of its examples is right."""
    classes = np.array(truth)
    return {str(each): float(right[classes == each].mean()) for each in sorted(set(truth))}


def broken_guards(
    guards: ChampionSpec, recall: Mapping[str, float], latency_ms: float | None, usd: float | None
) -> tuple[str, ...]:
    """Say in sentences which guards are broken. What was not measured, or is no number, breaks its guard."""
    found = []
    if guards.max_latency_ms is not None and not _within(latency_ms, guards.max_latency_ms):
        took = "nobody knows how long an answer takes" if latency_ms is None else f"an answer takes {latency_ms:.3g} ms"
        found.append(f"{took}, and max_latency_ms is {guards.max_latency_ms:g}")
    if guards.max_cost_usd is not None and not _within(usd, guards.max_cost_usd):
        cost = "nobody knows what its training cost" if usd is None else f"its training cost ${usd:,.4g}"
        found.append(f"{cost}, and max_cost_usd is {guards.max_cost_usd:g}")
    if guards.min_recall is not None:
        low = {name: value for name, value in recall.items() if not value >= guards.min_recall}
        if low:
            worst = sorted(low.items(), key=lambda each: each[1])
            listed = ", ".join(f"{value:.3g} of {name}" for name, value in worst[:NAMED_CLASSES])
            listed += f" (and too little of {len(low) - NAMED_CLASSES} more)" if len(low) > NAMED_CLASSES else ""
            found.append(f"it finds only {listed}, and min_recall is {guards.min_recall:g}")
    return tuple(found)


def _within(value: float | None, limit: float) -> bool:
    return value is not None and value <= limit
