"""The rules that find a run diverged: not finite, run away, or gained and lost again.

The thresholds are chosen on the part `tune` of benchmarks/fit.
"""

from __future__ import annotations

import math
from statistics import median

from sweeps.verdicts.advice import Advice
from sweeps.verdicts.evidence import Evidence
from sweeps.verdicts.verdict import FitVerdict
from sweeps.verdicts.wording import diverged, number, times

FAR_ABOVE = 1.5
"""A loss half as high again as the base model's own is not learning; a warm-up bump stays below and comes back."""

BLOWN_UP = 3.0
"""Where the base model's loss is not known: so many times the first evaluation's."""

GIVEN_BACK = 0.6
"""So is a training loss that has given back three fifths of what it had gained: chance does not undo training."""

GIVEN_BACK_LEAST = 0.15
"""And at least 15 % of its minimum: what was gained must have been something."""

LEARNT_LEAST = 0.1
"""A metric that rose by ten points has learnt something that can be lost."""


def not_finite(seen: Evidence, advice: Advice) -> FitVerdict | None:
    """A value, of whatever is measured, that is not finite."""
    names = {"train_loss": "the training loss", "valid_loss": "the validation loss"}
    names |= {"train_metric": f"the training {seen.metric}", "valid_metric": f"the validation {seen.metric}"}
    onset: float | None = None
    for point in (seen.baseline, *seen.points):
        for field_name, name in names.items():
            value = getattr(point, field_name)
            if value is not None and not math.isfinite(value):
                when = "before training" if point is seen.baseline else f"at epoch {number(point.epoch)}"
                return diverged(f"{name} is {value} {when}", advice, onset)
        onset = point.epoch
    if seen.curve.ended == "diverged":
        return diverged(f"the loss was no longer finite after epoch {number(onset or 0.0)}", advice, onset)
    return None


def ran_away(seen: Evidence, advice: Advice) -> FitVerdict | None:
    """The training loss has gone up and stayed there: above the base model's, the first one, or what it had reached."""
    loss, valid = seen.train_loss, seen.valid_loss
    if loss is None:
        return None
    base = seen.baseline.train_loss if seen.baseline.train_loss is not None else seen.baseline.valid_loss
    settled = median(loss.values[-max(2, len(loss.values) // 4) :])
    if base is not None and base > 0 and settled > FAR_ABOVE * base:
        evidence = f"training loss rose from {number(base)} (base model) to {number(settled)} and stayed there"
        calm = [e for e, v in zip(loss.epochs, loss.values, strict=True) if v <= FAR_ABOVE * base]
        return diverged(evidence, advice, max(calm, default=0.0), times(settled, FAR_ABOVE * base))
    first = loss.values[0]
    if (
        base is None
        and first > 0
        and settled > BLOWN_UP * first
        and (valid is None or valid.last > 2 * valid.values[0])
    ):
        evidence = f"training loss rose from {number(first)} (epoch {number(loss.epochs[0])}) to {number(loss.last)}"
        return diverged(evidence, advice, loss.epochs[0], times(settled, BLOWN_UP * first))
    low, onset = min(loss.values), loss.where(min)
    back, least = min(settled, loss.last) - low, max(GIVEN_BACK_LEAST * abs(low), 3 * loss.roughness)
    for start in (first, base):
        gained = -math.inf if start is None else start - low
        if gained > least and back > max(least, GIVEN_BACK * gained):
            evidence = (
                f"training loss rose from {number(low)} (epoch {number(onset)}) to {number(loss.last)} "
                f"(epoch {number(loss.epochs[-1])}) and stayed there"
            )
            return diverged(evidence, advice, onset, times(back, GIVEN_BACK * gained))
    return None


def lost_again(seen: Evidence, advice: Advice) -> FitVerdict | None:
    """What was learnt is lost, on training and validation examples alike, as the metrics show it.

    Where the base model's loss is far above that of a model that only knows the labels, a run that falls back to those
    has given back little of its loss.
    """
    valid, train, loss, reference = seen.valid_metric, seen.train_metric, seen.train_loss, seen.reference
    if valid is None or loss is None or reference is None:
        return None
    floor = reference[0]
    best, onset = max(valid.values), valid.where(max)
    gained, noise = best - floor, seen.valid_noise(best)
    rise = loss.last - min(loss.values)
    if gained <= max(noise, LEARNT_LEAST) or best - valid.last <= max(noise, GIVEN_BACK * gained):
        return None
    if rise <= max(GIVEN_BACK_LEAST * abs(min(loss.values)), 3 * loss.roughness):
        return None
    if train is not None and max(train.values) - train.last <= GIVEN_BACK * (max(train.values) - floor):
        return None
    evidence = (
        f"validation {seen.metric} fell from {number(best)} (epoch {number(onset)}) to {number(valid.last)} "
        f"and training loss rose from {number(min(loss.values))} to {number(loss.last)}"
    )
    return diverged(evidence, advice, onset, times(best - valid.last, noise))
