"""A sweep with a deadline: it starts no trial that would not end in time, and the next run goes on."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from backends.contract import Measured
from sweeps.execution.environment import open_study
from sweeps.execution.outcome import SweepEnd
from sweeps.execution.running_trial import TrialEnd
from sweeps.execution.session import Session
from sweeps.study.study import NoTrial
from sweeps.trials.trial import TrialState

pytestmark = pytest.mark.unit

_spec = importlib.util.spec_from_file_location("session_tests", Path(__file__).with_name("test_session.py"))
assert _spec is not None
assert _spec.loader is not None
driven: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(driven)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def opened(tmp_path: Path, clock: Clock, deadline: float | None, *overrides: str) -> tuple[Session, Any]:
    from sweeps.execution.environment import Environment
    from sweeps.workspace import Workspace

    plan = driven.planned(tmp_path, *overrides)
    study = open_study(plan, Environment(Workspace(tmp_path), "unused"))
    return Session(plan, study, [], clock, deadline=deadline), study


def trained(session: Session, clock: Clock, seconds_an_epoch: float) -> bool:
    """Train one trial to its end. False where none is started any more."""
    trial = session.next_trial()
    if isinstance(trial, NoTrial):
        assert trial is NoTrial.EXHAUSTED
        return False
    session.trial_started(trial.number)
    clock.now += seconds_an_epoch * (trial.planned_epochs or 0)
    measured = Measured(
        step=1, epoch=trial.planned_epochs or 0.0, values={"valid_accuracy": 0.5, "valid_loss": 1.0}, scope="evaluation"
    )
    session.observe(
        trial.number, None, 0, [Measured(step=0, epoch=0.0, values=measured.values, scope="evaluation"), measured]
    )
    session.trial_ended(trial.number, TrialEnd.SCHEDULER)
    return True


def test_no_trial_is_started_that_would_not_end_in_time_and_the_next_night_goes_on(tmp_path: Path) -> None:
    clock = Clock()
    fixed = ("space.n_epochs=3", "search.trials=4")
    session, study = opened(tmp_path, clock, 1000 + 100, *fixed)
    done = 0
    while trained(session, clock, 10.0):  # 30 s each: three fit into 100 s
        done += 1
    assert done == 3
    assert clock.now < 1100
    assert session.end is None, "what runs would go on to its end"
    assert session.finish() is SweepEnd.DEADLINE
    [asked] = [each for each in study.search_trials if not each.state.ended]

    night, again = opened(tmp_path, clock, clock.now + 100, *fixed)
    assert again.has_interrupted
    assert trained(night, clock, 10.0)
    assert not trained(night, clock, 10.0)
    assert night.finish() is SweepEnd.TRIALS
    assert [each.number for each in again.search_trials] == [0, 1, 2, asked.number]
    assert all(each.state is TrialState.STOPPED for each in again.search_trials)


def test_what_still_runs_at_the_deadline_is_cut_off_and_stays_open(tmp_path: Path) -> None:
    clock = Clock()
    session, study = opened(tmp_path, clock, 1050)
    trial = session.next_trial()
    assert not isinstance(trial, NoTrial), "nothing is known of how long trials take"
    session.trial_started(trial.number)
    assert not session.should_end()
    clock.now = 1050
    assert session.should_end()
    session.trial_ended(trial.number, TrialEnd.SWEEP)
    assert session.finish() is SweepEnd.DEADLINE
    assert [each.state for each in study.search_trials] == [TrialState.RUNNING]


def test_without_a_deadline_nothing_changes(tmp_path: Path) -> None:
    clock = Clock()
    session, _ = opened(tmp_path, clock, None, "search.trials=3")
    while trained(session, clock, 1e6):
        pass
    assert session.finish() is SweepEnd.TRIALS


def test_a_new_study_tries_the_first_points_first_and_an_old_one_does_not(tmp_path: Path) -> None:
    from sweeps.execution.environment import Environment
    from sweeps.workspace import Workspace

    plan, environment = driven.planned(tmp_path), Environment(Workspace(tmp_path), "unused")
    points: list[dict[str, float]] = [
        {"n_epochs": 4, "batch_size": 3, "learning_rate_multiplier": 0.123},
        {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 0.321},
    ]
    study = open_study(plan, environment, points)
    asked = [study.ask(), study.ask()]
    assert [dict(each.hyperparameters) for each in asked if not isinstance(each, NoTrial)] == points
    other = open_study(plan, environment, [{"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 0.05}])
    numbers = [other.ask(), other.ask(), other.ask()]
    assert {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 0.05} not in [
        dict(each.hyperparameters) for each in numbers if not isinstance(each, NoTrial)
    ]
