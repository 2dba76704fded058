"""The rules that find a run over-fitted: by the validation loss, or by the gap between the metrics.

The thresholds are chosen on the part `tune` of benchmarks/fit.
"""

from __future__ import annotations

from sweeps.verdicts.advice import Advice
from sweeps.verdicts.evidence import Evidence, examples
from sweeps.verdicts.verdict import FitVerdict
from sweeps.verdicts.wording import number, overfit, times, unsettled

RISE, RISE_OF_SCALE = 0.10, 0.10
"""A validation loss that ends less than 10 % above its minimum, or by less than 10 % of what lies midway between that
and the loss of a model that knows nothing, is level."""

DOUBTFUL_RISE = 0.09
"""A rise that chance may explain leaves it open whether the run over-fitted, if it is as large as that."""

GAP = 0.12
"""A gap between the training and the validation metric must have grown by twelve points to matter."""

TRAIN_FALL = 0.02
"""A training loss that fell by 2 % is still falling."""

FITTED = 0.5
"""Training examples with half of the validation loss are fitted; a training loss that stays there is at its end."""


def loss_rises(seen: Evidence, advice: Advice) -> FitVerdict | None:
    """Over-fitting as the losses show it: validation has turned, training goes on falling."""
    rise = seen.rise
    if rise is None:
        return None
    level, noise = RISE * abs(rise.low), seen.rise_noise(rise.low, rise.height)
    by_metric = seen.curve.best_by == "metric" and (seen.metric_gained(rise.onset) or seen.nothing_left)
    if by_metric or rise.height <= DOUBTFUL_RISE * abs(rise.low):
        return None
    rose = (
        f"validation loss rose from {number(rise.low)} (epoch {number(rise.onset)}) to {number(rise.last)} "
        f"(epoch {number(seen.last_epoch)})"
    )
    went_on = _training_went_on(seen, rise.onset)
    if went_on is None and seen.never_knew:
        return None
    if rise.height <= noise:
        if (apart := gap_widens(seen, advice) or _far_apart(seen, advice)) is not None:
            return apart
        few = f"which {examples(seen.curve.valid_examples)} validation examples cannot tell from chance"
        return unsettled(f"{rose}, {few}", by=1.0)
    if rise.height <= max(level, RISE_OF_SCALE * seen.rise_scale):
        return None
    if went_on is None:
        return unsettled(f"{rose}, and the training curve does not show why", by=1.0)
    evidence = f"{rose} {went_on}{_metric_since(seen, rise.onset)}"
    return overfit(evidence, seen, advice, rise.onset, times(rise.height, max(noise, level)))


def _metric_since(seen: Evidence, onset: float) -> str:
    """Say why a later epoch is kept than the one where the loss turned; nothing where it is that one."""
    metric, kept = seen.valid_metric, seen.keep_epoch
    if metric is None or kept is None or kept <= onset or seen.curve.best_by != "metric":
        return ""
    before = metric.at(onset) if onset > 0 else seen.baseline.valid_metric
    against = "" if before is None else f", against {number(before)} at epoch {number(onset)}"
    return f"; validation {seen.metric} was best at epoch {number(kept)}: {number(max(metric.values))}{against}"


def _training_went_on(seen: Evidence, since: float) -> str | None:
    """What training did while validation got worse, in words; None where it did not get better, or nobody knows."""
    for series, base, name, sign in (
        (seen.train_loss, seen.baseline.train_loss, "training loss fell", -1),
        (seen.train_metric, seen.baseline.train_metric, f"training {seen.metric} rose", 1),
    ):
        if series is None:
            continue
        before = series.at(since) if since > 0 or base is None else base
        if sign * (series.last - before) > TRAIN_FALL * abs(before):
            return f"while {name} from {number(before)} to {number(series.last)}"
    train, rise = seen.train_loss, seen.rise
    if train is not None and rise is not None and train.last < FITTED * rise.low:
        return f"while training loss was down at {number(train.last)} already"
    return None


def gap_widens(seen: Evidence, advice: Advice) -> FitVerdict | None:
    """Over-fitting as the metric shows it: validation has stopped improving, training has not."""
    train, valid, base = seen.train_metric, seen.valid_metric, seen.baseline
    if train is None or valid is None:
        return None
    epochs, values = valid.epochs, valid.values
    first_train = train.values[0]
    if base.valid_metric is not None and base.train_metric is not None:
        epochs, values, first_train = (0.0, *epochs), (base.valid_metric, *values), base.train_metric
    best = max(values)
    onset = next(e for e, v in zip(epochs, values, strict=True) if v >= best - seen.valid_noise(best) / 2)
    if onset >= epochs[-1] or _still_falls(seen, onset):
        return None
    train_then = first_train if onset == epochs[0] else train.at(onset)
    gap, gap_then = train.last - valid.last, train_then - values[epochs.index(onset)]
    noise = max(seen.gap_noise(train.last, valid.last), GAP)
    if min(gap, gap - gap_then, train.last - train_then) <= noise:
        return None
    evidence = (
        f"training {seen.metric} rose from {number(train_then)} (epoch {number(onset)}) to {number(train.last)} "
        f"(epoch {number(epochs[-1])}) while validation {seen.metric} ended at {number(valid.last)}: "
        f"a gap of {number(gap)}, where sampling explains {number(noise)}"
    )
    return overfit(evidence, seen, advice, onset, times(gap - gap_then, noise))


def _far_apart(seen: Evidence, advice: Advice) -> FitVerdict | None:
    """Training examples are known by heart and the others are not, beyond doubt, wherever that began."""
    train, valid = seen.train_metric, seen.valid_metric
    if train is None or valid is None:
        return None
    gap, noise = train.last - valid.last, 2 * max(seen.gap_noise(train.last, valid.last), GAP)
    if gap <= noise:
        return None
    evidence = (
        f"training {seen.metric} ended at {number(train.last)}, validation {seen.metric} at {number(valid.last)}: "
        f"a gap of {number(gap)}, where sampling explains {number(noise / 2)}"
    )
    return overfit(evidence, seen, advice, seen.keep_epoch or 0.0, 2 * times(gap, noise))


def _still_falls(seen: Evidence, since: float) -> bool:
    loss, base = seen.valid_loss, seen.baseline.valid_loss
    if loss is None:
        return False
    before = loss.at(since) if since > 0 or base is None else base
    return before - loss.last > seen.loss_noise(before)
