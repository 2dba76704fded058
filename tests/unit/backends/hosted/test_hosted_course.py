"""What a host says -> events: ordered and stable however it is said, and never more than was said."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.contract import (
    TERMINAL,
    Charged,
    Checkpointed,
    DataFile,
    Dataset,
    Evaluation,
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
from backends.hosted.job_events import Seen, Tariff, further
from backends.hosted.profile import JobStatus, Profile
from backends.hosted.service import RemoteCheckpoint, RemoteJob

pytestmark = pytest.mark.unit

HOST = profile.load("openai")
AT_ONCE = HOST.model_copy(update={"jobs": HOST.jobs.model_copy(update={"settle_s": 0.0})})
FILE = DataFile("/data/train.jsonl", 40, "sha")
TARIFF = Tariff(usd_per_million_tokens=10.0, tokens_per_epoch=1000.0)


def request(keep_maximum: bool = False, keep_metric: str = "valid_loss", **hyperparameters: Any) -> TrainingRequest:
    evaluation = Evaluation(keep_metric=keep_metric, keep_maximum=keep_maximum)
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


def metrics(step: int, total: int | None = 8, **values: Any) -> dict[str, Any]:
    data = {"step": step, "train_loss": 1.0 / step, **values}
    return {
        "id": f"e{step}",
        "created_at": step,
        "level": "info",
        "message": "",
        "data": data | ({"total_steps": total} if total else {}),
    }


def evaluated(step: int, loss: float, **more: Any) -> dict[str, Any]:
    return metrics(step, full_valid_loss=loss, **more)


LOG = [evaluated(n, 0.5 - n / 100) if n % 4 == 0 else metrics(n) for n in range(1, 9)]


def seen(heard: Sequence[Mapping[str, Any]] = (), at: float = 0.0, **changes: Any) -> Seen:
    fields: dict[str, Any] = {
        "job": job(),
        "standing": JobStatus.TRAINING,
        "heard": [(at, each) for each in heard],
        "now": at,
    }
    return Seen(**{**fields, **changes})


def ended(heard: Sequence[Mapping[str, Any]] = LOG, status: str = "succeeded", **changes: Any) -> Seen:
    whole = {"job": job(status), "standing": HOST.standing(status), "whole": True}
    return seen(heard, **{**whole, **changes})


def told(
    view: Seen, host: Profile = AT_ONCE, before: Sequence[Event] = (), asked: TrainingRequest | None = None
) -> list[Event]:
    return further(asked or request(n_epochs=2), host, TARIFF, before, view)


def spent(events: Sequence[Event]) -> tuple[float, int]:
    charges = of(events, Charged)
    return sum(each.usd for each in charges), sum(each.tokens for each in charges)


def of(events: Sequence[Event], kind: type[Any]) -> list[Any]:
    return [each for each in events if isinstance(each, kind)]


def test_a_complete_run() -> None:
    events = told(ended(job=job("succeeded", trained_tokens=2500)))
    assert isinstance(events[0], Started)
    measured = of(events, Measured)
    assert [each.step for each in measured if each.scope == "step"] == list(range(1, 9))
    assert [(each.step, each.epoch, each.values) for each in measured if each.scope == "evaluation"] == [
        (4, 1.0, {"valid_loss": pytest.approx(0.46)}),
        (8, 2.0, {"valid_loss": pytest.approx(0.42)}),
    ]
    assert events[-2:] == [Charged(0.025, 2500, estimated=False), Finished("ft:final")]
    assert told(ended(), before=events[:-2])[-1] == Finished("ft:final")


@settings(max_examples=200)
@given(st.randoms(use_true_random=False), st.integers(1, 6))
def test_the_order_in_which_lines_come_does_not_matter(chance: random.Random, polls: int) -> None:
    """Lines arrive in any order over several polls, each within the settling time: the events are always the same."""
    expected = told(ended(job=job("succeeded", trained_tokens=2000)))
    arrivals = [(n + chance.uniform(0, HOST.jobs.settle_s * 0.9), each) for n, each in enumerate(LOG)]
    events: list[Event] = []
    moments = sorted(chance.uniform(0, 40) for _ in range(polls))
    for now in moments:
        heard = [(at, each) for at, each in arrivals if at <= now]
        chance.shuffle(heard)
        events += further(request(n_epochs=2), HOST, TARIFF, events, Seen(job(), JobStatus.TRAINING, heard, now=now))
    chance.shuffle(arrivals)
    last = Seen(job("succeeded", trained_tokens=2000), JobStatus.SUCCEEDED, arrivals, now=100.0, whole=True)
    events += further(request(n_epochs=2), HOST, TARIFF, events, last)
    assert events == expected


def test_what_was_told_is_never_told_again_or_revised() -> None:
    first = told(seen(LOG[:5]))
    assert told(seen(LOG[:5]), before=first) == []
    late = [LOG[0], LOG[3], *LOG[4:]]  # steps 2 and 3 turn out to be missing; nothing that was told changes
    second = told(seen(late), before=first)
    assert [each.step for each in of(second, Measured) if each.scope == "step"] == [6, 7, 8]


def test_an_evaluation_may_follow_the_running_values_of_its_step() -> None:
    first = told(seen([*LOG[:3], metrics(4)]))
    second = told(seen(LOG[:4]), before=first)
    assert [(each.step, each.scope) for each in of(second, Measured)] == [(4, "evaluation")]


def test_nothing_is_told_before_it_has_settled() -> None:
    heard = [(0.0, each) for each in LOG[:4]]
    early, late = (Seen(job(), JobStatus.TRAINING, heard, now=now) for now in (5.0, HOST.jobs.settle_s))
    assert [type(each) for each in told(early, HOST)] == [Started]
    assert len(of(told(late, HOST), Measured)) == 5


# ------------------------------------------------------------------------------------------------------------- statuses
@pytest.mark.parametrize("status", ["validating_files", "queued", "running", "paused", "moderating", ""])
def test_no_other_status_is_an_end(status: str) -> None:
    view = seen(LOG, job=job(status), standing=HOST.standing(status))
    assert not of(told(view), TERMINAL)


def test_a_job_that_waits_has_not_started() -> None:
    unresolved = job("queued", hyperparameters={})
    assert told(seen(job=unresolved, standing=JobStatus.QUEUED)) == []
    assert told(seen(job=unresolved, standing=JobStatus.UNKNOWN)) == []


def test_what_auto_became_is_recorded() -> None:
    used = {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.8}
    (started,) = told(seen(job=job(hyperparameters=used)), asked=request(learning_rate_multiplier=1.8))
    assert started.resolved == {**used, "steps_per_epoch": 40, "job": "ftjob-1"}


def test_a_start_waits_until_the_host_says_what_it_chose() -> None:
    assert told(seen(job=job(hyperparameters={})), asked=request()) == []


def test_a_requested_value_keeps_its_type_and_a_host_its_word() -> None:
    asked = request(n_epochs=2, learning_rate_multiplier=1.0)
    (started,) = told(seen(job=job(hyperparameters={"n_epochs": 4, "learning_rate_multiplier": 1})), asked=asked)
    assert started.resolved["n_epochs"] == 4
    assert repr(started.resolved["learning_rate_multiplier"]) == "1.0"


# --------------------------------------------------------------------------------------------------------------- epochs
@pytest.mark.parametrize(
    ("total", "epochs", "steps", "expected"),
    [
        (12, 3, [4, 8, 12], [1.0, 2.0, 3.0]),
        (13, 3, [5, 9, 13], [1.0, 2.0, 3.0]),  # 4.33 steps an epoch: the first step at or past its end
        (13, 3, [4, 8, 13], [1.0, 2.0, 3.0]),  # or the last one before
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
    events = of(told(ended(log, job=used), asked=request(n_epochs=epochs)), Measured)
    assert [each.epoch for each in events if each.scope == "evaluation"] == expected
    assert [each.epoch for each in events] == sorted(each.epoch for each in events)
    assert all(abs(each.epoch - each.step * epochs / total) <= epochs / total for each in events)


def test_without_a_total_the_batch_says_how_long_an_epoch_is() -> None:
    log = [metrics(n, None, **({"full_valid_loss": 1.0} if n % 4 == 0 else {})) for n in range(1, 9)]
    events = of(told(ended(log)), Measured)
    assert [each.epoch for each in events if each.scope == "evaluation"] == [1.0, 2.0]


def test_without_anything_evaluations_are_counted() -> None:
    log = [metrics(n, None, **({"full_valid_loss": 1.0} if n in (5, 9) else {})) for n in range(1, 10)]
    used = job("succeeded", hyperparameters={})
    events = of(told(ended(log, job=used), asked=request()), Measured)
    assert [(each.step, each.epoch) for each in events if each.scope == "evaluation"] == [(5, 1.0), (9, 2.0)]
    assert [each.epoch for each in events] == sorted(each.epoch for each in events)


# --------------------------------------------------------------------------------------------------------- measurements
def test_a_missing_value_is_absent_and_one_that_is_no_number_is_told() -> None:
    log = [metrics(1, valid_loss=None), metrics(2, valid_loss="NaN"), metrics(3, valid_loss=math.inf)]
    first, second, third = (each.values for each in of(told(seen(log)), Measured))
    assert "batch_valid_loss" not in first
    assert math.isnan(second["batch_valid_loss"])
    assert third["batch_valid_loss"] == math.inf


def test_where_a_host_says_null_for_what_is_no_number() -> None:
    server = profile.load("local")
    log = [{**metrics(4), "data": {"step": 4, "epoch": 1.0, "full_valid_loss": None, "train_loss": None}}]
    events = of(told(seen(log), server), Measured)
    assert [each.scope for each in events] == ["step", "evaluation"]
    assert all(math.isnan(value) for each in events for value in each.values.values())


def test_the_result_file_serves_where_events_say_nothing() -> None:
    rows = [{"step": 4.0, "train_loss": 0.3, "full_valid_loss": 0.4}, {"step": 8.0, "full_valid_loss": 0.35}]
    events = told(ended([], rows=rows))
    assert [(each.step, each.scope) for each in of(events, Measured)] == [
        (4, "step"),
        (4, "evaluation"),
        (8, "evaluation"),
    ]


def test_checkpoints_complete_what_events_left_out() -> None:
    checkpoints = [RemoteCheckpoint("c1", 4, "ft:ckpt-4", {"step": 4, "full_valid_loss": 0.5})]
    events = told(ended([metrics(n) for n in range(1, 9)], checkpoints=checkpoints))
    assert [(each.step, each.values) for each in of(events, Measured) if each.scope == "evaluation"] == [
        (4, {"valid_loss": 0.5})
    ]
    assert of(events, Checkpointed) == [Checkpointed(4, 1.0, "ft:ckpt-4")]


def test_a_checkpoint_that_is_later_than_the_log_waits_for_it() -> None:
    """The log is read first; what the host trains before the second question must not hide what the log has to say."""
    ahead = [RemoteCheckpoint(f"c{n}", n, f"ft:ckpt-{n}", {"full_valid_loss": 0.5 - n / 100}) for n in (4, 8)]
    first = told(seen(LOG[:5], checkpoints=ahead))
    assert [each.step for each in of(first, Checkpointed)] == [4]
    second = told(ended(checkpoints=ahead), before=first)
    assert [each.step for each in of(second, Measured)] == [6, 7, 8, 8]
    assert [each.step for each in of(second, Checkpointed)] == [8]


def test_a_checkpoint_comes_between_its_step_and_the_next() -> None:
    checkpoints = [RemoteCheckpoint("c1", 4, "ft:ckpt-4", {})]
    events = told(seen(LOG[:6], checkpoints=checkpoints))
    points = of(events, Measured | Checkpointed)
    assert [each.step for each in points] == sorted(each.step for each in points)
    # ahead of the log, it waits for it
    assert not of(told(seen(LOG[:2], checkpoints=checkpoints)), Checkpointed)


# ------------------------------------------------------------------------------------------------------------------ end
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
    log = [evaluated(4, losses[0]), evaluated(8, losses[1])]
    events = told(ended(log, checkpoints=CHECKPOINTS), asked=request(maximum, n_epochs=2))
    assert events[-1] == Finished(kept)


def test_where_the_host_keeps_the_best_state_its_model_is_it() -> None:
    server = profile.load("local")
    log = [evaluated(4, 0.4), evaluated(8, 0.5)]
    assert told(ended(log, checkpoints=CHECKPOINTS), server)[-1] == Finished("ft:final")


def test_a_cancelled_job_is_stopped_and_what_was_spent_is_an_estimate() -> None:
    """The epoch that was under way counts in full: nobody knows how far the host went after its last word."""
    for heard, epochs in ((LOG[:3], 1), (LOG[:6], 2), (LOG, 2)):
        events = told(ended(heard, "cancelled"))
        assert events[-1] == Stopped(None)
        assert spent(events) == (pytest.approx(epochs * 0.01), epochs * 1000)
        assert all(each.estimated for each in of(events, Charged))


def test_a_cancelled_job_that_never_trained_cost_nothing() -> None:
    assert told(ended([], "cancelled", job=job("cancelled", hyperparameters={}))) == [Stopped(None)]


def test_a_paused_job_keeps_its_best_checkpoint() -> None:
    view = ended(LOG[:6], "paused", checkpoints=CHECKPOINTS[:1])
    assert told(view)[-1] == Stopped("ft:ckpt-4")


def test_a_failed_job_says_why() -> None:
    failed = job("failed", error_code="invalid_training_file", error_message="line 3 is no JSON", hyperparameters={})
    (event,) = told(ended([], "failed", job=failed))
    assert event.failure.kind is FailureKind.USER
    assert "line 3" in event.failure.message


def test_a_failed_job_without_an_error_is_explained_by_its_log() -> None:
    words = [{"id": "x", "created_at": 9, "level": "error", "message": "moderation: refused", "data": {}}]
    event = told(ended(words, "failed"))[-1]
    assert "moderation: refused" in event.failure.message


def test_a_model_that_moderation_blocked_is_explained_by_its_log() -> None:
    data = {"blocked": True, "results": {"flagged": True}}
    words = [{"id": "x", "created_at": 9, "level": "info", "message": "Moderation failed: violence", "data": data}]
    event = told(ended(words, job=job("succeeded", model=None)))[-1]
    assert isinstance(event, Failed)
    assert event.failure.kind is FailureKind.USER
    assert "violence" in event.failure.message


# -------------------------------------------------------------------------------------------------------------- answers
ANSWERS = {"valid_accuracy": 0.75, "valid_macro_f1": 0.7}


def test_the_last_evaluation_waits_for_the_answers() -> None:
    first = told(seen(LOG, examined=True))
    assert [each.step for each in of(first, Measured) if each.scope == "evaluation"] == [4]
    second = told(ended(examined=True, answers=ANSWERS), before=first)
    (last,) = (each for each in of(second, Measured) if each.scope == "evaluation")
    assert (last.step, last.epoch) == (8, 2.0)
    assert last.values == {"valid_loss": pytest.approx(0.42), **ANSWERS}


def test_a_run_that_was_stopped_does_not_wait_for_answers() -> None:
    first = told(seen(LOG, examined=True))
    second = told(ended(LOG, "cancelled", examined=True), before=first)
    assert [each.step for each in of(second, Measured) if each.scope == "evaluation"] == [8]
    assert isinstance(second[-1], Stopped)


def test_answers_are_told_by_themselves_where_nothing_was_measured_or_it_was_told() -> None:
    (alone,) = of(told(ended([], examined=True, answers=ANSWERS)), Measured)
    assert (alone.epoch, alone.values) == (2.0, ANSWERS)
    untotalled = [evaluated(n, 0.5, total=None) if n % 4 == 0 else metrics(n, None) for n in range(1, 9)]
    first = told(seen(untotalled, examined=True))
    second = told(ended(untotalled, examined=True, answers=ANSWERS), before=first)
    assert [(each.step, each.values) for each in of(second, Measured)] == [(8, ANSWERS)]


def test_where_failed_jobs_are_free_none_is_charged() -> None:
    azure = profile.load("azure")
    failed = job("failed", error_code="server_error", error_message="x", trained_tokens=500)
    assert spent(told(ended(LOG[:3], job=failed, standing=JobStatus.FAILED), azure)) == (0.0, 500)
    assert spent(told(ended(LOG[:3], job=failed, standing=JobStatus.FAILED))) == (pytest.approx(0.005), 500)


def test_without_a_price_the_tokens_are_known_and_no_money() -> None:
    view = ended(job=job("succeeded", trained_tokens=2000))
    events = further(request(n_epochs=2), AT_ONCE, Tariff(None, 1000.0), [], view)
    assert {each.usd for each in of(events, Charged)} == {None}
    assert sum(each.tokens for each in of(events, Charged)) == 2000


def test_a_success_without_a_model_is_a_failure_that_says_so() -> None:
    event = told(ended(job=job("succeeded", model=None)))[-1]
    assert isinstance(event, Failed)
    assert "no model" in event.failure.message
