"""Host reports become events: ordered, stable, and never invented."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.contract import (
    TERMINAL_EVENTS,
    Charged,
    Checkpointed,
    DataFile,
    Dataset,
    EvaluationSettings,
    Event,
    Failed,
    FailureKind,
    Finished,
    Measured,
    Started,
    Stopped,
    TrainingRequest,
)
from backends.hosted import profile
from backends.hosted.job_events import JobSnapshot, TrainingCost, new_events
from backends.hosted.journal import LogEntry
from backends.hosted.model_answers import ModelEvaluation
from backends.hosted.profile import JobStatus, Profile
from backends.hosted.remote_objects import RemoteCheckpoint, RemoteEvent, RemoteJob

pytestmark = pytest.mark.unit

HOST = profile.load("openai")
WITHOUT_SETTLING = HOST.model_copy(update={"jobs": HOST.jobs.model_copy(update={"settle_s": 0.0})})
FILE = DataFile("/data/train.jsonl", 40, "sha")
COST = TrainingCost(usd_per_million_tokens=10.0, tokens_per_epoch=1000.0)


def request(keep_maximum: bool = False, keep_metric: str = "valid_loss", **hyperparameters: Any) -> TrainingRequest:
    evaluation = EvaluationSettings(keep_metric=keep_metric, keep_maximum=keep_maximum)
    return TrainingRequest("k", "m", Dataset(FILE, FILE, "completion"), hyperparameters, 1, evaluation)


def job(status: str = "running", **changes: Any) -> RemoteJob:
    fields: dict[str, Any] = {
        "id": "ftjob-1",
        "status": status,
        "created_at": 0.0,
        "base_model": "m",
        "model": "ft:final" if status == "succeeded" else None,
        "hyperparameters": {"n_epochs": 2, "batch_size": 10},
        "trained_tokens": None,
        "error_code": None,
        "error_message": None,
        "result_files": (),
        "metadata": {},
        "suffix": None,
    }
    return RemoteJob(**{**fields, **changes})


def metrics(step: int, total: int | None = 8, **values: Any) -> RemoteEvent:
    """A log entry with the running values of a step."""
    data = {"step": step, "train_loss": 1.0 / step, **values}
    return RemoteEvent(f"e{step}", step, "info", "", data | ({"total_steps": total} if total else {}))


def evaluation(step: int, loss: float, **more: Any) -> RemoteEvent:
    """A log entry with the running values and the evaluation of a step."""
    return metrics(step, full_valid_loss=loss, **more)


LOG = [evaluation(n, 0.5 - n / 100) if n % 4 == 0 else metrics(n) for n in range(1, 9)]


def running(log: Sequence[RemoteEvent] = (), now: float = 0.0, **changes: Any) -> JobSnapshot:
    """A job in training whose log arrived just now."""
    entries = [LogEntry(now, entry) for entry in log]
    fields: dict[str, Any] = {"job": job(), "status": JobStatus.TRAINING, "log": entries, "now": now}
    return JobSnapshot(**{**fields, **changes})


def ended(log: Sequence[RemoteEvent] = LOG, status: str = "succeeded", **changes: Any) -> JobSnapshot:
    """A job that has ended and reports nothing more."""
    fields = {"job": job(status), "status": HOST.job_status(status), "complete": True}
    return running(log, **{**fields, **changes})


def events_of(
    snapshot: JobSnapshot,
    host: Profile = WITHOUT_SETTLING,
    previous: Sequence[Event] = (),
    requested: TrainingRequest | None = None,
) -> list[Event]:
    return new_events(requested or request(n_epochs=2), host, COST, previous, snapshot)


def spent(events: Sequence[Event]) -> tuple[float, int]:
    charges = of(events, Charged)
    return sum(charge.usd for charge in charges), sum(charge.tokens for charge in charges)


def of(events: Sequence[Event], event_type: type[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, event_type)]


def evaluations(events: Sequence[Event]) -> list[Measured]:
    return [event for event in of(events, Measured) if event.scope == "evaluation"]


def test_a_complete_run_has_every_measurement_its_charge_and_its_model() -> None:
    events = events_of(ended(job=job("succeeded", trained_tokens=2500)))
    assert isinstance(events[0], Started)
    measured = of(events, Measured)
    assert [measurement.step for measurement in measured if measurement.scope == "step"] == list(range(1, 9))
    assert [
        (measurement.step, measurement.epoch, measurement.values)
        for measurement in measured
        if measurement.scope == "evaluation"
    ] == [
        (4, 1.0, {"valid_loss": pytest.approx(0.46)}),
        (8, 2.0, {"valid_loss": pytest.approx(0.42)}),
    ]
    assert events[-2:] == [Charged(0.025, 2500, estimated=False), Finished("ft:final")]
    assert events_of(ended(), previous=events[:-2])[-1] == Finished("ft:final")


@settings(max_examples=200)
@given(st.randoms(use_true_random=False), st.integers(1, 6))
def test_the_order_in_which_log_entries_arrive_does_not_matter(chance: random.Random, polls: int) -> None:
    """However entries arrive within the settling time, the events are the same."""
    expected = events_of(ended(job=job("succeeded", trained_tokens=2000)))
    arrivals = [LogEntry(n + chance.uniform(0, HOST.jobs.settle_s * 0.9), entry) for n, entry in enumerate(LOG)]
    events: list[Event] = []
    poll_times = sorted(chance.uniform(0, 40) for _ in range(polls))
    for now in poll_times:
        log = [entry for entry in arrivals if entry.received_at <= now]
        chance.shuffle(log)
        snapshot = JobSnapshot(job(), JobStatus.TRAINING, log, now=now)
        events += new_events(request(n_epochs=2), HOST, COST, events, snapshot)
    chance.shuffle(arrivals)
    last = JobSnapshot(job("succeeded", trained_tokens=2000), JobStatus.SUCCEEDED, arrivals, now=100.0, complete=True)
    events += new_events(request(n_epochs=2), HOST, COST, events, last)
    assert events == expected


def test_an_event_is_never_repeated_or_revised() -> None:
    first = events_of(running(LOG[:5]))
    assert events_of(running(LOG[:5]), previous=first) == []
    incomplete = [LOG[0], LOG[3], *LOG[4:]]  # steps 2 and 3 turn out to be missing: no event changes
    second = events_of(running(incomplete), previous=first)
    assert [measurement.step for measurement in of(second, Measured) if measurement.scope == "step"] == [6, 7, 8]


def test_an_evaluation_may_follow_the_running_values_of_its_step() -> None:
    first = events_of(running([*LOG[:3], metrics(4)]))
    second = events_of(running(LOG[:4]), previous=first)
    assert [(measurement.step, measurement.scope) for measurement in of(second, Measured)] == [(4, "evaluation")]


def test_a_measurement_waits_for_the_settling_time() -> None:
    log = [LogEntry(0.0, entry) for entry in LOG[:4]]
    early, late = (JobSnapshot(job(), JobStatus.TRAINING, log, now=now) for now in (5.0, HOST.jobs.settle_s))
    assert [type(event) for event in events_of(early, HOST)] == [Started]
    assert len(of(events_of(late, HOST), Measured)) == 5


# ----------------------------------------------------------------------------------------- statuses
@pytest.mark.parametrize("status", ["validating_files", "queued", "running", "paused", "moderating", ""])
def test_no_other_status_ends_a_run(status: str) -> None:
    snapshot = running(LOG, job=job(status), status=HOST.job_status(status))
    assert not of(events_of(snapshot), TERMINAL_EVENTS)


def test_a_waiting_job_has_not_started() -> None:
    unresolved = job("queued", hyperparameters={})
    assert events_of(running(job=unresolved, status=JobStatus.QUEUED)) == []
    assert events_of(running(job=unresolved, status=JobStatus.UNKNOWN)) == []


def test_the_values_that_the_host_chose_for_auto_are_recorded() -> None:
    used = {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.8}
    (started,) = events_of(running(job=job(hyperparameters=used)), requested=request(learning_rate_multiplier=1.8))
    assert started.resolved == {**used, "steps_per_epoch": 40, "job": "ftjob-1"}


def test_a_start_waits_until_the_host_reports_its_choice() -> None:
    assert events_of(running(job=job(hyperparameters={})), requested=request()) == []


def test_a_requested_value_keeps_its_type_and_the_value_of_the_host_wins() -> None:
    requested = request(n_epochs=2, learning_rate_multiplier=1.0)
    (started,) = events_of(
        running(job=job(hyperparameters={"n_epochs": 4, "learning_rate_multiplier": 1})), requested=requested
    )
    assert started.resolved["n_epochs"] == 4
    assert repr(started.resolved["learning_rate_multiplier"]) == "1.0"


# ------------------------------------------------------------------------------------------- epochs
@pytest.mark.parametrize(
    ("total", "epochs", "steps", "expected"),
    [
        (12, 3, [4, 8, 12], [1.0, 2.0, 3.0]),
        (13, 3, [5, 9, 13], [1.0, 2.0, 3.0]),  # 4.33 steps per epoch: the first step at or past its end
        (13, 3, [4, 8, 13], [1.0, 2.0, 3.0]),  # or the last step before it
        (10, 4, [3, 5, 8, 10], [1.0, 2.0, 3.0, 4.0]),
        (3, 3, [1, 2, 3], [1.0, 2.0, 3.0]),
        (7, 1, [7], [1.0]),
    ],
)
def test_evaluations_are_at_the_ends_of_epochs(
    total: int, epochs: int, steps: list[int], expected: list[float]
) -> None:
    log = [metrics(n, total, **({"full_valid_loss": 1.0} if n in steps else {})) for n in range(1, total + 1)]
    used = job("succeeded", hyperparameters={"n_epochs": epochs})
    events = of(events_of(ended(log, job=used), requested=request(n_epochs=epochs)), Measured)
    assert [event.epoch for event in events if event.scope == "evaluation"] == expected
    assert [event.epoch for event in events] == sorted(event.epoch for event in events)
    assert all(abs(event.epoch - event.step * epochs / total) <= epochs / total for event in events)


def test_without_a_total_the_batch_size_gives_the_length_of_an_epoch() -> None:
    log = [metrics(n, None, **({"full_valid_loss": 1.0} if n % 4 == 0 else {})) for n in range(1, 9)]
    events = of(events_of(ended(log)), Measured)
    assert [event.epoch for event in events if event.scope == "evaluation"] == [1.0, 2.0]


def test_without_total_and_batch_size_each_evaluation_ends_an_epoch() -> None:
    log = [metrics(n, None, **({"full_valid_loss": 1.0} if n in (5, 9) else {})) for n in range(1, 10)]
    used = job("succeeded", hyperparameters={})
    events = of(events_of(ended(log, job=used), requested=request()), Measured)
    assert [(event.step, event.epoch) for event in events if event.scope == "evaluation"] == [(5, 1.0), (9, 2.0)]
    assert [event.epoch for event in events] == sorted(event.epoch for event in events)


# ------------------------------------------------------------------------------------- measurements
def test_a_missing_value_is_absent_and_a_non_finite_one_is_reported() -> None:
    log = [metrics(1, valid_loss=None), metrics(2, valid_loss="NaN"), metrics(3, valid_loss=math.inf)]
    first, second, third = (measurement.values for measurement in of(events_of(running(log)), Measured))
    assert "batch_valid_loss" not in first
    assert math.isnan(second["batch_valid_loss"])
    assert third["batch_valid_loss"] == math.inf


def test_null_is_a_non_finite_value_where_the_profile_says_so() -> None:
    server = profile.load("local")
    data = {"step": 4, "epoch": 1.0, "full_valid_loss": None, "train_loss": None}
    log = [dataclasses.replace(metrics(4), data=data)]
    events = of(events_of(running(log), server), Measured)
    assert [event.scope for event in events] == ["step", "evaluation"]
    assert all(math.isnan(value) for event in events for value in event.values.values())


def test_the_result_file_replaces_missing_metrics_in_the_log() -> None:
    rows = [{"step": 4.0, "train_loss": 0.3, "full_valid_loss": 0.4}, {"step": 8.0, "full_valid_loss": 0.35}]
    events = events_of(ended([], rows=rows))
    assert [(measurement.step, measurement.scope) for measurement in of(events, Measured)] == [
        (4, "step"),
        (4, "evaluation"),
        (8, "evaluation"),
    ]


def test_checkpoints_add_the_evaluations_that_the_log_lacks() -> None:
    checkpoints = [RemoteCheckpoint("c1", 4, "ft:ckpt-4", {"step": 4, "full_valid_loss": 0.5})]
    events = events_of(ended([metrics(n) for n in range(1, 9)], checkpoints=checkpoints))
    assert [
        (measurement.step, measurement.values)
        for measurement in of(events, Measured)
        if measurement.scope == "evaluation"
    ] == [(4, {"valid_loss": 0.5})]
    assert of(events, Checkpointed) == [Checkpointed(4, 1.0, "ft:ckpt-4")]


def test_a_checkpoint_newer_than_the_log_waits_for_the_log() -> None:
    """The poller reads the log first.

    Checkpoints of later steps must not hide measurements of the log.
    """
    ahead = [RemoteCheckpoint(f"c{n}", n, f"ft:ckpt-{n}", {"full_valid_loss": 0.5 - n / 100}) for n in (4, 8)]
    first = events_of(running(LOG[:5], checkpoints=ahead))
    assert [checkpoint.step for checkpoint in of(first, Checkpointed)] == [4]
    second = events_of(ended(checkpoints=ahead), previous=first)
    assert [measurement.step for measurement in of(second, Measured)] == [6, 7, 8, 8]
    assert [checkpoint.step for checkpoint in of(second, Checkpointed)] == [8]


def test_a_checkpoint_comes_between_its_step_and_the_next() -> None:
    checkpoints = [RemoteCheckpoint("c1", 4, "ft:ckpt-4", {})]
    events = events_of(running(LOG[:6], checkpoints=checkpoints))
    points = of(events, Measured | Checkpointed)
    assert [point.step for point in points] == sorted(point.step for point in points)
    # a checkpoint ahead of the log waits
    assert not of(events_of(running(LOG[:2], checkpoints=checkpoints)), Checkpointed)


# ---------------------------------------------------------------------------------------------- end
CHECKPOINTS = [RemoteCheckpoint("c1", 4, "ft:ckpt-4", {}), RemoteCheckpoint("c2", 8, "ft:ckpt-8", {})]


@pytest.mark.parametrize(
    ("losses", "maximum", "kept"),
    [
        ((0.4, 0.5), False, "ft:ckpt-4"),
        ((0.5, 0.4), False, "ft:final"),
        ((0.4, 0.4), False, "ft:ckpt-4"),
        ((0.4, 0.5), True, "ft:final"),
        ((math.nan, 0.5), False, "ft:final"),
        ((0.4, math.nan), False, "ft:ckpt-4"),
        ((math.nan, math.nan), False, "ft:final"),
    ],
)
def test_the_best_state_is_kept(losses: tuple[float, float], maximum: bool, kept: str) -> None:
    log = [evaluation(4, losses[0]), evaluation(8, losses[1])]
    events = events_of(ended(log, checkpoints=CHECKPOINTS), requested=request(maximum, n_epochs=2))
    assert events[-1] == Finished(kept)


def test_where_the_final_model_is_the_best_state_it_is_kept() -> None:
    server = profile.load("local")
    log = [evaluation(4, 0.4), evaluation(8, 0.5)]
    assert events_of(ended(log, checkpoints=CHECKPOINTS), server)[-1] == Finished("ft:final")


def test_a_cancelled_job_is_stopped_and_its_charge_is_an_estimate() -> None:
    """The epoch in progress counts in full: the host may have trained on after its last report."""
    for log, epochs in ((LOG[:3], 1), (LOG[:6], 2), (LOG, 2)):
        events = events_of(ended(log, "cancelled"))
        assert events[-1] == Stopped(None)
        assert spent(events) == (pytest.approx(epochs * 0.01), epochs * 1000)
        assert all(event.estimated for event in of(events, Charged))


def test_a_cancelled_job_that_never_trained_costs_nothing() -> None:
    assert events_of(ended([], "cancelled", job=job("cancelled", hyperparameters={}))) == [Stopped(None)]


def test_a_paused_job_keeps_its_best_checkpoint() -> None:
    snapshot = ended(LOG[:6], "paused", checkpoints=CHECKPOINTS[:1])
    assert events_of(snapshot)[-1] == Stopped("ft:ckpt-4")


def test_a_failed_job_has_the_reason_of_the_host() -> None:
    failed = job("failed", error_code="invalid_training_file", error_message="line 3 is no JSON", hyperparameters={})
    (event,) = events_of(ended([], "failed", job=failed))
    assert event.failure.kind is FailureKind.USER
    assert "line 3" in event.failure.message


def test_the_log_explains_a_failed_job_without_an_error() -> None:
    log = [RemoteEvent("x", 9, "error", "moderation: refused", {})]
    event = events_of(ended(log, "failed"))[-1]
    assert "moderation: refused" in event.failure.message


def test_the_log_explains_a_model_that_moderation_blocked() -> None:
    data = {"blocked": True, "results": {"flagged": True}}
    log = [RemoteEvent("x", 9, "info", "Moderation failed: violence", data)]
    event = events_of(ended(log, job=job("succeeded", model=None)))[-1]
    assert isinstance(event, Failed)
    assert event.failure.kind is FailureKind.USER
    assert "violence" in event.failure.message


# ------------------------------------------------------------------------------------------ answers
SCORES = {"valid_accuracy": 0.75, "valid_macro_f1": 0.7}


def test_the_last_evaluation_waits_for_the_scores_of_the_model() -> None:
    first = events_of(running(LOG, scores_expected=True))
    assert [measurement.step for measurement in evaluations(first)] == [4]
    second = events_of(ended(scores_expected=True, model_evaluation=ModelEvaluation(SCORES)), previous=first)
    (last,) = evaluations(second)
    assert (last.step, last.epoch) == (8, 2.0)
    assert last.values == {"valid_loss": pytest.approx(0.42), **SCORES}


def test_a_stopped_run_does_not_wait_for_scores() -> None:
    first = events_of(running(LOG, scores_expected=True))
    second = events_of(ended(LOG, "cancelled", scores_expected=True), previous=first)
    assert [measurement.step for measurement in evaluations(second)] == [8]
    assert isinstance(second[-1], Stopped)


def test_scores_are_an_event_of_their_own_if_no_evaluation_can_take_them() -> None:
    (alone,) = of(events_of(ended([], scores_expected=True, model_evaluation=ModelEvaluation(SCORES))), Measured)
    assert (alone.epoch, alone.values) == (2.0, SCORES)
    without_total = [evaluation(n, 0.5, total=None) if n % 4 == 0 else metrics(n, None) for n in range(1, 9)]
    first = events_of(running(without_total, scores_expected=True))
    second = events_of(
        ended(without_total, scores_expected=True, model_evaluation=ModelEvaluation(SCORES)), previous=first
    )
    assert [(measurement.step, measurement.values) for measurement in of(second, Measured)] == [(8, SCORES)]


def test_a_failed_job_costs_nothing_where_the_host_says_so() -> None:
    azure = profile.load("azure")
    failed = job("failed", error_code="server_error", error_message="x", trained_tokens=500)
    assert spent(events_of(ended(LOG[:3], job=failed, status=JobStatus.FAILED), azure)) == (0.0, 500)
    assert spent(events_of(ended(LOG[:3], job=failed, status=JobStatus.FAILED))) == (pytest.approx(0.005), 500)


def test_without_a_price_only_the_tokens_are_known() -> None:
    snapshot = ended(job=job("succeeded", trained_tokens=2000))
    events = new_events(request(n_epochs=2), WITHOUT_SETTLING, TrainingCost(None, 1000.0), [], snapshot)
    assert {event.usd for event in of(events, Charged)} == {None}
    assert sum(event.tokens for event in of(events, Charged)) == 2000


def test_a_success_without_a_model_is_a_failure() -> None:
    event = events_of(ended(job=job("succeeded", model=None)))[-1]
    assert isinstance(event, Failed)
    assert "no model" in event.failure.message
