"""The rules for underfitting: nothing learned, still improving, or ended too early to tell.

The thresholds were chosen on the `tune` part of benchmarks/fit.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from sweeps.verdicts.advice import Advice, NoLearningCause
from sweeps.verdicts.divergence import FAR_ABOVE
from sweeps.verdicts.features import CurveFeatures, format_number
from sweeps.verdicts.noise import RESOLUTION, evaluated_examples
from sweeps.verdicts.overfitting import FITTED
from sweeps.verdicts.verdict import FitVerdict, VerdictKind
from sweeps.verdicts.verdict_construction import (
    diverged,
    epoch_span,
    make_verdict,
    multiple,
    unsettled,
)

MIN_EVALUATIONS = 2
"""One evaluation is a level, not a curve."""

MIN_EVALUATIONS_IF_STOPPED = 3
"""A stopped run shows a plateau in three evaluations at the earliest: two may be a slow start."""

MIN_EXPECTED_FALL, MIN_EXPECTED_FALL_OF_SCALE = 0.03, 0.03
"""A run had not reached its end if its trend promises another 3 % off its validation loss, and 3
% of the loss of a model that knows nothing."""

MIN_EXPECTED_FALL_OF_GAIN = 0.03
"""Nor is more training worthwhile for a thirtieth of what training has gained so far."""

CEILING = 0.06
"""A validation metric within six points of 1, and within its noise, cannot improve further."""

GUESS_WITHIN, MOST_GUESSED = 0.03, 10
"""Losses that stay within 3 % of ln k are those of a guess between k labels, up to ten."""

MIN_LOSS_CHANGE = 0.07
"""A run has learned nothing if its loss is within 7 % of the base model's."""


class _Improvement(NamedTuple):
    """An improvement at the end of the curve in words, and its size as a multiple of the noise."""

    text: str
    strength: float


def no_validation(features: CurveFeatures, advice: Advice) -> FitVerdict | None:
    """Find a curve without any value for examples outside the training set."""
    if features.valid_loss is not None or features.valid_metric is not None:
        return None
    return unsettled("it was evaluated on training examples only" if features.points else "no evaluation was made")


def too_few_evaluations(features: CurveFeatures, advice: Advice) -> FitVerdict | None:
    """Find a single value instead of a curve."""
    if features.evaluations >= MIN_EVALUATIONS:
        return None
    ended = {"stopped": "it was stopped", "failed": "it failed"}.get(features.curve.ended, "training ended")
    return unsettled(f"{ended} after one evaluation (epoch {format_number(features.last_epoch)}): too little to judge")


def ended_early(features: CurveFeatures, advice: Advice) -> FitVerdict | None:
    """Find a run that did not end by itself, unless its curve had already settled."""
    ended, last = features.curve.ended, format_number(features.last_epoch)
    if ended == "failed":
        return unsettled(f"it failed after epoch {last}, before its curve showed anything")
    if ended != "stopped":
        return None
    if features.evaluations < MIN_EVALUATIONS_IF_STOPPED:
        return unsettled(
            f"it was stopped after epoch {last}, with {features.evaluations} evaluations: too few to judge"
        )
    if (improvement := _improvement(features)) is not None:
        return unsettled(f"it was stopped after epoch {last} while {improvement.text}", improvement.strength)
    train = features.train_trend
    if train is not None and train.expected_fall > MIN_EXPECTED_FALL * abs(train.end):
        fall = f"from {format_number(train.start)} to {format_number(train.end)} {epoch_span(features, train)}"
        return unsettled(f"it was stopped after epoch {last} while training loss still fell {fall}")
    return None


def learned_nothing(features: CurveFeatures, advice: Advice) -> FitVerdict | None:
    """Find a run that ends not clearly better than a model without training."""
    if (stuck := _losses_hardly_moved(features)) is not None:
        return _underfit(stuck, features, advice, strength=2.0)
    if features.valid_metric is not None and features.no_skill is not None:
        return _metric_shows_no_learning(features, advice)
    if features.metric_stays_at_zero:
        evidence = f"validation {features.metric_name} ended at {features.metric_text(0.0)}, and hardly ever left it"
        return _underfit(evidence, features, advice, strength=2.0)
    return _loss_shows_no_learning(features, advice)


