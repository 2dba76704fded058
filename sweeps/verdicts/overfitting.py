"""The rules for overfitting: a rising validation loss, or a widening gap between the metrics.

The thresholds were chosen on the `tune` part of benchmarks/fit.
"""

from __future__ import annotations

import math

from sweeps.verdicts.advice import Advice
from sweeps.verdicts.features import DIP, CurveFeatures, Rise, format_number
from sweeps.verdicts.noise import evaluated_examples
from sweeps.verdicts.verdict import FitVerdict
from sweeps.verdicts.verdict_construction import multiple, overfit, unsettled

MIN_RISE, MIN_RISE_OF_SCALE = 0.10, 0.08
"""A validation loss is level if it ends less than 10 % above its minimum, or less than 8 % of
`rise_scale` above it, which lies between that minimum and the loss of a model that knows
nothing."""

LARGE_RISE = 0.5
"""A rise by half of the minimum is large, however far the loss had fallen before."""

DOUBTFUL_RISE = 0.09
"""A rise from this share of the minimum on leaves it open whether the run overfitted, even if
it may be chance."""

MIN_GAP = 0.12
"""A gap between the training and the validation metric matters from twelve points of growth on."""

MIN_TRAIN_IMPROVEMENT = 0.02
"""A training loss that fell by 2 % is still falling."""

STRENGTH_WITHOUT_TRAINING = 1.7
"""Without a training curve, a verdict of overfitting has a confidence of at most 0.675: too little
to stop a run, because a bump looks the same as long as it lasts."""

FITTED = 0.5
"""Training examples with half of the validation loss are fitted; a training loss that stays
there has ended its fall."""


MIN_LOSS_OF_METRIC = 0.1
"""A metric that ended ten points below its best has clearly got worse."""


def metric_outweighs_loss(features: CurveFeatures) -> bool:
    """Return whether the metric decides and is fine, although the validation loss rises.

    The answers of a model can get better while the probability of the reference texts falls. So
    generated texts that get no worse are fine. For labels, the loss must not rise unless the metric
    got better: it says how sure the model is of a wrong label.
    """
    rise = features.rise
    if rise is None or features.curve.best_by != "metric":
        return False
    if features.metric_improved_since(rise.onset) or features.metric_is_saturated:
        return True
    return features.metric_is_level and not features.metric_is_about_labels


def risen_loss(features: CurveFeatures) -> str:
    """Describe a validation loss that rose beyond chance; empty if it did not."""
    rise = features.rise
    if rise is None or rise.height <= max(MIN_RISE * abs(rise.low), features.rise_noise(rise.low, rise.height)):
        return ""
    return _rise_text(rise, features)


def _rise_text(rise: Rise, features: CurveFeatures) -> str:
    return (
        f"validation loss rose from {format_number(rise.low)} (epoch {format_number(rise.onset)}) to "
        f"{format_number(rise.last)} (epoch {format_number(features.last_epoch)})"
    )


def validation_loss_rises(features: CurveFeatures, advice: Advice) -> FitVerdict | None:
    """Find overfitting in the losses: validation has turned while training goes on falling."""
    rise = features.rise
    if rise is None or metric_outweighs_loss(features):
        return None
    threshold, noise = MIN_RISE * abs(rise.low), features.rise_noise(rise.low, rise.height)
    if rise.height <= DOUBTFUL_RISE * abs(rise.low):
        return None
    rose = _rise_text(rise, features)
    training_went_on = _training_improved(features, rise.onset)
    if training_went_on is None and features.metric_never_rose:
        return None
    if rise.height <= noise:
        if (gap := metric_gap_widens(features, advice) or _metrics_far_apart(features, advice)) is not None:
            return gap
        count = evaluated_examples(features.curve.valid_examples)
        return unsettled(f"{rose}, which may be chance with {count} validation examples", strength=1.0)
    if rise.height <= max(threshold, min(MIN_RISE_OF_SCALE * features.rise_scale, LARGE_RISE * abs(rise.low))):
        return None
    if training_went_on is None and features.train_loss is None and features.train_metric is None:
        # Nothing else makes a validation loss rise that far and stay there, but divergence would.
        strength = min(multiple(rise.height, max(noise, threshold)), STRENGTH_WITHOUT_TRAINING)
        return overfit(f"{rose}; no training loss is known", features, advice, rise.onset, strength)
    if training_went_on is None:
        return unsettled(f"{rose}, and the training curve does not show why", strength=1.0)
    evidence = f"{rose} {training_went_on}{_later_metric(features, rise.onset)}"
    return overfit(evidence, features, advice, rise.onset, multiple(rise.height, max(noise, threshold)))


