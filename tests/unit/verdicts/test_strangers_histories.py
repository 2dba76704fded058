"""Verdicts on kinds of histories on which the judge failed: files that strangers have published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest

from backends.training_logs.learning_curve import CurvePoint, LearningCurve
from sweeps.verdicts.advice import Advice
from sweeps.verdicts.judge import MANY_EXAMPLES, MIN_CONFIDENCE_TO_STOP, early_stop_verdict, judge
from sweeps.verdicts.verdict import VerdictKind

pytestmark = pytest.mark.unit


def history(
    train_loss: Sequence[float] | None,
    valid_loss: Sequence[float] | None,
    valid_metric: Sequence[float] | None = None,
    *,
    examples: int | None = None,
) -> LearningCurve:
    """A log of a stranger: nothing is known but its columns, one row an epoch."""
    columns = (train_loss, valid_loss, None, valid_metric)
    epochs = max(len(column) for column in columns if column is not None)
    points = tuple(
        CurvePoint(n + 1.0, n + 1, *(None if column is None else column[n] for column in columns))
        for n in range(epochs)
    )
    metric = None if valid_metric is None else "accuracy"
    return LearningCurve(points, metric=metric, valid_examples=examples, best_by="loss" if metric is None else "metric")


def test_a_run_whose_metric_ended_far_below_its_best_is_not_healthy() -> None:
    train = [1.49, 1.41, 1.34, 1.32, 1.30, 1.28, 1.24, 1.22, 1.17, 1.157]
    loss = [1.488, 1.367, 1.326, 1.37, 1.36, 1.43, 1.44, 1.48, 1.51, 1.486]
    accuracy = [0.9, 0.41, 0.49, 0.58, 0.59, 0.78, 0.74, 0.78, 0.815, 0.779]
    verdict = judge(history(train, loss, accuracy), Advice())
    assert verdict.kind is VerdictKind.UNSETTLED
    assert "best at epoch 1, 0.9, and ended at 0.779" in verdict.evidence
    assert "got no worse" not in verdict.evidence
    assert verdict.keep_epoch == 1


def test_the_verdict_does_not_hinge_silently_on_an_assumed_size() -> None:
    train, loss, accuracy = [0.308, 0.201, 0.142], [0.2548, 0.2881, 0.3752], [0.8925, 0.9032, 0.9084]
    known = judge(history(train, loss, accuracy, examples=40430), Advice())
    assert known.kind is VerdictKind.HEALTHY
    unknown = judge(history(train, loss, accuracy), Advice())
    assert unknown.kind is VerdictKind.OVERFIT
    assert unknown.confidence == 0.5
    assert f"with {MANY_EXAMPLES:,} the run would be healthy" in unknown.evidence


def test_a_verdict_that_no_size_changes_keeps_the_lower_confidence_and_says_nothing() -> None:
    overfit = ([0.6, 0.3, 0.1, 0.05], [0.4, 0.55, 0.8, 1.1])
    unknown = judge(history(*overfit), Advice())
    assert unknown.kind is VerdictKind.OVERFIT
    assert "unknown" not in unknown.evidence
    sizes = [judge(history(*overfit, examples=examples), Advice()).confidence for examples in (200, MANY_EXAMPLES)]
    assert unknown.confidence == min(sizes)


@pytest.mark.parametrize("start", [1.2, 8.0, 40.0])
def test_a_late_rise_after_a_long_noisy_plateau_is_found(start: float) -> None:
    """Neither the noise of the plateau nor the height of the first loss hides it."""
    dice = Random(1)
    plateau = [start, *(1.0 + dice.gauss(0, 0.06) for _ in range(150))]
    rise = [0.95 + 0.55 * n / 60 for n in range(60)]
    train = [start / (1 + 0.05 * n) for n in range(len(plateau) + len(rise))]
    verdict = judge(history(train, [*plateau, *rise], examples=2000), Advice())
    assert verdict.kind is VerdictKind.OVERFIT


def test_a_noisy_plateau_alone_is_no_overfitting() -> None:
    dice = Random(2)
    level = [1.2, *(1.0 + dice.gauss(0, 0.06) for _ in range(200))]
    verdict = judge(history([1.0 / (1 + 0.01 * n) for n in range(201)], level, examples=2000), Advice())
    assert verdict.kind is not VerdictKind.OVERFIT


def test_a_rise_of_an_eighth_at_twelve_evaluations_is_not_smoothed_away() -> None:
    loss = [1.0, 0.8, 0.7, 0.62, 0.58, 0.55, 0.53, 0.52, 0.51, 0.50, 0.525, 0.565]
    train = [1.0 - 0.07 * n for n in range(12)]
    verdict = judge(history(train, loss, examples=20000), Advice())
    assert verdict.kind is VerdictKind.OVERFIT


def test_a_lucky_evaluation_of_twelve_does_not_make_generated_answers_worse() -> None:
    """Numbers of a run of benchmarks/fit/free_text.py; its oracle finds the answers level."""
    train = [2.306, 1.501, 1.372, 1.276, 1.166, 1.062, 1.018, 1.023, 0.899, 0.845, 0.758, 0.701]
    loss = [2.414, 1.691, 1.621, 1.619, 1.576, 1.491, 1.592, 1.609, 1.721, 1.994, 1.837, 1.975]
    right = [0.0, 0.07, 0.18, 0.19, 0.25, 0.34, 0.3, 0.29, 0.4, 0.31, 0.39, 0.33]

    def verdict_on(right_answers: Sequence[float]) -> VerdictKind:
        curve = history(train, loss, right_answers, examples=100)
        base = CurvePoint(0.0, 0, train_loss=15.33, valid_loss=15.34, valid_metric=0.0)
        return judge(replace(curve, metric="right", baseline=base), Advice()).kind

    assert verdict_on(right) is VerdictKind.HEALTHY
    assert verdict_on([*right[:9], 0.25, 0.2, 0.15]) is VerdictKind.OVERFIT


def test_a_loss_of_validation_alone_that_rises_far_is_overfitting_with_less_confidence() -> None:
    loss = [0.45, 0.37, 0.38, 0.41, 0.45, 0.5, 0.56, 0.6]
    verdict = judge(history(None, loss, examples=2000), Advice())
    assert verdict.kind is VerdictKind.OVERFIT
    assert "no training loss is known" in verdict.evidence
    assert verdict.confidence < MIN_CONFIDENCE_TO_STOP
    assert early_stop_verdict(history(None, loss, examples=2000), Advice()) is None
    rising = [0.5 + 0.05 * n for n in range(8)]
    assert judge(history(rising, loss, examples=2000), Advice()).kind is not VerdictKind.OVERFIT


def test_losses_that_stay_at_those_of_a_guess_are_underfitting() -> None:
    loss = [0.696, 0.695, 0.692, 0.694, 0.691]
    verdict = judge(history(loss, loss), Advice())
    assert verdict.kind is VerdictKind.UNDERFIT
    assert "a guess between 2 labels" in verdict.evidence
    flat = [0.45, 0.451, 0.449, 0.45, 0.45]
    assert judge(history(flat, flat), Advice()).kind is VerdictKind.UNSETTLED


def test_a_metric_that_stays_at_zero_is_underfitting_although_the_loss_falls() -> None:
    loss = [3.2, 1.5, 0.9, 0.7, 0.6, 0.56, 0.555, 0.553]
    verdict = judge(history(loss, loss, [0.002, *[0.0] * 7]), Advice())
    assert verdict.kind is VerdictKind.UNDERFIT
    assert judge(history(loss, loss, [0.0, 0.0, *[0.5] * 6]), Advice()).kind is not VerdictKind.UNDERFIT
