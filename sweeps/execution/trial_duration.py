"""Estimates how long a trial will take. Pure.

A sweep with a deadline starts only trials that end in time.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import quantiles

from sweeps.trials.trial import Trial

CAUTIOUS_QUANTILE = 0.9
"""The estimate uses this quantile of the seconds per epoch of earlier trials."""


def expected_seconds(trial: Trial, earlier: Iterable[Trial]) -> float | None:
    """Return the expected duration of `trial` without early stopping.

    Returns None if no trial has trained and ended yet. The estimate is based on seconds per epoch,
    because the trials of a space differ in their epochs and most stop early. If the epochs of
    `trial` are unknown, it is the duration of the longest earlier trial.
    """
    ended = [past for past in earlier if past.state.ended and past.trained_epochs > 0 and past.spend.seconds > 0]
    if not ended:
        return None
    if trial.planned_epochs is None:
        return max(past.spend.seconds for past in ended)
    seconds_per_epoch = sorted(past.spend.seconds / past.trained_epochs for past in ended)
    if len(seconds_per_epoch) == 1:
        return seconds_per_epoch[0] * trial.planned_epochs
    percentiles = quantiles(seconds_per_epoch, n=100, method="inclusive")
    return percentiles[round(CAUTIOUS_QUANTILE * 100) - 1] * trial.planned_epochs