def _metric_shows_no_learning(features: CurveFeatures, advice: Advice) -> FitVerdict | None:
    metric, no_skill = features.valid_metric, features.no_skill
    assert metric is not None
    assert no_skill is not None
    floor, model = no_skill
    gain, noise = metric.last - floor, features.valid_noise(floor)
    if gain > noise or 1 - floor <= noise:
        return None
    count = evaluated_examples(features.curve.metric_examples or features.curve.valid_examples)
    evidence = (
        f"validation {features.metric_name} ended at {features.metric_text(metric.last)}, {model} has "
        f"{features.metric_text(floor)}, and {count} examples only show differences above {features.gap_text(noise)}"
    )
    if noise > RESOLUTION and gain > 0:
        return None if _both_losses_fell(features) else unsettled(evidence, strength=1.0)
    return _underfit(evidence, features, advice, strength=2 - multiple(gain, noise))


def _loss_shows_no_learning(features: CurveFeatures, advice: Advice) -> FitVerdict | None:
    loss, base = features.valid_loss, features.baseline.valid_loss
    if loss is None:
        return unsettled(f"the {features.metric_name} before training is unknown", strength=1.0)
    start = base if base is not None else loss.values[0]
    if start - loss.last > MIN_LOSS_CHANGE * abs(start):
        return None
    if base is None:
        train = features.train_loss
        train_fell = train is not None and train.values[0] - train.last > MIN_LOSS_CHANGE * abs(train.values[0])
        if train_fell or _improvement(features) is not None:
            return None
        if (labels := _labels_guessed(features)) is not None:
            level = format_number(loss.last)
            evidence = f"validation loss stayed near {level}, which is that of a guess between {labels} labels"
            return _underfit(evidence, features, advice, strength=1.4)
        return unsettled(
            f"validation loss stayed near {format_number(loss.last)}, and its value before training is unknown",
            strength=1.0,
        )
    evidence = f"validation loss ended at {format_number(loss.last)}, the base model has {format_number(base)}"
    return _underfit(evidence, features, advice, 2 - multiple(base - loss.last, MIN_LOSS_CHANGE * abs(start)))


def _labels_guessed(features: CurveFeatures) -> int | None:
    """Return between how many labels a model guesses that has these losses; None if it does not.

    A guess between k equally frequent labels has the cross-entropy ln k.
    """
    loss, train = features.valid_loss, features.train_loss
    if loss is None or train is None:
        return None
    for labels in range(2, MOST_GUESSED + 1):
        guess = math.log(labels)
        if all(abs(value - guess) <= GUESS_WITHIN * guess for value in (*loss.values, *train.values)):
            return labels
    return None


def _both_losses_fell(features: CurveFeatures) -> bool:
    """Return whether both losses ended clearly below the base model's."""
    pairs = (
        (features.train_loss, features.baseline.train_loss),
        (features.valid_loss, features.baseline.valid_loss),
    )
    return all(
        series is not None and base is not None and base - series.last > MIN_LOSS_CHANGE * abs(base)
        for series, base in pairs
    )


def _losses_hardly_moved(features: CurveFeatures) -> str | None:
    """Describe losses that are still close to the base model's; None if one has moved."""
    changes = []
    for series, base, name in (
        (features.valid_loss, features.baseline.valid_loss, "validation"),
        (features.train_loss, features.baseline.train_loss, "training"),
    ):
        if series is None or base is None:
            continue
        if abs(base - series.last) > MIN_LOSS_CHANGE * abs(base):
            return None
        changes.append(f"{name} loss from {format_number(base)} to {format_number(series.last)}")
    return f"the losses hardly moved: {', '.join(changes)}" if changes else None


def _underfit(evidence: str, features: CurveFeatures, advice: Advice, strength: float) -> FitVerdict:
    """Build the verdict on a run that learned nothing, with the cause that the curve shows."""
    improvement = _improvement(features)
    if (improvement is None or features.metric_never_rose) and (spike := features.spike) is not None:
        rose = f"{spike.name} rose to {format_number(spike.peak)} (epoch {format_number(spike.epoch)})"
        evidence = f"{rose}, the base model has {format_number(spike.base)}; {evidence}"
        return diverged(evidence, advice, 0.0, multiple(spike.peak, FAR_ABOVE * spike.base))
    if features.curve.ended == "stopped":
        last = format_number(features.last_epoch)
        return unsettled(f"it was stopped after epoch {last}; by then {evidence}", strength=1.0)
    if improvement is not None:
        return make_verdict(
            VerdictKind.UNDERFIT,
            f"{evidence}; {improvement.text} when training ended",
            advice.for_verdict(VerdictKind.UNDERFIT),
            strength=strength,
            improving=True,
        )
    cause, explanation = _no_learning_cause(features)
    return make_verdict(
        VerdictKind.UNDERFIT,
        f"{evidence}: {explanation}",
        advice.for_verdict(VerdictKind.UNDERFIT, cause=cause),
        strength=strength,
        collapsed=cause == "collapsed",
    )


