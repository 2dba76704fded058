"""Whether another trial fits into what is left of a night. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import quantiles

from sweeps.trials.trial import Trial

CAUTION = 0.9
"""A trial is expected to take as long an epoch as this share of the earlier ones did at most."""


def expected_seconds(trial: Trial, earlier: Iterable[Trial]) -> float | None:
    """Return how long the trial takes if no one stops it, from those that ended. None where none has trained.

    Seconds an epoch are compared, because trials of one space differ in their epochs and most are stopped early; where
    the epochs of this one are unknown, it takes as long as the longest did.
    """
    ended = [each for each in earlier if each.state.ended and each.epochs_trained > 0 and each.spend.seconds > 0]
    if not ended:
        return None
    if trial.epochs is None:
        return max(each.spend.seconds for each in ended)
    rates = sorted(each.spend.seconds / each.epochs_trained for each in ended)
    cautious = rates[0] if len(rates) == 1 else quantiles(rates, n=100, method="inclusive")[round(CAUTION * 100) - 1]
    return cautious * trial.epochs
