"""Agreement of two raters beyond chance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence


def cohen_kappa(first: Sequence[int], second: Sequence[int], *, weighted: bool) -> float | None:
    """Return Cohen's kappa of two raters of the same items: 1 for full agreement, 0 for chance.

    `weighted`: a disagreement counts by the square of the distance between the two ratings, so that
    4 for 5 is a small one (J. Cohen, "Weighted kappa", Psychological Bulletin 70, 1968). Otherwise
    each disagreement counts the same (J. Cohen, "A coefficient of agreement for nominal scales",
    Educational and Psychological Measurement 20, 1960). None if there is nothing to agree on,
    because both raters give one and the same rating to all items.
    """
    counts_first, counts_second = Counter(first), Counter(second)
    items = len(first)

    def weight(one: int, other: int) -> float:
        return float((one - other) ** 2) if weighted else float(one != other)

    observed = math.fsum(weight(one, other) for one, other in zip(first, second, strict=True)) / items
    expected = math.fsum(
        counts_first[one] * counts_second[other] * weight(one, other) for one in counts_first for other in counts_second
    )
    return 1.0 - observed * items**2 / expected if expected else None


def in_words(kappa: float) -> str:
    """Return the strength of agreement (J. R. Landis and G. G. Koch, Biometrics 33, 1977)."""
    limits = ((0.0, "poor"), (0.2, "slight"), (0.4, "fair"), (0.6, "moderate"), (0.8, "substantial"))
    return next((word for limit, word in limits if kappa <= limit), "almost perfect")