def _no_learning_cause(features: CurveFeatures) -> tuple[NoLearningCause, str]:
    """Return why a run learned nothing, with the explanation in words."""
    if features.loss_fell_far and not features.metric_is_about_labels:
        return "unclear", "training lowered the loss, but the answers did not get better"
    if features.loss_fell_far:
        return "collapsed", (
            "it learned how often each label occurs and nothing about the examples, as with a learning rate that is "
            "too large or with labels that the examples do not explain"
        )
    if features.a_loss_falls_slowly:
        return "slow", "it learns nothing, or far too slowly"
    if (norms := features.faded_gradient) is not None:
        return "collapsed", (
            f"the gradient shrank from {format_number(norms[0])} to {format_number(norms[1])} although nothing was "
            "learned, as with a learning rate that is too large"
        )
    return "unclear", (
        "the learning rate is far too small, or so large that the model collapsed before the first evaluation"
    )


def still_improving(features: CurveFeatures, advice: Advice) -> FitVerdict | None:
    """Find a run that has learned something and was still getting better when training ended."""
    improvement = _improvement(features)
    if improvement is None:
        return None
    return make_verdict(
        VerdictKind.UNDERFIT,
        f"{improvement.text} when training ended",
        advice.for_verdict(VerdictKind.UNDERFIT),
        strength=improvement.strength,
        improving=True,
    )


def _improvement(features: CurveFeatures) -> _Improvement | None:
    """Return how validation, together with training, still improved at the end of the curve."""
    train = features.train_trend
    if train is not None and train.fall <= 0:
        return None
    if features.metric_is_perfect:
        return None
    rising_metric = _rising_metric(features)
    metric = features.valid_metric
    at_ceiling = metric is not None and 1 - metric.last <= min(CEILING, features.valid_noise(metric.last))
    if rising_metric is None and at_ceiling:
        return None
    loss = features.valid_trend
    if loss is None or features.learning_rate_decayed:
        return rising_metric
    noise = features.trend_noise(loss.end, shared=train is not None or features.valid_loss_fell_steadily)
    threshold = max(
        MIN_EXPECTED_FALL * abs(loss.end),
        MIN_EXPECTED_FALL_OF_SCALE * features.unlearned_loss,
        MIN_EXPECTED_FALL_OF_GAIN * features.loss_gain,
    )
    if loss.fall <= noise or loss.expected_fall <= threshold:
        return None
    if train is not None:
        training_settled = train.expected_fall <= MIN_EXPECTED_FALL * abs(train.end)
        if training_settled or train.end < FITTED * loss.end:
            return None
    strength = min(multiple(loss.fall, noise), multiple(loss.expected_fall, threshold))
    if rising_metric is not None:
        return _Improvement(rising_metric.text, max(rising_metric.strength, strength))
    fall = f"from {format_number(loss.start)} to {format_number(loss.end)} {epoch_span(features, loss)}"
    return _Improvement(f"validation loss still fell {fall}", strength)


def _rising_metric(features: CurveFeatures) -> _Improvement | None:
    metric, series = features.metric_trend, features.valid_metric
    if metric is None or series is None:
        return None
    gain, noise = metric.end - metric.start, features.valid_noise(metric.start)
    before = [value for epoch, value in zip(series.epochs, series.values, strict=True) if epoch <= metric.start_epoch]
    if gain <= noise or metric.end - max(before, default=metric.start) <= noise / 2:
        return None
    start, end = features.metric_text(metric.start), features.metric_text(metric.end)
    change = f"{features.metric_rose} from {start} to {end} {epoch_span(features, metric)}"
    return _Improvement(f"validation {features.metric_name} still {change}", multiple(gain, noise))
