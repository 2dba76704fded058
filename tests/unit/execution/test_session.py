"""The session turns events into records and verdicts, and ends the sweep.

Over the fake backend, without Ray.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import optuna
import pytest
from session_driver import Recorder, drive, evaluations, fault, open_session, start_next

from backends.contract import Failed, Failure, FailureKind, Measured
from backends.waiting import Waiting
from sweeps.execution.outcome import SweepEnd
from sweeps.execution.running_trial import TrialEnd
from sweeps.study.stored_study import read_study
from sweeps.study.study import NoTrial
from sweeps.trials.trial import StoppedBy, Trial, TrialState
from sweeps.verdicts.verdict import VerdictKind
from sweeps.workspace import Workspace

pytestmark = pytest.mark.unit


def test_a_sweep_runs_all_its_trials_and_judges_each(tmp_path: Path) -> None:
    recorder = Recorder()
    session = open_session(tmp_path, observer=recorder)
    drive(session)
    assert session.finish() is SweepEnd.TRIALS
    assert len(recorder.ended) == len(session.study.search_trials) == 5
    for trial in recorder.ended:
        assert trial.state is TrialState.COMPLETE
        assert trial.verdict is not None
        assert trial.verdict.evidence
        measured = [
            event for event in recorder.events[trial.key] if isinstance(event, Measured) and event.scope == "evaluation"
        ]
        assert list(trial.curve) == measured
        accuracies = [event.values["valid_accuracy"] for event in measured[1:]]
        best = max(accuracies)
        assert trial.values == (best,)
        assert measured[1:][accuracies.index(best)].epoch == trial.best_epoch


def test_the_session_hands_out_no_more_trials_than_may_run_at_once(tmp_path: Path) -> None:
    session = open_session(tmp_path)
    assert isinstance(session.next_trial(), Trial)
    assert isinstance(session.next_trial(), Trial)
    assert session.next_trial() is NoTrial.WAIT


def test_a_resumed_trial_is_not_stopped_before_what_it_has_passed(tmp_path: Path) -> None:
    """Its run reports the evaluations again, and MLflow shows them already."""
    session = open_session(tmp_path)
    trial = start_next(session)
    losses = [(2.0, 2.0), (1.0, 1.0), (0.5, 2.0), (0.2, 4.0), (0.1, 6.0)]  # it overfits beyond doubt
    session.observe(trial.number, None, 0, evaluations(*losses))
    assert session.is_stopped_by_verdict(trial.number)
    for _ in range(2):  # a second kill, before the run has caught up
        again = open_session(tmp_path)
        resumed = start_next(again)
        assert (resumed.key, resumed.evaluations, resumed.passed_evaluations) == (trial.key, 0, 5)
    events = evaluations(*losses)
    again.observe(resumed.number, None, 0, events[:-1])
    assert not again.is_stopped_by_verdict(resumed.number)
    again.observe(resumed.number, None, len(events) - 1, events[-1:])
    assert again.is_stopped_by_verdict(resumed.number)


def test_the_next_session_resumes_an_interrupted_trial_under_its_key(tmp_path: Path) -> None:
    first_recorder = Recorder()
    session = open_session(tmp_path, observer=first_recorder)
    drive(session, until=lambda: len(first_recorder.started) == 2)
    session.interrupt()
    assert session.next_trial() is NoTrial.EXHAUSTED
    assert session.finish() is SweepEnd.INTERRUPTED
    [open_trial] = [trial for trial in session.study.trials if not trial.state.ended]
    assert open_trial.number == 1

    second_recorder = Recorder()
    resumed = open_session(tmp_path, observer=second_recorder)
    drive(resumed)
    assert resumed.finish() is SweepEnd.TRIALS
    assert second_recorder.started[0] == 1
    assert next(trial for trial in second_recorder.ended if trial.number == 1).key == open_trial.key
    assert len(resumed.study.search_trials) == 5
    assert all(trial.state is TrialState.COMPLETE for trial in resumed.study.search_trials)


def test_the_target_ends_the_sweep(tmp_path: Path) -> None:
    session = open_session(tmp_path, "objective={maximize: valid_accuracy, target: 0.5}")
    drive(session)
    assert session.finish() is SweepEnd.TARGET
    assert len(session.study.search_trials) < 5


def test_the_time_limit_ends_the_sweep_and_counts_earlier_runs(tmp_path: Path) -> None:
    now = [0.0]
    session = open_session(tmp_path, "budget.hours=1", clock=lambda: now[0])
    drive(session, until=lambda: now.append(0) is None and len(now) > 1)
    now[0] = 3000.0
    session.interrupt()
    session.finish()
    assert session.seconds == 3000, "finishing counts no second twice"
    resumed = open_session(tmp_path, "budget.hours=1", clock=lambda: now[0])
    resumed_trial = start_next(resumed)
    resumed.observe(resumed_trial.number, None, 0, [])  # an empty report: the trial has its worker
    now[0] += 601
    assert resumed.next_trial() is NoTrial.EXHAUSTED
    assert resumed.finish() is SweepEnd.TIME
    [trial] = resumed.study.search_trials
    assert trial.state is TrialState.STOPPED
    assert "time limit" in trial.reason


def test_a_trial_that_the_scheduler_stops_is_stopped_and_not_failed(tmp_path: Path) -> None:
    recorder = Recorder()
    session = open_session(tmp_path, observer=recorder)
    with closing(session.plan.open_backend()) as backend:
        trial = start_next(session)
        handle = backend.submit(session.plan.request(trial))
        events = backend.events(handle, 0)
        indices = [
            index for index, event in enumerate(events) if isinstance(event, Measured) and event.scope == "evaluation"
        ]
        session.observe(trial.number, handle, 0, events[: indices[1] + 1])
        session.trial_ended(trial.number, TrialEnd.SCHEDULER)
    [ended] = recorder.ended
    assert ended.state is TrialState.STOPPED
    assert ended.reason == "stopped early by asha after epoch 1"
    assert ended.values is not None


def test_a_diverged_trial_is_stopped_with_that_verdict(tmp_path: Path) -> None:
    session = open_session(tmp_path, fault("diverged", times=1))
    drive(session)
    first = session.study.search_trials[0]
    assert first.state is TrialState.STOPPED
    assert first.verdict is not None
    assert first.verdict.kind is VerdictKind.DIVERGED


def test_a_transient_failure_is_retried_and_counts_as_one_trial(tmp_path: Path) -> None:
    session = open_session(tmp_path, fault("transient", times=1))
    drive(session)
    assert session.finish() is SweepEnd.TRIALS
    assert len(session.study.trials) == 6
    assert len(session.study.search_trials) == 5
    assert {trial.state for trial in session.study.search_trials} == {TrialState.COMPLETE}
    assert session.study.trials[0].state is TrialState.FAILED


def test_similar_failures_in_a_row_end_the_sweep(tmp_path: Path) -> None:
    session = open_session(tmp_path, fault("out_of_memory"), "search.trials=20")
    drive(session)
    assert session.finish() is SweepEnd.FAILED
    assert session.error is not None
    assert "3 trials in a row failed in the same way" in session.error.message
    assert len(session.study.search_trials) == 3


def test_an_unreachable_run_ends_the_sweep_and_its_trial_stays_open(tmp_path: Path) -> None:
    session = open_session(tmp_path)
    trial = start_next(session)
    session.trial_started(trial.number)
    session.report_unreachable(Failure(FailureKind.USER, "the key has expired", "set another"))
    assert session.should_end()
    session.trial_ended(trial.number, TrialEnd.SWEEP)
    assert session.finish() is SweepEnd.FAILED
    assert session.error is not None
    assert session.error.message == "the key has expired"
    resumed_trial = start_next(open_session(tmp_path))
    assert resumed_trial.key == trial.key, "the service continues the run, so the next session adopts it"


def test_a_trial_whose_worker_dies_comes_again_under_its_key(tmp_path: Path) -> None:
    """Its run may go on at a service, and only its key finds that run."""
    session = open_session(tmp_path)
    trial = start_next(session)
    session.trial_ended(trial.number, TrialEnd.CRASH, "the worker died")
    assert start_next(session).key == trial.key
    session.trial_ended(trial.number, TrialEnd.CRASH, "the worker died")
    [failed] = session.study.search_trials
    assert (failed.state, failed.failure, failed.will_retry) == (TrialState.FAILED, FailureKind.LOST, False)
    assert "the worker died" in failed.reason
    drive(session)
    assert [other.state for other in session.study.search_trials] == [TrialState.FAILED] + 4 * [TrialState.COMPLETE]


def test_a_worker_that_is_ended_for_memory_at_its_last_attempt_is_a_failure_of_the_point(tmp_path: Path) -> None:
    session = open_session(tmp_path)
    trial = start_next(session)
    session.trial_ended(trial.number, TrialEnd.CRASH, "ended for lack of memory", out_of_memory=True)
    assert start_next(session).key == trial.key, "its neighbours may have taken the memory"
    session.trial_ended(trial.number, TrialEnd.CRASH, "ended for lack of memory", out_of_memory=True)
    [failed] = session.study.search_trials
    assert (failed.state, failed.failure, failed.will_retry) == (TrialState.FAILED, FailureKind.OUT_OF_MEMORY, False)


@pytest.mark.parametrize("kind", [FailureKind.TRANSIENT, FailureKind.QUOTA, FailureKind.LOST, FailureKind.USER])
def test_a_failed_submission_never_closes_a_trial(tmp_path: Path, kind: FailureKind) -> None:
    """The backend may have accepted the run before its answer was lost."""
    session = open_session(tmp_path)
    trial = start_next(session)
    failure = Failure(kind, "no answer", "try later")
    if kind.retryable:
        session.observe(trial.number, None, 0, [Failed(failure)])
        session.trial_ended(trial.number, TrialEnd.ITSELF)
        assert start_next(session).key == trial.key
        assert session.end is None
    session.observe(trial.number, None, 0, [Failed(failure)])
    session.trial_ended(trial.number, TrialEnd.ITSELF)
    assert session.finish() is SweepEnd.FAILED
    assert session.error is not None
    assert (session.error.message, session.error.hint) == ("no answer", "try later")
    assert session.study.trials[0].state is TrialState.RUNNING
    again = open_session(tmp_path)
    drive(again)
    assert again.study.trials[0].key == trial.key
    assert [other.state for other in again.study.search_trials] == 5 * [TrialState.COMPLETE]


def test_the_sweep_ends_when_every_point_of_a_finite_space_has_been_tried(tmp_path: Path) -> None:
    session = open_session(
        tmp_path, "space={n_epochs: [2, 3], batch_size: 4, learning_rate_multiplier: 0.1}", "search.trials=9"
    )
    drive(session)
    assert session.finish() is SweepEnd.EXHAUSTED
    assert len(session.study.search_trials) == 2


def test_the_values_of_several_objectives_are_recorded_in_their_order(tmp_path: Path) -> None:
    session = open_session(
        tmp_path,
        "objective=[{maximize: valid_accuracy}, {minimize: valid_loss}]",
        "search={sampler: nsga2, scheduler: none, trials: 4}",
    )
    drive(session)
    for trial in session.study.search_trials:
        kept = next(measured for measured in trial.curve[1:] if measured.epoch == trial.best_epoch)
        assert trial.values == (kept.values["valid_accuracy"], kept.values["valid_loss"])


@pytest.mark.parametrize(
    ("losses", "kind", "optuna_state"),
    [
        (((1.0, 1.0), (0.5, 1.6), (0.2, 2.6), (0.05, 3.9)), VerdictKind.OVERFIT, "COMPLETE"),
        (((1.0, 1.0), (9.0, 9.0), (20.0, 20.0)), VerdictKind.DIVERGED, "PRUNED"),
    ],
)
def test_a_certain_verdict_stops_a_trial_and_is_no_failure(
    tmp_path: Path, losses: tuple[tuple[float, float], ...], kind: VerdictKind, optuna_state: str
) -> None:
    session = open_session(tmp_path)
    trial = start_next(session)
    events = evaluations(*losses)
    session.observe(trial.number, None, 0, events[:3])
    assert not session.is_stopped_by_verdict(trial.number)
    session.observe(trial.number, None, 3, events[3:])
    assert session.is_stopped_by_verdict(trial.number)
    session.trial_ended(trial.number, TrialEnd.VERDICT)
    [ended] = session.study.search_trials
    assert ended.state is TrialState.STOPPED
    assert ended.stopped_by is StoppedBy.VERDICT
    assert ended.verdict is not None
    assert ended.verdict.kind is kind
    assert kind.value in ended.reason
    journal = optuna.storages.journal.JournalFileBackend(str(Workspace(tmp_path).study_file("pairs")))
    stored = optuna.load_study(study_name="pairs", storage=optuna.storages.JournalStorage(journal))
    assert stored.trials[trial.number].state.name == optuna_state


def test_a_verdict_cites_the_fault_of_the_data_that_explains_it(tmp_path: Path) -> None:
    """One question in ten has both answers, which no model can learn."""
    rows = [f"question {n},{answer}" for n in range(200) for answer in ("yes", "no")[: 1 + (n % 10 == 0)]]
    (tmp_path / "both.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    columns = "prompt: '{text}', completion: ' {label}'"
    session = open_session(tmp_path, f"data={{checks: quick, source: '{tmp_path}/both.csv', {columns}, test: 0}}")
    trial = start_next(session)
    session.observe(trial.number, None, 0, evaluations((1.0, 1.0), (0.5, 1.6), (0.2, 2.6), (0.05, 3.9)))
    session.trial_ended(trial.number, TrialEnd.VERDICT)
    [ended] = session.study.search_trials
    assert ended.verdict is not None
    assert ended.verdict.kind is VerdictKind.OVERFIT
    assert "no model can learn both answers (conflicting-labels)" in ended.verdict.evidence


def test_no_verdict_stops_a_trial_if_stop_by_verdict_is_off(tmp_path: Path) -> None:
    session = open_session(tmp_path, "search.stop_by_verdict=false")
    trial = start_next(session)
    session.observe(trial.number, None, 0, evaluations((1.0, 1.0), (0.5, 1.6), (0.2, 2.6), (0.05, 3.9)))
    assert not session.is_stopped_by_verdict(trial.number)


def test_observers_learn_once_why_and_until_when_a_trial_waits(tmp_path: Path) -> None:
    recorder = Recorder()
    session = open_session(tmp_path, observer=recorder)
    trial = start_next(session)
    limit = Waiting("the daily limit of jobs is reached", 5000.0)
    for _ in range(3):
        session.trial_waiting(trial.number, limit)
    session.trial_waiting(trial.number, Waiting("the daily limit of jobs is reached", 9000.0))
    session.trial_waiting(99, limit)
    assert [number for number, _ in recorder.waited] == [trial.number] * 2
    assert recorder.started == [trial.number], "a trial that waits at its service has a worker"
    session.trial_ended(trial.number, TrialEnd.ITSELF)
    session.trial_waiting(trial.number, limit)
    assert len(recorder.waited) == 2


def test_a_trial_that_was_not_closed_is_open_whatever_its_run_has_reported(tmp_path: Path) -> None:
    """A kill between the last event and the end: MLflow would get the trial as ended, and again."""
    session = open_session(tmp_path)
    trial = start_next(session)
    with closing(session.plan.open_backend()) as backend:
        handle = backend.submit(session.plan.request(trial))
        session.observe(trial.number, handle, 0, backend.events(handle, 0))
    resumed = open_session(tmp_path)
    assert [stored.state for stored in resumed.study.trials] == [TrialState.RUNNING]
    stored = read_study(Workspace(tmp_path).study_file("pairs"), "pairs").trials
    assert [found.state for found in stored] == [TrialState.RUNNING]
    assert start_next(resumed).key == trial.key
