"""The expected duration of a trial, estimated from earlier trials."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backends.contract import Measured
from sweeps.execution.trial_duration import expected_seconds
from sweeps.trials.trial import Spend, Trial, TrialState

pytestmark = pytest.mark.unit


def ended_trial(number: int, seconds: float, epochs: float) -> Trial:
    return Trial(
        number=number,
        key=f"k{number}",
        base_model="base",
        hyperparameters={},
        seed=1,
        state=TrialState.COMPLETE,
        curve=(Measured(step=1, epoch=epochs, values={}, scope="evaluation"),),
        spend=Spend(seconds=seconds),
    )


NEXT_TRIAL = Trial(number=99, key="k99", base_model="base", hyperparameters={"n_epochs": 4}, seed=1)


def test_the_duration_is_unknown_before_a_trial_has_ended() -> None:
    assert expected_seconds(NEXT_TRIAL, []) is None
    running = replace(ended_trial(0, 10, 2), state=TrialState.RUNNING)
    assert expected_seconds(NEXT_TRIAL, [running]) is None


def test_the_duration_follows_the_slow_trials_per_epoch() -> None:
    assert expected_seconds(NEXT_TRIAL, [ended_trial(0, 10, 2)]) == pytest.approx(20)
    earlier = [ended_trial(number, 1.0 + number, 1) for number in range(11)]  # 1 to 11 s per epoch
    assert expected_seconds(NEXT_TRIAL, earlier) == pytest.approx(4 * 10.0)


def test_a_trial_with_unknown_epochs_is_expected_to_take_as_long_as_the_longest() -> None:
    earlier = [ended_trial(number, 1.0 + number, 1) for number in range(11)]
    assert expected_seconds(replace(NEXT_TRIAL, hyperparameters={}), earlier) == 11.0
