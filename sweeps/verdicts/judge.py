"""Judge a learning curve by a fixed order of rules, with numbers and advice.

A pure function. The rules have a fixed order. Each rule returns a verdict or None, and the first
verdict decides. The module `features` computes what the rules compare, and benchmarks/fit measures
how often they are right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from backends.training_logs.learning_curve import LearningCurve
from sweeps.verdicts.advice import Advice
from sweeps.verdicts.divergence import learning_was_lost, loss_ran_away, non_finite_value
from sweeps.verdicts.features import CurveFeatures, format_number
from sweeps.verdicts.noise import ASSUMED_EXAMPLES
from sweeps.verdicts.overfitting import (
    MIN_RISE,
    ended_below_its_best,
    metric_gap_widens,
    metric_outweighs_loss,
    risen_loss,
    validation_loss_rises,
)
from sweeps.verdicts.underfitting import (
    MIN_EVALUATIONS,
    ended_early,
    learned_nothing,
    no_validation,
    still_improving,
    too_few_evaluations,
)
from sweeps.verdicts.verdict import FitVerdict, VerdictKind
from sweeps.verdicts.verdict_construction import LOWEST_CONFIDENCE, make_verdict, multiple

MIN_CONFIDENCE_TO_STOP = 0.7
"""A running trial is stopped at this confidence. benchmarks/fit measures how much that saves,
and how often a trial would have reached a better state."""

STRENGTH_OF_TWO = 2.0
"""Two evaluations show that a run learned, and hardly that it has learned enough."""

MANY_EXAMPLES = 5000
"""A validation set of this size leaves little to chance."""

_RULES: tuple[Callable[[CurveFeatures, Advice], FitVerdict | None], ...] = (
    non_finite_value,
    no_validation,
    loss_ran_away,
    too_few_evaluations,
    learning_was_lost,
    validation_loss_rises,
    metric_gap_widens,
    ended_early,
    learned_nothing,
    still_improving,
    ended_below_its_best,
)


def judge(curve: LearningCurve, advice: Advice) -> FitVerdict:
    """Judge how well a run fitted.

    Never raises; if the curve does not show how it fitted, the verdict is `unsettled`. Where the
    size of the validation set is unknown, the verdict assumes `ASSUMED_EXAMPLES`. If a large set
    would change it, its confidence is the lowest, and the evidence says so.
    """
    verdict = _judge(curve, advice)
    hinges_on_size = verdict.kind is not VerdictKind.DIVERGED and curve.points
    if not hinges_on_size or (curve.metric_examples or curve.valid_examples) is not None:
        return verdict
    with_many = _judge(replace(curve, valid_examples=MANY_EXAMPLES), advice)
    if with_many.kind is verdict.kind:
        return replace(verdict, confidence=min(verdict.confidence, with_many.confidence))
    hint = (
        f"; the number of validation examples is unknown: this holds for {ASSUMED_EXAMPLES}, "
        f"and with {MANY_EXAMPLES:,} the run would be {with_many.kind}"
    )
    return replace(verdict, confidence=LOWEST_CONFIDENCE, evidence=verdict.evidence + hint)


def _judge(curve: LearningCurve, advice: Advice) -> FitVerdict:
    features = CurveFeatures(curve)
    last_epoch = features.last_epoch if features.points else 0.0
    fitting_advice = advice.for_curve(features.keep_epoch, last_epoch)
    verdicts = (rule(features, fitting_advice) for rule in _RULES)
    verdict = next((verdict for verdict in verdicts if verdict is not None), None) or _healthy(features)
    evidence = verdict.evidence + _other_fact(verdict, features)
    return replace(verdict, evidence=evidence, keep_epoch=features.keep_epoch)


def _other_fact(verdict: FitVerdict, features: CurveFeatures) -> str:
    """Add what the evidence does not say yet of the loss and of the metric that decides."""
    metric = features.valid_metric
    if features.curve.best_by != "metric":
        return ""
    if metric is None:
        unjudged = features.curve.metric is not None and features.valid_loss is not None
        return f"; this is about the loss, because {features.metric_name} cannot be judged" if unjudged else ""
    lost = verdict.kind in (VerdictKind.DIVERGED, VerdictKind.OVERFIT)
    if not lost and metric_outweighs_loss(features) and (rose := risen_loss(features)):
        got_worse = ended_below_its_best(features, Advice()) is not None
        return f"; {rose}" if got_worse else f"; {rose}, but {features.metric_name} decides, which got no worse"
    if features.metric_is_about_labels or features.metric_name in verdict.evidence:
        return ""
    base = features.baseline.valid_metric
    start = metric.values[0] if base is None else base
    source = "first evaluation" if base is None else "base model"
    change = f"{features.metric_text(start)} ({source}) to {features.metric_text(metric.last)}"
    return f"; validation {features.metric_name} went from {change}"


def early_stop_verdict(curve: LearningCurve, advice: Advice) -> FitVerdict | None:
    """Return the verdict on a running trial if more training will surely not help; else None.

    That is a run that has diverged or overfits, with a confidence of at least
    `MIN_CONFIDENCE_TO_STOP`. A run does not overfit as long as the metric that decides gets better,
    and nobody knows whether it does if the curve lacks that metric.
    """
    verdict = judge(replace(curve, ended="stopped"), advice)
    is_lost = verdict.kind in {VerdictKind.DIVERGED, VerdictKind.OVERFIT}
    if not is_lost or verdict.confidence < MIN_CONFIDENCE_TO_STOP:
        return None
    if verdict.kind is VerdictKind.OVERFIT and _may_be_improving(curve):
        return None
    return verdict


def _may_be_improving(curve: LearningCurve) -> bool:
    """Return whether the metric that decides has just become best, or is unknown."""
    if curve.best_by != "metric":
        return False
    features = CurveFeatures(curve)
    if features.valid_metric is None:
        return curve.metric is not None
    return features.metric_ends_at_a_new_best


def _healthy(features: CurveFeatures) -> FitVerdict:
    parts, strength = [], 1.0
    for series, base, name in (
        (features.valid_metric, features.baseline.valid_metric, features.metric_name),
        (features.valid_loss, features.baseline.valid_loss, "loss"),
    ):
        if series is not None:
            start, source = (base, "base model") if base is not None else (series.values[0], "first evaluation")
            is_metric = series is features.valid_metric
            text = features.metric_text if is_metric else format_number
            parts.append(f"validation {name} went from {text(start)} ({source}) to {text(series.last)}")
            noise = features.valid_noise(start) if is_metric else features.loss_noise(start)
            strength = max(strength, multiple(abs(series.last - start), noise))
    if features.rise is not None and features.rise.observed > MIN_RISE * abs(features.rise.low):
        strength = 1.0  # it may still be overfitting hidden by noise
    if features.evaluations == MIN_EVALUATIONS:
        strength = min(strength, STRENGTH_OF_TWO)
    return make_verdict(VerdictKind.HEALTHY, ", ".join(parts), strength=strength)
