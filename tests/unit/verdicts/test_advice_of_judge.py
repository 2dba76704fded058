"""The advice of a verdict never contradicts the epoch that the verdict keeps, nor the limits."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.training_logs.learning_curve import CurvePoint, LearningCurve
from search_spaces.catalogue import Catalogue
from search_spaces.space import Limit, SearchSpace
from sweeps.verdicts.advice import Advice, advice_for_space
from sweeps.verdicts.judge import judge
from sweeps.verdicts.suggestion import SEPARATOR, Suggestion
from sweeps.verdicts.verdict import VerdictKind

pytestmark = pytest.mark.unit

LIMITS = {
    "num_train_epochs": Limit("int", low=1, high=50, default=3),
    "lr": Limit("float", low=1e-6, high=1.0),
    "lora_r": Limit("int", low=1, high=256, default=8),
}
WRITTEN = {
    "num_train_epochs": {"low": 1, "high": 20},
    "lr": {"low": 1e-5, "high": 1e-3, "log": True},
    "lora_r": {"low": 4, "high": 64, "log": True},
}


def test_the_last_epoch_is_kept_and_no_fewer_are_advised() -> None:
    """One output kept epoch 3 of 3 and advised "lower n_epochs from 3 to 2"."""
    rows = ((1, 0.6, 0.5, 0.84), (2, 0.35, 0.62, 0.838), (3, 0.15, 0.95, 0.841))
    verdict = judge(curve(rows), run_advice(3))
    assert verdict.kind is VerdictKind.OVERFIT
    assert verdict.keep_epoch == 3
    assert "num_train_epochs" not in verdict.advice


def test_the_first_epoch_is_kept_and_only_that_one_is_advised() -> None:
    rows = ((1, 0.6, 0.5, 0.84), (2, 0.35, 0.8, 0.8), (3, 0.15, 1.2, 0.78))
    verdict = judge(curve(rows), run_advice(3))
    assert verdict.kind is VerdictKind.OVERFIT
    assert "lower num_train_epochs from 3 to 1" in verdict.advice


def curve(rows: tuple[tuple[float, float, float, float], ...]) -> LearningCurve:
    points = tuple(
        CurvePoint(epoch, round(100 * epoch), train_loss=train, valid_loss=valid, valid_metric=accuracy)
        for epoch, train, valid, accuracy in rows
    )
    return LearningCurve(points, metric="accuracy", valid_examples=2000, train_examples=2000, classes=3)


def run_advice(epochs: int) -> Advice:
    space = SearchSpace.parse(WRITTEN).resolve(2000, LIMITS, "local")
    advice = advice_for_space(Catalogue.load(), "local", space, LIMITS)
    values = {"num_train_epochs": epochs, "lr": 1e-4, "lora_r": 8}
    return advice.for_run(values, {name: (limit.low, limit.high) for name, limit in LIMITS.items()})


@given(
    losses=st.lists(st.tuples(st.floats(0.01, 3), st.floats(0.01, 3), st.floats(0, 1)), min_size=1, max_size=12),
    per_epoch=st.integers(1, 4),
    is_cut=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_advice_agrees_with_the_verdict_of_every_curve(
    losses: list[tuple[float, float, float]], per_epoch: int, is_cut: bool
) -> None:
    rows = tuple((index / per_epoch, *values) for index, values in enumerate(losses, 1))
    epochs = math.ceil(len(losses) / per_epoch) + 3 * is_cut
    verdict = judge(curve(rows), run_advice(epochs))
    found = [suggestion for text in verdict.advice.split(SEPARATOR) if (suggestion := Suggestion.parse(text))]
    for suggestion in found:
        limit = LIMITS[suggestion.parameter]
        assert suggestion.moves
        assert limit.low is not None
        assert limit.high is not None
        assert limit.low <= suggestion.target <= limit.high
        if suggestion.parameter == "num_train_epochs":
            assert verdict.keep_epoch is not None
            last = rows[-1][0]
            if suggestion.direction == "lower":
                assert verdict.kind is VerdictKind.OVERFIT
                assert verdict.keep_epoch <= suggestion.target
                assert verdict.keep_epoch < last
            else:
                assert verdict.kind is VerdictKind.UNDERFIT
                assert verdict.keep_epoch >= 0.6 * last
    if verdict.kind in (VerdictKind.HEALTHY, VerdictKind.UNSETTLED):
        assert not verdict.advice
