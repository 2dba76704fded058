"""How far a challenger is ahead of its opponent on the same examples. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE_LEVEL = 0.95
"""The confidence level of the interval of the difference."""

RESAMPLES = 4000


@dataclass(frozen=True)
class Comparison:
    """Two models on the same examples: their accuracies, and the interval of the difference.

    `p_value` is that of the exact one-sided sign test (McNemar's): the probability that a
    challenger that is no better wins at least as many of the examples on which exactly one of the
    two models is correct.
    """

    examples: int
    challenger_accuracy: float
    opponent_accuracy: float
    difference_low: float
    difference_high: float
    p_value: float

    @property
    def difference(self) -> float:
        """How much larger the challenger's accuracy is."""
        return self.challenger_accuracy - self.opponent_accuracy

    @property
    def beyond_chance(self) -> bool:
        """Whether the challenger is better by more than chance explains.

        The interval and the exact test must both say so.
        """
        return self.difference_low > 0 and self.p_value <= (1 - CONFIDENCE_LEVEL) / 2


def compare(challenger: NDArray[np.bool_], opponent: NDArray[np.bool_], seed: int) -> Comparison:
    """Compare which of the same examples the two models predict correctly.

    The interval comes from a paired bootstrap over the examples. To draw n examples with
    replacement and add up differences of -1, 0 and 1 is the same as to draw how often each
    difference occurs, so these counts are drawn directly. The same arguments give the same result.
    Raises ValueError if the numbers of examples differ or are zero.
    """
    if challenger.shape != opponent.shape or challenger.size == 0:
        raise ValueError(f"cannot be paired: {challenger.size} and {opponent.size} examples")
    count = int(challenger.size)
    wins, losses = int((challenger & ~opponent).sum()), int((~challenger & opponent).sum())
    shares = np.array([wins, losses, count - wins - losses]) / count
    drawn = np.random.default_rng([seed, count]).multinomial(count, shares, RESAMPLES)
    low, high = np.quantile(
        (drawn[:, 0] - drawn[:, 1]) / count, [(1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2]
    )
    return Comparison(
        examples=count,
        challenger_accuracy=float(challenger.mean()),
        opponent_accuracy=float(opponent.mean()),
        difference_low=float(low),
        difference_high=float(high),
        p_value=_probability_of_heads(wins, wins + losses),
    )


def _probability_of_heads(at_least: int, tosses: int) -> float:
    """Return the exact probability of at least this many heads in tosses of a fair coin.

    The sum is over whole numbers, which neither round nor overflow.
    """
    outcomes: int = 2**tosses
    return sum(math.comb(tosses, heads) for heads in range(at_least, tosses + 1)) / outcomes
