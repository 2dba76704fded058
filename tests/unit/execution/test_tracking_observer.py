"""Which ended trials the observer sends to MLflow again: those whose cost has become known."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from session_driver import open_session, start_next

from sweeps.execution.running_trial import TrialEnd
from sweeps.execution.tracking_observer import TrackingObserver
from sweeps.trials.trial import Trial

pytestmark = pytest.mark.unit


class TrackerThatShowsEveryEnd:
    """A tracker whose MLflow shows the end of every trial. Records what it is sent again."""

    def __init__(self) -> None:
        self.sent: list[int] = []

    def shows_end_of(self, trial: Trial) -> bool:
        return True

    def show_ended(self, trial: Trial, files: Any) -> None:
        self.sent.append(trial.number)


def stop_one_trial(folder: Path) -> Trial:
    """Run a trial that the scheduler stops, so that the service may charge more than was seen."""
    session = open_session(folder)
    trial = start_next(session)
    with closing(session.plan.open_backend()) as backend:
        handle = backend.submit(session.plan.request(trial))
        session.observe(trial.number, handle, 0, backend.events(handle, 0)[:5])
    session.trial_ended(trial.number, TrialEnd.SCHEDULER)
    return session.study.trial(trial.number)


def test_a_cost_that_is_settled_by_a_later_process_is_sent(tmp_path: Path) -> None:
    trial = stop_one_trial(tmp_path)
    assert not trial.settled
    study, tracker = open_session(tmp_path).study, TrackerThatShowsEveryEnd()
    observer = TrackingObserver(tracker, study, tmp_path)  # type: ignore[arg-type]
    observer.costs_settled(study.trials)
    assert tracker.sent == []
    study.settle(trial.number, replace(trial.spend, tokens=trial.spend.tokens + 7))
    observer.costs_settled(study.trials)
    assert tracker.sent == [trial.number]


@pytest.mark.parametrize("is_complete", [False, True])
def test_a_settled_cost_is_sent_again_unless_the_last_run_has_sent_everything(
    tmp_path: Path, is_complete: bool
) -> None:
    """The process may have died between the two."""
    trial = stop_one_trial(tmp_path)
    open_session(tmp_path).study.settle(trial.number, replace(trial.spend, tokens=trial.spend.tokens + 7))
    study, tracker = open_session(tmp_path).study, TrackerThatShowsEveryEnd()
    TrackingObserver(tracker, study, tmp_path, is_complete=is_complete)  # type: ignore[arg-type]
    assert tracker.sent == ([] if is_complete else [trial.number])
