"""A session with a deadline starts no trial that would end late; the next session continues."""

from __future__ import annotations

from pathlib import Path

import pytest
from session_driver import open_session, start_next

from backends.contract import Measured
from sweeps.execution.outcome import SweepEnd
from sweeps.execution.running_trial import TrialEnd
from sweeps.execution.session import Session
from sweeps.study.study import NoTrial
from sweeps.trials.trial import TrialState

pytestmark = pytest.mark.unit


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def train_one(session: Session, clock: Clock, seconds_per_epoch: float) -> bool:
    """Train one trial to its end. Returns False if the session starts no further trial."""
    trial = session.next_trial()
    if isinstance(trial, NoTrial):
        assert trial is NoTrial.EXHAUSTED
        return False
    session.trial_started(trial.number)
    epochs = trial.planned_epochs or 0.0
    clock.now += seconds_per_epoch * epochs
    values = {"valid_accuracy": 0.5, "valid_loss": 1.0}
    events = [Measured(0, 0.0, values, "evaluation"), Measured(1, epochs, values, "evaluation")]
    session.observe(trial.number, None, 0, events)
    session.trial_ended(trial.number, TrialEnd.SCHEDULER)
    return True


def test_the_session_starts_no_trial_that_would_not_end_in_time_and_the_next_one_continues(tmp_path: Path) -> None:
    clock = Clock()
    overrides = ("space.n_epochs=3", "search.trials=4")
    session = open_session(tmp_path, *overrides, clock=clock, deadline=1000 + 100)
    trained = 0
    while train_one(session, clock, 10.0):  # 30 s per trial: three fit into 100 s
        trained += 1
    assert trained == 3
    assert clock.now < 1100
    assert session.end is None, "running trials would continue to their end"
    assert session.finish() is SweepEnd.DEADLINE
    [open_trial] = [trial for trial in session.study.search_trials if not trial.state.ended]

    next_session = open_session(tmp_path, *overrides, clock=clock, deadline=clock.now + 100)
    assert next_session.study.has_interrupted
    assert train_one(next_session, clock, 10.0)
    assert not train_one(next_session, clock, 10.0)
    assert next_session.finish() is SweepEnd.TRIALS
    trials = next_session.study.search_trials
    assert [trial.number for trial in trials] == [0, 1, 2, open_trial.number]
    assert all(trial.state is TrialState.STOPPED for trial in trials)


def test_a_trial_that_still_runs_at_the_deadline_is_cut_off_and_stays_open(tmp_path: Path) -> None:
    clock = Clock()
    session = open_session(tmp_path, clock=clock, deadline=1050)
    # The first trial starts, because the duration of trials is still unknown.
    trial = start_next(session)
    session.trial_started(trial.number)
    assert not session.should_end()
    clock.now = 1050
    assert session.should_end()
    session.trial_ended(trial.number, TrialEnd.SWEEP)
    assert session.finish() is SweepEnd.DEADLINE
    assert [trial.state for trial in session.study.search_trials] == [TrialState.RUNNING]


def test_a_session_without_a_deadline_runs_every_trial(tmp_path: Path) -> None:
    clock = Clock()
    session = open_session(tmp_path, "search.trials=3", clock=clock)
    while train_one(session, clock, 1e6):
        pass
    assert session.finish() is SweepEnd.TRIALS