def _later_metric(features: CurveFeatures, onset: float) -> str:
    """Explain why the kept epoch is later than the turn of the loss; empty if it is not later."""
    metric, kept = features.valid_metric, features.keep_epoch
    if metric is None or kept is None or kept <= onset or features.curve.best_by != "metric":
        return ""
    before = metric.at(onset) if onset > 0 else features.baseline.valid_metric
    against = "" if before is None else f", against {features.metric_text(before)} at epoch {format_number(onset)}"
    best = features.metric_text(max(metric.values))
    return f"; validation {features.metric_name} was best at epoch {format_number(kept)}: {best}{against}"


def _training_improved(features: CurveFeatures, since: float) -> str | None:
    """Describe how training improved while validation got worse; None if it did not, or unknown."""
    rose = f"training {features.metric_name} {features.metric_rose}"
    for series, base, change, sign, text in (
        (features.train_loss, features.baseline.train_loss, "training loss fell", -1, format_number),
        (features.train_metric, features.baseline.train_metric, rose, 1, features.metric_text),
    ):
        if series is None:
            continue
        before = series.at(since) if since > 0 or base is None else base
        if sign * (series.last - before) > MIN_TRAIN_IMPROVEMENT * abs(before):
            return f"while {change} from {text(before)} to {text(series.last)}"
    train, rise = features.train_loss, features.rise
    if train is not None and rise is not None and train.last < FITTED * rise.low:
        return f"while training loss was already down at {format_number(train.last)}"
    return None


def metric_gap_widens(features: CurveFeatures, advice: Advice) -> FitVerdict | None:
    """Find overfitting in the metrics: validation has stopped improving and training has not."""
    train, valid, base = features.train_metric, features.valid_metric, features.baseline
    if train is None or valid is None:
        return None
    epochs, values = valid.epochs, valid.values
    first_train = train.values[0]
    if base.valid_metric is not None and base.train_metric is not None:
        epochs, values, first_train = (0.0, *epochs), (base.valid_metric, *values), base.train_metric
    best = max(values)
    near_best = best - features.valid_noise(best) / 2
    onset = next(epoch for epoch, value in zip(epochs, values, strict=True) if value >= near_best)
    if onset >= epochs[-1] or _valid_loss_fell_since(features, onset):
        return None
    train_at_onset = first_train if onset == epochs[0] else train.at(onset)
    gap, gap_at_onset = train.last - valid.last, train_at_onset - values[epochs.index(onset)]
    noise = max(features.gap_noise(train.last, valid.last), MIN_GAP)
    if min(gap, gap - gap_at_onset, train.last - train_at_onset) <= noise:
        return None
    name = features.metric_name
    evidence = (
        f"training {name} {features.metric_rose} from {features.metric_text(train_at_onset)} (epoch "
        f"{format_number(onset)}) to {features.metric_text(train.last)} (epoch {format_number(epochs[-1])}) while "
        f"validation {name} ended at {features.metric_text(valid.last)}: a gap of {features.gap_text(gap)}, of which "
        f"sampling explains {features.gap_text(noise)}"
    )
    return overfit(evidence, features, advice, onset, multiple(gap - gap_at_onset, noise))


def ended_below_its_best(features: CurveFeatures, advice: Advice) -> FitVerdict | None:
    """Find a metric that decides and ended clearly below its best, for whatever reason."""
    metric = features.valid_metric
    if metric is None or features.curve.best_by != "metric":
        return None
    best = max(metric.values)
    # The best of many evaluations is one of the lucky ones, and the last one may be unlucky.
    noise = math.hypot(features.valid_noise(best), features.valid_noise(metric.last)) + DIP * metric.roughness
    lost = best - metric.last
    if lost <= max(noise, MIN_LOSS_OF_METRIC):
        return None
    name = features.metric_name
    evidence = (
        f"validation {name} was best at epoch {format_number(metric.epoch_of(max))}, {features.metric_text(best)}, and "
        f"ended at {features.metric_text(metric.last)}: {features.gap_text(lost)} worse, of which sampling explains "
        f"{features.gap_text(noise)}"
    )
    return unsettled(evidence, strength=1.0)


def _metrics_far_apart(features: CurveFeatures, advice: Advice) -> FitVerdict | None:
    """Find memorised training examples: a gap far beyond the noise, wherever it began."""
    train, valid = features.train_metric, features.valid_metric
    if train is None or valid is None:
        return None
    gap, noise = train.last - valid.last, max(features.gap_noise(train.last, valid.last), MIN_GAP)
    if gap <= 2 * noise:
        return None
    name = features.metric_name
    evidence = (
        f"training {name} ended at {features.metric_text(train.last)} and validation {name} at "
        f"{features.metric_text(valid.last)}: a gap of {features.gap_text(gap)}, of which sampling explains "
        f"{features.gap_text(noise)}"
    )
    return overfit(evidence, features, advice, features.keep_epoch or 0.0, 2 * multiple(gap, 2 * noise))


def _valid_loss_fell_since(features: CurveFeatures, epoch: float) -> bool:
    loss, base = features.valid_loss, features.baseline.valid_loss
    if loss is None:
        return False
    before = loss.at(epoch) if epoch > 0 or base is None else base
    return before - loss.last > features.loss_noise(before)
