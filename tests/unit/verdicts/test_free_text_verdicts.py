"""Verdicts about free text: the task metric decides, and a rising loss is only a second fact."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.contract import DataFile, Dataset, Measured, MetricRequest
from backends.metrics.contract import MetricDeclaration
from backends.training_logs.learning_curve import CurvePoint, LearningCurve, MetricScale
from sweeps.data.prepared_data import PreparedData
from sweeps.spec.objective import Objective
from sweeps.spec.task_metrics import TaskMetric
from sweeps.trials.curve import learning_curve_of
from sweeps.trials.trial import Trial, TrialState
from sweeps.verdicts.advice import Advice
from sweeps.verdicts.judge import early_stop_verdict, judge
from sweeps.verdicts.verdict import VerdictKind

pytestmark = pytest.mark.unit

ADVICE = Advice(())
RISING_LOSS, FALLING_TRAIN_LOSS = [0.9, 1.0, 1.3, 1.7], [0.8, 0.5, 0.3, 0.15]


def text_curve(
    exact_match: list[float],
    valid_loss: list[float],
    train_loss: list[float],
    *,
    scale: MetricScale = MetricScale(),  # noqa: B008  a frozen value
) -> LearningCurve:
    points = tuple(
        CurvePoint(n + 1.0, 10 * (n + 1), train, valid, None, metric)
        for n, (train, valid, metric) in enumerate(zip(train_loss, valid_loss, exact_match, strict=True))
    )
    baseline = CurvePoint(0.0, 0, 2.0, 2.0, None, 0.0)
    return LearningCurve(
        points, baseline, "exact_match", 256, 1000, metric_scale=scale, metric_examples=200, best_by="metric"
    )


def test_a_rising_loss_is_no_overfitting_while_the_answers_get_better() -> None:
    verdict = judge(text_curve([0.2, 0.4, 0.6, 0.62], RISING_LOSS, FALLING_TRAIN_LOSS), ADVICE)
    assert verdict.kind is not VerdictKind.OVERFIT
    assert "validation loss rose from 0.9 (epoch 1) to 1.7 (epoch 4), but exact match decides" in verdict.evidence
    assert verdict.keep_epoch == 4
    assert "epochs from" not in verdict.advice


def test_a_rising_loss_with_answers_that_get_no_better_is_overfitting() -> None:
    curve = text_curve([0.5, 0.5, 0.48, 0.45], RISING_LOSS, FALLING_TRAIN_LOSS)
    verdict = judge(curve, ADVICE)
    assert verdict.kind is VerdictKind.OVERFIT
    assert "validation loss rose from 0.9" in verdict.evidence
    assert early_stop_verdict(curve, ADVICE) is not None


def test_a_rising_loss_with_answers_that_stay_as_good_as_their_best_is_no_overfitting() -> None:
    level = text_curve([0.57, 0.6, 0.58, 0.59], RISING_LOSS, FALLING_TRAIN_LOSS)
    verdict = judge(level, ADVICE)
    assert verdict.kind is VerdictKind.HEALTHY
    assert verdict.evidence.endswith("but exact match decides, which got no worse")
    assert early_stop_verdict(level, ADVICE) is None
    about_labels = replace(level, metric="accuracy", classes=3)
    assert judge(about_labels, ADVICE).kind is not VerdictKind.HEALTHY


def test_a_rising_loss_with_answers_that_were_never_right_is_overfitting() -> None:
    assert judge(text_curve([0.0] * 4, RISING_LOSS, FALLING_TRAIN_LOSS), ADVICE).kind is VerdictKind.OVERFIT


@given(
    st.lists(st.floats(0, 0.99), min_size=2, max_size=8),
    st.lists(st.floats(0.01, 5), min_size=8, max_size=8),
    st.lists(st.floats(0.01, 5), min_size=8, max_size=8),
)
def test_a_trial_whose_answers_just_became_best_is_never_stopped_for_overfitting(
    metric: list[float], valid: list[float], train: list[float]
) -> None:
    best_last = [*metric[:-1], max(metric) + 0.01]
    curve = text_curve(best_last, valid[: len(metric)], train[: len(metric)])
    verdict = early_stop_verdict(curve, ADVICE)
    assert verdict is None or verdict.kind is VerdictKind.DIVERGED


def test_a_run_that_ends_at_the_top_of_the_range_needs_no_more_training() -> None:
    rising_to_the_top = text_curve([0.04, 0.6, 1.0], [1.0, 0.5, 0.2], [0.9, 0.4, 0.15])
    assert judge(rising_to_the_top, ADVICE).kind is VerdictKind.HEALTHY
    below = text_curve([0.04, 0.4, 0.8], [1.0, 0.5, 0.2], [0.9, 0.4, 0.15])
    assert judge(below, ADVICE).kind is VerdictKind.UNDERFIT


def test_a_metric_for_which_lower_is_better_is_shown_in_its_own_unit() -> None:
    refusals = [0.9, 0.5, 0.2, 0.1]
    shares = [MetricScale(1.0, 0.0).share(value) for value in refusals]
    curve = text_curve(shares, [1.5, 1.2, 1.0, 0.95], [1.4, 1.1, 0.9, 0.85], scale=MetricScale(1.0, 0.0))
    verdict = judge(replace(curve, metric="refusal_rate"), ADVICE)
    assert "from 1 (base model) to 0.1" in verdict.evidence or "fell from" in verdict.evidence


def test_training_that_lowers_the_loss_and_improves_no_answer_is_underfitting_of_the_objective() -> None:
    verdict = judge(text_curve([0.0] * 4, [1.0, 0.8, 0.7, 0.69], [1.0, 0.8, 0.7, 0.68]), ADVICE)
    assert verdict.kind is VerdictKind.UNDERFIT
    assert "the answers did not get better" in verdict.evidence
    assert "label" not in verdict.evidence
    assert not verdict.collapsed


def _data() -> PreparedData:
    return PreparedData(
        dataset=Dataset(DataFile("t", 1000, "a"), DataFile("v", 500, "b"), "completion"),
        test=None,
        source="s",
        fallback_from=None,
        name="n",
        task="generation",
        separator="",
        origins={},
        label_counts={},
        lengths={},
        findings=(),
        digests={},
        fingerprint="f",
    )


def _built(declaration: MetricDeclaration, values: list[float]) -> LearningCurve:
    metric = TaskMetric(MetricRequest("score", "python"), declaration)
    measured = tuple(
        Measured(10 * n, float(n), {"valid_score": value, "valid_loss": loss}, "evaluation")
        for n, (value, loss) in enumerate(zip(values, [2.0, *RISING_LOSS], strict=False))
    )
    trial = Trial(1, "k", "m", {}, 1, state=TrialState.STOPPED, curve=measured)
    objective = Objective("valid_score", declaration.direction)
    return learning_curve_of(trial, _data(), [objective], (metric,), 120)


def test_the_curve_has_the_metric_as_a_share_of_its_range() -> None:
    bleu = _built(MetricDeclaration("maximize", 0.0, 100.0), [10.0, 30.0, 40.0])
    assert [point.valid_metric for point in bleu.points] == [0.3, 0.4]
    assert (bleu.metric, bleu.metric_examples, bleu.best_by, bleu.classes) == ("score", 120, "metric", None)
    distance = _built(MetricDeclaration("minimize", 0.0, 1.0), [1.0, 0.75, 0.5])
    assert [point.valid_metric for point in distance.points] == [0.25, 0.5]


def test_a_metric_without_a_range_is_not_judged_and_its_trial_is_not_stopped() -> None:
    unranged = _built(MetricDeclaration("maximize", None, None), [1.0, 10.0, 20.0, 30.0, 40.0])
    assert all(point.valid_metric is None for point in unranged.points)
    assert unranged.metric == "score"
    assert early_stop_verdict(unranged, ADVICE) is None
    assert judge(unranged, ADVICE).evidence.endswith("this is about the loss, because score cannot be judged")
