"""A session steers the search space by the verdicts on its trials, or only advises to."""

from __future__ import annotations

from pathlib import Path

import pytest
from session_driver import Recorder, open_session, planned, start_next

from backends.contract import Checkpointed, Event, Finished, Measured, Started
from sweeps.execution.running_trial import TrialEnd
from sweeps.execution.session import Session

pytestmark = pytest.mark.unit

OVERRIDES = ("space.n_epochs={low: 3, high: 4}", "search.trials=12", "search.concurrency=1")


def still_improving(epochs: int) -> list[Event]:
    """Return the events of a run that clearly improves until its end."""
    events: list[Event] = [Started({})]
    for epoch in range(epochs + 1):
        loss, share = 2.0 * 0.6**epoch, 0.33 + 0.15 * epoch
        values = {"train_loss": loss, "valid_loss": loss, "valid_accuracy": share, "train_accuracy": share}
        events.append(Measured(10 * epoch, float(epoch), values, "evaluation"))
    return [*events, Checkpointed(10 * epochs, float(epochs), "model"), Finished("model")]


def run_underfitted_trials(session: Session, count: int) -> None:
    """Run trials that all end while they still improve."""
    for _ in range(count):
        trial = start_next(session)
        session.observe(trial.number, None, 0, still_improving(int(trial.hyperparameters["n_epochs"])))
        session.trial_ended(trial.number, TrialEnd.ITSELF)


def test_steering_moves_the_edge_tells_the_observers_and_continues_after_a_resume(tmp_path: Path) -> None:
    recorder = Recorder()
    session = open_session(tmp_path, *OVERRIDES, "steering=act", "bounds={n_epochs: [1, 7]}", observer=recorder)
    run_underfitted_trials(session, 6)
    change, applied = recorder.steered[0]
    assert applied
    assert change.parameter == "n_epochs"
    assert (change.previous_range, change.high) == ((3, 4), 6)
    assert session.study.steering[0] == change
    epochs = [float(trial.hyperparameters["n_epochs"]) for trial in session.study.search_trials]
    assert max(epochs) > 4, "a later trial uses the wider range"
    session.interrupt()
    session.finish()

    resumed = open_session(tmp_path, *OVERRIDES, "steering=act", "bounds={n_epochs: [1, 7]}")
    assert resumed.changes == session.changes
    run_underfitted_trials(resumed, 6)
    epochs = [float(trial.hyperparameters["n_epochs"]) for trial in resumed.study.search_trials]
    assert 4 < max(epochs) <= 7


def test_steering_in_mode_advise_changes_nothing(tmp_path: Path) -> None:
    recorder = Recorder()
    session = open_session(tmp_path, *OVERRIDES, observer=recorder)
    run_underfitted_trials(session, 8)
    assert recorder.steered
    assert not any(applied for _, applied in recorder.steered)
    assert not session.study.steering
    assert all(float(trial.hyperparameters["n_epochs"]) <= 4 for trial in session.study.search_trials)


def test_steering_that_is_off_says_nothing(tmp_path: Path) -> None:
    recorder = Recorder()
    session = open_session(tmp_path, *OVERRIDES, "steering=off", observer=recorder)
    run_underfitted_trials(session, 8)
    assert not recorder.steered


def test_bounds_keep_steering_inside_the_limits_of_the_backend(tmp_path: Path) -> None:
    plan = planned(tmp_path, *OVERRIDES, "bounds={n_epochs: [2, 100000], batch_size: [0, 4]}")
    accepted = {hyperparameter.name: hyperparameter for hyperparameter in plan.spec.capabilities.hyperparameters}
    assert plan.steering_bounds["n_epochs"] == (2, accepted["n_epochs"].high)
    assert plan.steering_bounds["batch_size"] == (accepted["batch_size"].low, 4)
    assert plan.steering_bounds["prompt_loss_weight"] == (
        accepted["prompt_loss_weight"].low,
        accepted["prompt_loss_weight"].high,
    )
