"""The rules for divergence: a non-finite value, a loss that ran away, or lost learning.

The thresholds were chosen on the `tune` part of benchmarks/fit.
"""

from __future__ import annotations

import math
from statistics import median

from sweeps.verdicts.advice import Advice
from sweeps.verdicts.features import CurveFeatures, format_number
from sweeps.verdicts.verdict import FitVerdict
from sweeps.verdicts.verdict_construction import diverged, multiple

FAR_ABOVE = 1.5
"""A loss half as high again as the base model's is not learning. A warm-up bump stays below that
and comes back."""

BLOWN_UP = 3.0
"""If the base model's loss is unknown, a loss has run away at this multiple of the first
evaluation's."""

GIVEN_BACK = 0.6
"""A run that gives back three fifths of what it had gained has lost its learning: chance does
not undo training."""

MIN_GIVEN_BACK = 0.15
"""The lost part must also be at least 15 % of the minimum of the loss: there must have been
something to lose."""

MIN_METRIC_GAIN = 0.1
"""A metric that rose by ten points has learned something that can be lost."""


def non_finite_value(features: CurveFeatures, advice: Advice) -> FitVerdict | None:
    """Find a measured value that is not finite."""
    names = {"train_loss": "the training loss", "valid_loss": "the validation loss"}
    names |= {
        "train_metric": f"the training {features.metric_name}",
        "valid_metric": f"the validation {features.metric_name}",
    }
    onset: float | None = None
    for point in (features.baseline, *features.points):
        for field_name, name in names.items():
            value = getattr(point, field_name)
            if value is not None and not math.isfinite(value):
                is_baseline = point is features.baseline
                when = "before training" if is_baseline else f"at epoch {format_number(point.epoch)}"
                return diverged(f"{name} is {value} {when}", advice, onset)
        onset = point.epoch
    if features.curve.ended == "diverged":
        return diverged(f"the loss was no longer finite after epoch {format_number(onset or 0.0)}", advice, onset)
    return None


def loss_ran_away(features: CurveFeatures, advice: Advice) -> FitVerdict | None:
    """Find a training loss that rose and stayed high.

    It is compared with the base model's loss, its own first value, and its own minimum.
    """
    loss, valid = features.train_loss, features.valid_loss
    if loss is None:
        return None
    baseline = features.baseline
    base = baseline.train_loss if baseline.train_loss is not None else baseline.valid_loss
    recent = median(loss.values[-max(2, len(loss.values) // 4) :])
    if base is not None and base > 0 and recent > FAR_ABOVE * base:
        evidence = (
            f"training loss rose from {format_number(base)} (base model) to {format_number(recent)} and stayed there"
        )
        calm_epochs = [
            epoch for epoch, value in zip(loss.epochs, loss.values, strict=True) if value <= FAR_ABOVE * base
        ]
        return diverged(evidence, advice, max(calm_epochs, default=0.0), multiple(recent, FAR_ABOVE * base))
    first = loss.values[0]
    valid_doubled = valid is None or valid.last > 2 * valid.values[0]
    if base is None and first > 0 and recent > BLOWN_UP * first and valid_doubled:
        evidence = (
            f"training loss rose from {format_number(first)} (epoch {format_number(loss.epochs[0])}) to "
            f"{format_number(loss.last)}"
        )
        return diverged(evidence, advice, loss.epochs[0], multiple(recent, BLOWN_UP * first))
    low, onset = min(loss.values), loss.epoch_of(min)
    given_back = min(recent, loss.last) - low
    threshold = max(MIN_GIVEN_BACK * abs(low), 3 * loss.roughness)
    for start in (first, base):
        gained = -math.inf if start is None else start - low
        if gained > threshold and given_back > max(threshold, GIVEN_BACK * gained):
            evidence = (
                f"training loss rose from {format_number(low)} (epoch {format_number(onset)}) to "
                f"{format_number(loss.last)} (epoch {format_number(loss.epochs[-1])}) and stayed there"
            )
            return diverged(evidence, advice, onset, multiple(given_back, GIVEN_BACK * gained))
    return None


def learning_was_lost(features: CurveFeatures, advice: Advice) -> FitVerdict | None:
    """Find metrics that rose and fell again, in training and validation, with a rising loss.

    If the base model's loss is far above that of a model that only knows the labels, a run that
    falls back to such a model gives back little of its loss, and only the metrics show it.
    """
    valid, train, loss, no_skill = (
        features.valid_metric,
        features.train_metric,
        features.train_loss,
        features.no_skill,
    )
    if valid is None or loss is None or no_skill is None:
        return None
    floor = no_skill[0]
    best, onset = max(valid.values), valid.epoch_of(max)
    gained, noise = best - floor, features.valid_noise(best)
    if gained <= max(noise, MIN_METRIC_GAIN) or best - valid.last <= max(noise, GIVEN_BACK * gained):
        return None
    rise = loss.last - min(loss.values)
    if rise <= max(MIN_GIVEN_BACK * abs(min(loss.values)), 3 * loss.roughness):
        return None
    if train is not None and max(train.values) - train.last <= GIVEN_BACK * (max(train.values) - floor):
        return None
    evidence = (
        f"validation {features.metric_name} fell from {format_number(best)} (epoch {format_number(onset)}) to "
        f"{format_number(valid.last)}, and training loss rose from {format_number(min(loss.values))} to "
        f"{format_number(loss.last)}"
    )
    return diverged(evidence, advice, onset, multiple(best - valid.last, noise))
