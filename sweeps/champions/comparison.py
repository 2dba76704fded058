"""How far a challenger is ahead of its opponent on the same examples. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE_LEVEL = 0.95
"""The confidence level of the interval of the difference."""

RESAMPLES = 4000

PERMUTATIONS, PERMUTATIONS_AT_ONCE = 10_000, 500
"""How many random signs the permutation test draws, and how many at once, to save memory."""


@dataclass(frozen=True)
class Comparison:
    """Two models on the same examples: their mean scores, and the interval of the difference.

    With `maximize`, higher scores are better; the interval is that of the challenger's lead in any
    case. `p_value` is the probability that a challenger that is no better has at least this lead by
    chance. It comes from a one-sided paired permutation test: for answers that are right or wrong
    the exact sign test (McNemar's), for graded scores a sampled one.
    """

    examples: int
    challenger_score: float
    opponent_score: float
    difference_low: float
    difference_high: float
    p_value: float
    maximize: bool = True

    @property
    def difference(self) -> float:
        """How far the challenger is ahead: above 0 if it is better."""
        difference = self.challenger_score - self.opponent_score
        return difference if self.maximize else -difference

    @property
    def beyond_chance(self) -> bool:
        """Whether the challenger is better by more than chance explains.

        The interval and the permutation test must both say so.
        """
        return self.difference_low > 0 and self.p_value <= (1 - CONFIDENCE_LEVEL) / 2


def compare(
    challenger: NDArray[np.float64], opponent: NDArray[np.float64], seed: int, *, maximize: bool = True
) -> Comparison:
    """Compare the scores that two models have on the same examples.

    The interval comes from a paired bootstrap over the examples. To draw n examples with
    replacement and add up their differences is the same as to draw how often each difference
    occurs, so these counts are drawn directly. The same arguments give the same result. Raises
    ValueError if the numbers of examples differ or are zero.
    """
    if challenger.shape != opponent.shape or challenger.size == 0:
        raise ValueError(f"cannot be paired: {challenger.size} and {opponent.size} examples")
    count = int(challenger.size)
    differences = np.asarray(challenger, dtype=np.float64) - np.asarray(opponent, dtype=np.float64)
    differences = differences if maximize else -differences
    right_or_wrong = bool(np.isin(differences, (-1.0, 0.0, 1.0)).all())
    if right_or_wrong:
        values = np.array([1.0, -1.0, 0.0])
        counts = np.array([(differences == value).sum() for value in values])
    else:
        values, counts = np.unique(differences, return_counts=True)
    drawn = np.random.default_rng([seed, count]).multinomial(count, counts / count, RESAMPLES)
    low, high = np.quantile(drawn @ values / count, [(1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2])
    if right_or_wrong:
        wins, losses = int(counts[0]), int(counts[1])
        p_value = _probability_of_heads(wins, wins + losses)
    else:
        p_value = _probability_of_lead(differences, seed)
    return Comparison(
        examples=count,
        challenger_score=float(challenger.mean()),
        opponent_score=float(opponent.mean()),
        difference_low=float(low),
        difference_high=float(high),
        p_value=p_value,
        maximize=maximize,
    )


def _probability_of_lead(differences: NDArray[np.float64], seed: int) -> float:
    """Return the share of random signs of the differences whose sum is at least the observed one.

    The observed signs count as one of the draws, so that the share is never zero (Phipson and Smyth
    2010).
    """
    random = np.random.default_rng([seed, differences.size, PERMUTATIONS])
    observed, reached = differences.sum(), 1
    tolerance = 1e-9 * float(np.abs(differences).sum())
    for _ in range(PERMUTATIONS // PERMUTATIONS_AT_ONCE):
        signs = random.integers(0, 2, (PERMUTATIONS_AT_ONCE, differences.size)) * 2 - 1
        reached += int((signs @ differences >= observed - tolerance).sum())
    return reached / (PERMUTATIONS + 1)


def _probability_of_heads(at_least: int, tosses: int) -> float:
    """Return the exact probability of at least this many heads in tosses of a fair coin.

    The sum is over whole numbers, which neither round nor overflow.
    """
    outcomes: int = 2**tosses
    return sum(math.comb(tosses, heads) for heads in range(at_least, tosses + 1)) / outcomes
