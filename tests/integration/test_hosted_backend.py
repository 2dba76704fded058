"""The hosted backend over a scripted host, through the genuine client: what a host does, and what is made of it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_host import (
    KEY,
    ConnectionCutError,
    HostBehaviour,
    InMemoryTransport,
    Response,
    ScriptedHost,
    change_behaviour,
    error_response,
)

from backends.contract import (
    TERMINAL_EVENTS,
    BackendError,
    Charged,
    Dataset,
    Event,
    Failed,
    FailureKind,
    Finished,
    Handle,
    Measured,
    PredictOptions,
    Queued,
    Started,
    Stopped,
    TrainingRequest,
)
from backends.hosted import HostedBackend, failures, profile, service
from backends.testing import write_jsonl

pytestmark = pytest.mark.integration

LABELS = (" red", " green", " blue")
TOKEN = "management-token-0123456789"
CREATE = "POST fine_tuning/jobs"


class World:
    """A host, a clock that moves when somebody waits, and clients."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 1_700_000_000.0
        self.host = ScriptedHost(lambda: self.now)
        self.opened: list[HostedBackend] = []
        lines = [{"prompt": f"thing {n}\n\n###\n\n", "completion": LABELS[n % 3]} for n in range(24)]
        train, valid = write_jsonl(folder / "train.jsonl", lines), write_jsonl(folder / "valid.jsonl", lines[:6])
        self.dataset = Dataset(train, valid, "completion", LABELS)
        self.prompts = lines[:6]

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def open(
        self, workspace: str = "workspace", secrets: dict[str, str] | None = None, **options: Any
    ) -> HostedBackend:
        given = {
            "base_url": "http://host/v1",
            "model": "base-chat",
            "poll_s": 0,
            "price_per_million_tokens": 10.0,
            **options,
        }
        names = ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "SWEEP_SERVER_KEY", "NEBIUS_API_KEY")
        backend = HostedBackend(
            HostedBackend.options_model.model_validate(given),
            self.folder / workspace,
            dict.fromkeys(names, KEY) | {"AZURE_MANAGEMENT_TOKEN": TOKEN} if secrets is None else secrets,
            transport=InMemoryTransport(self.host),
            clock=lambda: self.now,
            sleep=self.sleep,
        )
        self.opened.append(backend)
        return backend

    def request(self, key: str = "k", model: str = "base-chat", **hyperparameters: Any) -> TrainingRequest:
        values = {"n_epochs": 2, "batch_size": 8, **hyperparameters}
        return TrainingRequest(key, model, self.dataset, values, seed=7)

    def drain(self, backend: HostedBackend, handle: Handle, hours: float = 24.0) -> list[Event]:
        deadline = self.now + hours * 3600
        while self.now < deadline:
            events = list(backend.events(handle, 0))
            if events and isinstance(events[-1], TERMINAL_EVENTS):
                return events
            self.now += 5.0
        raise AssertionError(f"no end after {hours} h: {events}")

    def complete(self, backend: HostedBackend, **request: Any) -> list[Event]:
        return self.drain(backend, backend.submit(self.request(**request)))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    for backend in world.opened:
        backend.close()


# -------------------------------------------------------------------------------------------------------------- uploads
def test_a_file_is_uploaded_once_for_all_trials_and_sweeps(world: World) -> None:
    first = world.open("one")
    world.complete(first, key="a")
    world.complete(first, key="b", n_epochs=1)
    world.complete(world.open("two"), key="c")
    assert world.host.operations.count("POST files") == 2
    assert {job.body["training_file"] for job in world.host.jobs.values()} == {"file-000001"}


def test_a_file_that_is_gone_is_uploaded_again(world: World) -> None:
    backend = world.open()
    world.complete(backend, key="a")
    world.host.files.clear()
    world.complete(backend, key="b")
    assert world.host.operations.count("POST files") == 4


def data_files(world: World) -> list[dict[str, Any]]:
    return [file for file in world.host.files.values() if file["filename"].startswith("sweep-")]


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files above 1,000 bytes go in parts of 700 bytes."""
    openai = profile.load("openai")
    files = openai.files.model_copy(update={"multipart_above_bytes": 1000, "max_bytes": 100_000})
    monkeypatch.setattr(profile, "load", lambda name: openai.model_copy(update={"files": files}))
    monkeypatch.setattr(host_client, "PART_BYTES", 700)


@pytest.mark.usefixtures("in_parts")
def test_a_large_file_goes_in_parts_and_a_small_one_at_once(world: World) -> None:
    world.complete(world.open("one"), key="a")
    world.complete(world.open("two"), key="b")
    sizes = sorted(file["bytes"] for file in data_files(world))
    assert len(sizes) == 2, "what was sent in parts is found and used again, too"
    assert sizes[0] < 1000 < sizes[1]
    assert world.host.operations.count("POST files") == world.host.operations.count("POST uploads") == 1
    assert world.host.operations.count("POST uploads/*/parts") == -(-sizes[1] // 700) > 2
    (job, _) = world.host.jobs.values()
    sent = world.host.contents[job.body["training_file"]]
    assert hashlib.sha256(sent).hexdigest() in world.host.files[job.body["training_file"]]["filename"]
    assert len(sent.splitlines()) == 24


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("operation", ["POST uploads", "POST uploads/*/parts", "POST uploads/*/complete"])
def test_an_upload_in_parts_that_breaks_off_is_done_again(world: World, operation: str, moment: str) -> None:
    left = [1]

    def fault(asked: str, when: str) -> Response | None:
        if (asked, when) == (operation, moment) and left:
            left.pop()
            raise ConnectionCutError("cut")
        return None

    world.host.fault = fault
    assert isinstance(world.complete(world.open())[-1], Finished)
    assert not left
    assert len(world.host.jobs) == 1
    assert len(data_files(world)) == 2, "a file whose upload was only not answered is found by its name"


def test_a_file_is_waited_for(world: World) -> None:
    change_behaviour(world.host, file_polls=4)
    assert isinstance(world.complete(world.open())[-1], Finished)
    assert world.host.operations.count(CREATE) == 1


def test_a_file_that_the_host_refuses_is_a_users_mistake(world: World) -> None:
    def fault(operation: str, moment: str) -> Response | None:
        if (operation, moment) != ("POST files", "after"):
            return None
        (*_, id_) = world.host.files
        return Response(200, json.dumps({**world.host.files[id_], "status": "error", "status_details": "line 3"}).encode())

    world.host.fault = fault
    backend = world.open()
    with pytest.raises(BackendError, match="line 3") as raised:
        backend.submit(world.request())
    assert raised.value.failure.kind is FailureKind.USER
    world.host.fault = lambda operation, moment: None
    assert isinstance(world.complete(backend)[-1], Finished), "corrected, it may come again under the same key"


def test_what_is_uploaded_is_the_stated_mapping(world: World) -> None:
    world.complete(world.open(system_message="Name the colour."))
    content = world.host.contents["file-000001"].decode().splitlines()
    assert json.loads(content[1]) == {
        "messages": [
            {"role": "system", "content": "Name the colour."},
            {"role": "user", "content": "thing 1\n\n###\n\n"},
            {"role": "assistant", "content": "green"},
        ]
    }
    world.complete(world.open("text", model="babbage-002"), key="t", model="babbage-002")
    content = world.host.contents["file-000003" if "file-000003" in world.host.contents else "file-000004"].decode()
    assert json.loads(content.splitlines()[1]) == {"prompt": "thing 1\n\n###\n\n", "completion": " green"}


# ------------------------------------------------------------------------------------------------- limits and refusals
def test_a_daily_limit_is_waited_for_and_no_failure(world: World) -> None:
    refusals = [0]

    def fault(operation: str, moment: str) -> Response | None:
        if operation == CREATE and moment == "before" and refusals[0] < 3:
            refusals[0] += 1
            return error_response(429, "rate-limited: maximum of 2 requests per day", "daily_rate_limit_exceeded")
        return None

    world.host.fault = fault
    began = world.now
    assert isinstance(world.complete(world.open())[-1], Finished)
    assert world.now - began >= 3 * 3600
    assert world.host.operations.count(CREATE) == 4, "it is not asked before it is time"


def test_a_limit_that_one_run_meets_holds_the_others_back(world: World) -> None:
    world.host.fault = lambda operation, moment: (
        error_response(429, "rate-limited: 2 requests per day", "daily_rate_limit_exceeded") if operation == CREATE else None
    )
    backend = world.open()
    for key in ("a", "b", "c"):
        backend.submit(world.request(key))
    assert world.host.operations.count(CREATE) == 1


def test_what_is_waited_for_is_said_with_its_end(world: World) -> None:
    fatal = error_response(429, "rate-limited: 2 requests per day", "daily_rate_limit_exceeded")
    world.host.fault = lambda operation, moment: fatal if operation == CREATE else None
    backend = world.open()
    first, second = backend.submit(world.request("a")), backend.submit(world.request("b"))
    began = world.now
    for handle in (first, second):
        waiting = backend.waiting(handle)
        assert waiting is not None
        assert "2 requests per day" in waiting.reason
        assert 3600 <= waiting.until - began < 3700
    world.host.fault = lambda operation, moment: None
    world.now = began + 3700
    assert backend.waiting(first) is None, "its time is over"
    assert isinstance(world.drain(backend, first)[-1], Finished)
    assert backend.waiting(first) is None


def test_a_limit_of_ones_own_and_a_host_out_of_reach_are_said_too(world: World) -> None:
    backend = world.open(jobs_per_day=1)
    world.complete(backend, key="a")
    handle = backend.submit(world.request("b"))
    waiting = backend.waiting(handle)
    assert waiting is not None
    assert "`jobs_per_day`" in waiting.reason
    assert waiting.until > world.now + 80000
    away = world.open("away")
    world.host.fault = cut
    handle = away.submit(world.request("c"))
    assert away.waiting(handle) is None, "for a moment nobody is told"
    for _ in range(30):
        world.now += 5.0
        away.events(handle, 0)
    waiting = away.waiting(handle)
    assert waiting is not None
    assert "cannot be reached" in waiting.reason


OVER_QUOTA = {"code": "exceeded_quota", "message": "too many jobs", "param": None}


def test_a_job_that_fails_for_its_quota_is_no_failure_and_is_created_again_later(world: World) -> None:
    backend = world.open()
    handle = backend.submit(world.request())
    for hours in (1, 2, 3):
        job = list(world.host.jobs.values())[-1]
        job.status, job.error = "failed", OVER_QUOTA
        asked_at = world.now
        while len(world.host.jobs) == hours:
            assert [type(event) for event in backend.events(handle, 0)] == [Queued]
            world.now += 60.0
        assert 3600 <= world.now - asked_at < 3800
    other = backend.submit(world.request("another trial"))
    events = world.drain(backend, handle)
    assert isinstance(events[-1], Finished)
    assert isinstance(world.drain(backend, other)[-1], Finished)
    assert [job.status for job in world.host.jobs.values()] == ["failed"] * 3 + ["succeeded"] * 2
    steps = [event.step for event in events if isinstance(event, Measured) and event.scope == "step"]
    assert steps == sorted(set(steps)), "nothing of the failed jobs is told"
    assert [event.tokens > 0 for event in events if isinstance(event, Charged)] == [True]


def test_a_job_over_its_quota_holds_the_other_trials_back(world: World) -> None:
    backend = world.open()
    handle = backend.submit(world.request("first"))
    (job,) = world.host.jobs.values()
    job.status, job.error = "failed", OVER_QUOTA
    backend.events(handle, 0)
    began = world.now
    other = backend.submit(world.request("second"))
    assert len(world.host.jobs) == 1
    assert isinstance(world.drain(backend, other)[-1], Finished)
    assert world.now - began >= 3600


def test_a_run_that_waits_for_its_quota_can_be_stopped_and_gets_no_job(world: World) -> None:
    backend = world.open()
    handle = backend.submit(world.request())
    (job,) = world.host.jobs.values()
    job.status, job.error = "failed", OVER_QUOTA
    backend.events(handle, 0)
    backend.stop(handle)
    assert world.drain(backend, handle)[-1] == Stopped(None)
    assert len(world.host.jobs) == 1


def test_a_job_that_fails_for_its_quota_while_it_trains_is_a_failure_that_may_be_retried(world: World) -> None:
    change_behaviour(world.host, epochs_per_poll=0.34)
    backend = world.open()
    handle = backend.submit(world.request("first attempt"))
    (job,) = world.host.jobs.values()
    while not any(isinstance(event, Measured) for event in backend.events(handle, 0)):
        world.now += 30
    job.status, job.error = "failed", OVER_QUOTA
    end = world.drain(backend, handle)[-1]
    assert isinstance(end, Failed)
    assert end.failure.kind is FailureKind.QUOTA
    began = world.now
    assert isinstance(world.complete(backend, key="second attempt")[-1], Finished)
    assert world.now - began >= 3600


def test_another_workspace_adopts_the_job_that_came_after_the_one_over_its_quota(world: World) -> None:
    first = world.open("one")
    handle = first.submit(world.request())
    (job,) = world.host.jobs.values()
    job.status, job.error = "failed", OVER_QUOTA
    while len(world.host.jobs) == 1:
        first.events(handle, 0)
        world.now += 60.0
    assert isinstance(world.complete(world.open("two"))[-1], Finished)
    assert [job.status for job in world.host.jobs.values()] == ["failed", "succeeded"]


def test_no_more_jobs_a_day_than_the_user_allows(world: World) -> None:
    backend = world.open(jobs_per_day=2)
    began = world.now
    for key in ("a", "b", "c"):
        world.drain(backend, backend.submit(world.request(key)), hours=30)
    created = sorted(job.created_at for job in world.host.jobs.values())
    assert len(created) == 3
    assert created[2] - created[0] >= 86400 - 1
    assert created[1] - began < 3600


def test_retry_after_is_honoured_however_long(world: World) -> None:
    asked_at: list[float] = []

    def fault(operation: str, moment: str) -> Response | None:
        if operation == CREATE and moment == "before":
            asked_at.append(world.now)
            if len(asked_at) == 1:
                return error_response(429, "slow down", "rate_limit_exceeded", **{"retry-after": "900"})
        return None

    world.host.fault = fault
    assert isinstance(world.complete(world.open())[-1], Finished)
    assert asked_at[1] - asked_at[0] >= 900


def test_training_not_available_ends_it_with_what_to_do_instead(world: World) -> None:
    message = "OpenAI is winding down the fine-tuning platform"
    world.host.fault = lambda operation, moment: (
        error_response(403, message, "training_not_available") if operation == CREATE else None
    )
    with pytest.raises(BackendError, match="winding down") as raised:
        world.open().submit(world.request())
    assert raised.value.failure.kind is FailureKind.USER
    assert "Azure" in raised.value.failure.detail
    assert world.host.jobs == {}


def test_a_refusal_that_comes_while_events_are_awaited_is_the_runs_end(world: World) -> None:
    change_behaviour(world.host, file_polls=3)
    backend = world.open()
    handle = backend.submit(world.request())
    world.host.fault = lambda operation, moment: error_response(400, "no such model") if operation == CREATE else None
    end = world.drain(backend, handle)[-1]
    assert isinstance(end, Failed)
    assert end.failure.kind is FailureKind.USER


def test_a_wrong_key_is_said_once_and_ends_nothing_that_runs(world: World) -> None:
    backend = world.open()
    handle = backend.submit(world.request())
    wrong = world.open(secrets={"OPENAI_API_KEY": "wrong"})
    with pytest.raises(BackendError) as raised:
        wrong.events(handle, 0)
    assert raised.value.failure.kind is FailureKind.USER
    assert isinstance(world.drain(backend, handle)[-1], Finished)


def test_without_a_key_it_says_which_name_to_set(world: World) -> None:
    with pytest.raises(BackendError, match="OPENAI_API_KEY is not set"):
        world.open(secrets={})
    world.open(host="local", secrets={})


def cut(operation: str, moment: str) -> None:
    raise ConnectionCutError


def test_a_host_out_of_reach_is_no_failure_until_patience_ends(world: World) -> None:
    change_behaviour(world.host, file_polls=10**6)
    backend = world.open(patience_s=1800)
    handle = backend.submit(world.request())
    world.host.fault = cut
    with pytest.raises(BackendError) as raised:
        world.drain(backend, handle)
    assert raised.value.failure.kind is FailureKind.TRANSIENT
    assert 1800 <= world.now - 1_700_000_000 < 2200


def test_a_job_is_never_given_up_because_its_host_is_out_of_reach(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever tries the trial again would pay for another job while this one goes on."""
    backend = world.open(patience_s=1800)
    handle = backend.submit(world.request())
    world.host.fault = cut
    for _ in range(200):
        world.now += 120
        assert not any(isinstance(event, TERMINAL_EVENTS) for event in backend.events(handle, 0))
    assert 5 <= sum("out of reach" in record.message for record in caplog.records) <= 15
    world.host.fault = lambda operation, moment: None
    assert isinstance(world.drain(backend, handle)[-1], Finished)


def test_a_wrong_key_does_not_end_a_run_that_may_have_a_job(world: World) -> None:
    """The answer to the creation is lost and the key expires before the job is found: that is not a refusal."""
    refusing = [False]

    def fault(operation: str, moment: str) -> Response | None:
        if operation == CREATE and moment == "after":
            refusing[0] = True
            raise ConnectionCutError
        return error_response(401, "expired", "invalid_api_key") if refusing[0] else None

    world.host.fault = fault
    backend = world.open()
    handle = backend.submit(world.request())
    world.now += 60
    with pytest.raises(BackendError, match="expired"):
        backend.events(handle, 0)
    world.host.fault = lambda operation, moment: None
    assert isinstance(world.drain(backend, handle)[-1], Finished)
    assert len(world.host.jobs) == 1


# ------------------------------------------------------------------------------------------------------ how a job goes
def test_a_job_that_shows_no_sign_of_life_is_cancelled_and_lost(world: World) -> None:
    world.host._advance = lambda job: None  # type: ignore[method-assign]
    backend = world.open(stall_s=900)
    began = world.now
    end = world.complete(backend)[-1]
    assert isinstance(end, Failed)
    assert end.failure.kind is FailureKind.LOST
    assert 900 <= world.now - began < 1000
    assert [job.status for job in world.host.jobs.values()] == ["cancelled"]


def test_time_in_which_nobody_looked_is_no_silence(world: World) -> None:
    backend = world.open(stall_s=600)
    handle = backend.submit(world.request())
    backend.events(handle, 0)
    backend.close()
    world.now += 10 * 3600
    successor = world.open(stall_s=600)
    assert isinstance(world.drain(successor, handle)[-1], Finished)


def test_an_unknown_status_is_waited_out(world: World) -> None:
    backend = world.open()
    handle = backend.submit(world.request())
    (job,) = world.host.jobs.values()
    advance, world.host._advance = world.host._advance, lambda job: None  # type: ignore[method-assign]
    job.status = "moderating"
    for _ in range(20):
        world.now += 60
        assert not any(isinstance(event, TERMINAL_EVENTS) for event in backend.events(handle, 0))
    job.status, world.host._advance = "running", advance  # type: ignore[method-assign]
    assert isinstance(world.drain(backend, handle)[-1], Finished)


def test_a_job_that_somebody_paused_is_waited_for_and_goes_on(world: World) -> None:
    change_behaviour(world.host, epochs_per_poll=0.34)
    backend = world.open(stall_s=600)
    handle = backend.submit(world.request())
    (job,) = world.host.jobs.values()
    while not any(isinstance(event, Started) for event in backend.events(handle, 0)):
        world.now += 30
    job.status = "paused"
    for _ in range(100):
        world.now += 60
        assert not any(isinstance(event, TERMINAL_EVENTS) for event in backend.events(handle, 0))
    job.status = "running"
    assert isinstance(world.drain(backend, handle)[-1], Finished)


def test_a_job_that_was_deleted_is_lost_but_not_at_the_first_404(world: World) -> None:
    backend = world.open()
    handle = backend.submit(world.request())
    jobs, world.host.jobs = world.host.jobs, {}
    world.now += 10
    assert not any(isinstance(event, TERMINAL_EVENTS) for event in backend.events(handle, 0))
    world.host.jobs = jobs
    world.now += 60
    backend.events(handle, 0)
    world.host.jobs = {}
    end = world.drain(backend, handle)[-1]
    assert isinstance(end, Failed)
    assert end.failure.kind is FailureKind.LOST


def test_a_failed_job_is_a_failure_of_its_kind(world: World) -> None:
    backend = world.open()
    handle = backend.submit(world.request())
    (job,) = world.host.jobs.values()
    job.status, job.error = "failed", {"code": "invalid_n_examples", "message": "has 7 example(s)", "param": None}
    end = world.drain(backend, handle)[-1]
    assert isinstance(end, Failed)
    assert end.failure.kind is FailureKind.USER
    assert "7 example" in end.failure.message


def test_measurements_of_a_host_that_only_writes_result_files(world: World) -> None:
    change_behaviour(world.host, metrics_in_events=False, base64_results=True, checkpoints_while_training=False)
    events = world.complete(world.open())
    measured = [event for event in events if isinstance(event, Measured)]
    assert [measurement.step for measurement in measured if measurement.scope == "step"] == [1, 2, 3, 4, 5, 6]
    assert [measurement.epoch for measurement in measured if measurement.scope == "evaluation"] == [1.0, 2.0]
    assert "batch_token_accuracy" in measured[0].values


def test_the_model_may_come_after_the_success(world: World) -> None:
    change_behaviour(world.host, model_polls=5)
    assert isinstance(world.complete(world.open())[-1], Finished)


def test_a_model_that_never_comes_is_a_failure(world: World) -> None:
    change_behaviour(world.host, model_polls=10**6)
    change_behaviour(world.host, kept_checkpoints=0, checkpoints_while_training=False)
    end = world.complete(world.open())[-1]
    assert isinstance(end, Failed)
    assert "no model" in end.failure.message


def test_the_tokens_that_the_host_counted_make_the_next_estimate(world: World) -> None:
    backend = world.open()
    assert "an estimate" in backend.estimate(world.request()).basis
    events = world.complete(backend)
    charged = [event for event in events if isinstance(event, Charged)]
    assert charged == [Charged(480 * 10.0 / 1e6, 480)]
    estimate = backend.estimate(world.request("other", n_epochs=5))
    assert estimate.tokens == 1200
    assert "as the host counted" in estimate.basis


# -------------------------------------------------------------------------------------------------------- stop, discard
def started(world: World, backend: HostedBackend, **request: Any) -> Handle:
    handle = backend.submit(world.request(**request))
    while not any(isinstance(event, Measured) for event in backend.events(handle, 0)):
        world.now += 30
    return handle


def test_stopping_cancels_and_what_was_spent_is_recorded(world: World) -> None:
    change_behaviour(world.host, epochs_per_poll=0.5, reports_trained_tokens=False)
    backend = world.open()
    handle = started(world, backend, n_epochs=20)
    backend.stop(handle)
    events = world.drain(backend, handle)
    assert isinstance(events[-1], Stopped)
    charged = [event for event in events if isinstance(event, Charged)]
    assert all(charge.estimated and charge.tokens > 0 for charge in charged)
    assert all(charge.usd == pytest.approx(charge.tokens * 10.0 / 1e6) for charge in charged)
    per_epoch = (backend.estimate(world.request(n_epochs=20)).max_tokens or 0) / 20
    reached = max(event.epoch for event in events if isinstance(event, Measured))
    assert sum(charge.tokens for charge in charged) == pytest.approx((reached // 1 + 1) * per_epoch, abs=1)
    assert [job.status for job in world.host.jobs.values()] == ["cancelled"]


def test_stopping_pauses_where_that_keeps_a_checkpoint(world: World) -> None:
    change_behaviour(world.host, epochs_per_poll=1.0)
    backend = world.open(stop="pause")
    handle = started(world, backend, n_epochs=20)
    backend.stop(handle)
    end = world.drain(backend, handle)[-1]
    assert isinstance(end, Stopped)
    assert end.model is not None
    assert "ckpt-step" in end.model
    assert [job.status for job in world.host.jobs.values()] == ["paused"]
    backend.discard(handle)
    assert [job.status for job in world.host.jobs.values()] == ["cancelled"]


def test_too_early_to_pause_is_cancelled(world: World) -> None:
    backend = world.open(stop="pause")
    handle = backend.submit(world.request())
    backend.stop(handle)
    assert isinstance(world.drain(backend, handle)[-1], Stopped)
    assert [job.status for job in world.host.jobs.values()] == ["cancelled"]


def test_a_stop_is_delivered_when_the_host_is_back(world: World) -> None:
    backend = world.open()
    handle = started(world, backend, n_epochs=50)
    world.host.fault = cut
    backend.stop(handle)
    assert [job.status for job in world.host.jobs.values()] == ["running"]
    world.host.fault = lambda operation, moment: None
    backend.close()
    assert isinstance(world.drain(world.open(), handle)[-1], Stopped)
    assert [job.status for job in world.host.jobs.values()] == ["cancelled"]


def test_a_run_that_is_stopped_before_it_has_a_job_never_gets_one(world: World) -> None:
    change_behaviour(world.host, file_polls=10**6)
    backend = world.open()
    handle = backend.submit(world.request())
    backend.stop(handle)
    assert world.drain(backend, handle)[-1] == Stopped(None)
    assert world.host.jobs == {}


def test_discarding_deletes_what_is_the_runs_own(world: World) -> None:
    backend = world.open()
    handle = backend.submit(world.request("a"))
    world.drain(backend, handle)
    world.complete(backend, key="b")
    (job, other) = world.host.jobs.values()
    backend.discard(handle)
    backend.discard(handle)
    assert world.host.final_model(job) not in world.host.models
    assert world.host.final_model(other) in world.host.models
    assert not [model for model in world.host.models if job.id in model]
    assert f"result-{job.id}" not in world.host.files
    assert job.body["training_file"] in world.host.files, "other trials use it"


def test_what_is_left_is_listed_and_can_be_removed(world: World) -> None:
    backend = world.open()
    world.complete(backend, key="a")
    started(world, backend, key="b", n_epochs=50)
    left = backend.cleanup.leftovers()
    assert {(leftover.kind, leftover.key) for leftover in left} >= {("model", "a"), ("result file", "a"), ("job", "b")}
    assert [leftover.kind for leftover in left if leftover.key is None] == ["data file", "data file"]
    assert {leftover.key for leftover in backend.cleanup.leftovers(["a"])} == {"a"}
    for leftover in left:
        backend.cleanup.remove(leftover)
    kinds = {leftover.kind for leftover in backend.cleanup.leftovers()}
    assert "data file" not in kinds
    assert "job" not in kinds
    assert all(job.ended for job in world.host.jobs.values())
    assert world.host.files == {}


def state_of(host: ScriptedHost) -> tuple[Any, ...]:
    jobs = {name: job.status for name, job in host.jobs.items()}
    return set(host.files), set(host.models), dict(host.deployments), jobs


def test_looking_at_what_is_left_changes_nothing(world: World) -> None:
    backend = world.open()
    world.complete(backend, key="a")
    started(world, backend, key="b", n_epochs=50)
    twin = world.host.accept(list(world.host.jobs.values())[1].body)
    before, asked = state_of(world.host), len(world.host.operations)
    sqlite = world.folder / "workspace" / "hosted" / "journal.sqlite"
    with contextlib.closing(sqlite3.connect(sqlite)) as journal:  # as if the process had died before it knew of the job
        journal.execute("UPDATE runs SET job = NULL WHERE key = 'b'")
        journal.commit()
    left = backend.leftovers()
    assert {leftover.name for leftover in left if leftover.kind == "job"} >= {twin.id}, "also the second job that nobody wanted"
    assert {operation.split()[0] for operation in world.host.operations[asked:]} == {"GET"}
    after = state_of(world.host)
    assert (after[0], after[1], after[2]) == before[:3]
    assert after[3][twin.id] != "cancelled"


def removed(backend: HostedBackend, others: list[Path] | None = None) -> dict[str, str]:
    """Remove everything that is left. Returns what stays, with the reason."""
    reasons = {leftover.name: backend.remove(leftover) for leftover in backend.leftovers(others or [])}
    return {name: reason for name, reason in reasons.items() if reason}


def test_a_clean_up_that_is_done_twice_or_broken_off_is_no_error(world: World) -> None:
    backend = world.open()
    world.complete(backend, key="a")
    started(world, backend, key="b", n_epochs=50)
    left = list(backend.leftovers())
    for leftover in left[: len(left) // 2]:
        backend.remove(leftover)
    again = world.open()
    assert [leftover.name for leftover in again.leftovers()] == [leftover.name for leftover in left[len(left) // 2 :]]
    for leftover in (*left, *left):  # all of it, though half is gone
        assert again.remove(leftover) == ""
    assert list(again.leftovers()) == []
    assert (world.host.files, [model for model in world.host.models if model.startswith("ft:")]) == ({}, [])
    assert isinstance(world.complete(again, key="c")[-1], Finished), "files that are gone are uploaded again"


def test_a_data_file_stays_as_long_as_another_sweep_here_uses_it(world: World) -> None:
    one, two = world.open("one"), world.open("two")
    world.complete(one, key="a")
    world.complete(two, key="b")
    world.now += 10 * 86400
    shared = {file["id"] for file in data_files(world)}
    assert len(shared) == 2
    others = [world.folder / "two", world.folder / "no-such-sweep"]
    assert removed(one, others) == dict.fromkeys(shared, "sweep two uses it")
    assert list(one.leftovers(others)) == [], "it is the other sweep's alone from now on"
    assert removed(two, [world.folder / "one"]) == {}
    assert data_files(world) == []


def test_a_data_file_stays_as_long_as_a_job_of_a_sweep_elsewhere_needs_it(world: World) -> None:
    """The other sweep's folder is on another machine: only its job can be seen."""
    one, two = world.open("one"), world.open("elsewhere")
    world.complete(one, key="a")
    handle = started(world, two, key="b", n_epochs=50)
    world.now += 10 * 86400
    reasons = removed(one)
    assert len(reasons) == 2
    assert all("of another sweep trains with it" in reason for reason in reasons.values())
    two.stop(handle)
    (theirs,) = [job for job in world.host.jobs.values() if job.body["metadata"]["sweep_key"] == "b"]
    theirs.created_at = int(world.now) - 3600
    assert {"within a day" in each for each in removed(one).values()} == {True}
    theirs.created_at = int(world.now) - 2 * 86400
    assert removed(one) == {}


def test_a_file_that_begins_to_be_used_between_looking_and_removing_stays(world: World) -> None:
    one, two = world.open("one"), world.open("elsewhere")
    world.complete(one, key="a")
    left = list(one.leftovers())
    assert not any(leftover.needed for leftover in left)
    started(world, two, key="b", n_epochs=50)
    reasons = {one.remove(leftover) for leftover in left}
    assert any("trains with it" in reason for reason in reasons)
    assert len(data_files(world)) == 2


def test_what_no_sweep_has_made_is_never_listed(world: World) -> None:
    backend = world.open()
    world.complete(backend, key="a")
    precious = world.host._store(b"{}", "my-own.jsonl", "fine-tune")["id"]
    job = world.host.accept({"model": "base-chat", "training_file": precious, "validation_file": precious})
    world.host.models.add(f"ft:base-chat:org::{job.id}")
    assert removed(backend) == {}
    assert precious in world.host.files
    assert world.host.final_model(job) in world.host.models
    assert not job.ended


def test_a_deployment_of_a_base_model_is_found_too(world: World) -> None:
    backend = world.open(host="azure", base_url="http://host/v1", deployment=AZURE, ask_labels=False)
    backend.predict("base-chat", world.prompts, PredictOptions(labels=LABELS))
    blind = world.open(host="azure", base_url="http://host/v1", ask_labels=False)
    (left,) = blind.leftovers()
    assert (left.kind, left.name, left.key) == ("deployment", "base-chat", None)
    assert "does not say where" in blind.remove(left)
    successor = world.open(host="azure", base_url="http://host/v1", deployment=AZURE, ask_labels=False)
    assert removed(successor) == {}
    assert world.host.deployments == {}


def test_a_host_that_refuses_to_delete_a_model_is_quoted(world: World) -> None:
    backend = world.open()
    world.complete(backend, key="a")
    world.host.fault = lambda operation, moment: (
        error_response(403, "only owners delete models") if operation == "DELETE models/*" else None
    )
    reasons = removed(backend)
    assert reasons
    assert all("only owners delete models" in reason for reason in reasons.values())
    assert {leftover.kind for leftover in backend.leftovers()} == {"model"}, "the rest is gone"


def test_checkpoints_can_be_asked_for_after_the_end(world: World) -> None:
    change_behaviour(world.host, checkpoints_while_training=False)
    backend = world.open()
    handle = backend.submit(world.request(n_epochs=5))
    world.drain(backend, handle)
    found = backend.checkpoints(handle)
    assert [(each.step, each.epoch) for each in found] == [(9, 3.0), (12, 4.0), (15, 5.0)]


# ---------------------------------------------------------------------------------------------------------- prediction
def test_answers_are_asked_for_once(world: World) -> None:
    backend = world.open()
    options = PredictOptions(labels=LABELS)
    first = backend.predict("base-chat", [*world.prompts, *world.prompts], options)
    assert len(world.host.prediction_requests) == len(world.prompts), "equal prompts are one question"
    assert first[:6] == first[6:]
    backend.close()
    assert world.open().predict("base-chat", world.prompts, options) == first[:6]
    assert len(world.host.prediction_requests) == len(world.prompts)


def test_labels_are_scored_by_the_alternatives(world: World) -> None:
    backend = world.open()
    for line, answer in zip(
        world.prompts, backend.predict("base-chat", world.prompts, PredictOptions(labels=LABELS)), strict=True
    ):
        messages = [{"role": "user", "content": line["prompt"]}]
        scores = world.host.label_logprobs("base-chat", json.dumps(messages))
        assert answer.label_logprobs == pytest.approx([scores[label.strip()] for label in LABELS])
        assert answer.text == f" {max(scores, key=lambda each: scores[each])}"


def test_without_probabilities_the_text_decides(world: World) -> None:
    change_behaviour(world.host, top_logprobs=False)
    answers = world.open().predict("base-chat", world.prompts, PredictOptions(labels=LABELS))
    assert all(answer.text in LABELS for answer in answers)
    assert all(answer.label_logprobs is None for answer in answers)


def test_several_texts_are_one_question_where_the_host_takes_them(world: World) -> None:
    backend = world.open(host="local", model="babbage-002")
    answers = backend.predict("babbage-002", world.prompts, PredictOptions(labels=LABELS))
    assert len(world.host.prediction_requests) == 1
    for line, answer in zip(world.prompts, answers, strict=True):
        scores = world.host.label_logprobs("babbage-002", line["prompt"])
        assert answer.label_logprobs == pytest.approx([scores[label.strip()] for label in LABELS])


def test_an_interrupted_prediction_loses_little(world: World) -> None:
    asked = [0]

    def fault(operation: str, moment: str) -> Response | None:
        asked[0] += operation == "POST chat/completions" and moment == "before"
        return error_response(400, "no") if asked[0] == 4 and moment == "before" else None

    world.host.fault = fault
    backend = world.open()
    with pytest.raises(BackendError):
        backend.predict("base-chat", world.prompts, PredictOptions(labels=LABELS))
    done = len(world.host.prediction_requests)
    backend.predict("base-chat", world.prompts, PredictOptions(labels=LABELS))
    assert done <= len(world.host.prediction_requests) <= 2 * len(world.prompts)


def evaluated(events: list[Event]) -> list[Measured]:
    return [event for event in events if isinstance(event, Measured) and event.scope == "evaluation"]


def test_the_trained_model_is_asked_the_validation_set(world: World) -> None:
    backend = world.open()
    first, last = evaluated(world.complete(backend))
    truth = [LABELS[n % 3] for n in range(6)]
    (job,) = world.host.jobs.values()
    told = backend.predict(world.host.final_model(job), world.prompts, PredictOptions(labels=LABELS))
    right = sum(each.text == wanted for each, wanted in zip(told, truth, strict=True))
    assert last.values["valid_accuracy"] == pytest.approx(right / 6)
    assert {"valid_macro_f1", "valid_loss"} <= set(last.values)
    assert "valid_accuracy" not in first.values, "there is no model of that epoch to ask"
    assert len(world.host.prediction_requests) == 6, "what was asked for the evaluation is known afterwards"


def test_a_large_validation_set_is_asked_in_portions(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.hosted.model_evaluation.PORTION", 4)
    backend = world.open()
    handle = backend.submit(world.request())
    while not world.host.prediction_requests:
        world.now += 5
        assert not any(isinstance(event, TERMINAL_EVENTS) for event in backend.events(handle, 0))
    assert len(world.host.prediction_requests) == 4
    backend.close()
    events = world.drain(world.open(), handle)
    assert "valid_accuracy" in evaluated(events)[-1].values
    assert len(world.host.prediction_requests) == 6


def test_a_limit_of_questions_is_waited_for(world: World) -> None:
    refusals = [0]

    def fault(operation: str, moment: str) -> Response | None:
        if operation == "POST chat/completions" and moment == "before" and refusals[0] < 6:
            refusals[0] += 1
            return error_response(429, "slow down", "rate_limit_exceeded", **{"retry-after": "600"})
        return None

    world.host.fault = fault
    began = world.now
    events = world.complete(world.open())
    assert "valid_accuracy" in evaluated(events)[-1].values
    assert world.now - began >= 600


def test_a_model_that_may_not_be_asked_is_a_result_all_the_same(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.host.fault = lambda operation, moment: (
        error_response(403, "no inference for you") if operation == "POST chat/completions" else None
    )
    events = world.complete(world.open())
    assert isinstance(events[-1], Finished)
    assert "valid_loss" in evaluated(events)[-1].values
    assert "was not asked the validation set" in caplog.text


def test_nothing_is_asked_where_the_user_or_the_data_do_not_want_it(world: World) -> None:
    world.complete(world.open(ask_labels=False), key="a")
    world.dataset = dataclasses.replace(world.dataset, labels=())
    world.complete(world.open(), key="b")
    assert world.host.prediction_requests == []


# -------------------------------------------------------------------------------------------------------- epoch ladder
def test_an_earlier_epoch_of_a_job_serves_as_the_result_of_a_shorter_run(world: World) -> None:
    backend = world.open(epoch_ladder=True, ask_labels=False)
    long = world.complete(backend, key="long", n_epochs=4)
    short = world.complete(backend, key="short", n_epochs=3)
    assert world.host.operations.count(CREATE) == 1
    (started,) = (event for event in short if isinstance(event, Started))
    assert started.resolved["n_epochs"] == 3
    assert started.resolved["approximate"] is True
    assert started.resolved["part_of"] == "long"
    assert evaluated(short) == evaluated(long)[:3]
    assert [event for event in short if isinstance(event, Charged)] == [Charged(0.0, 0)]
    assert isinstance(short[-1], Finished)
    assert short[-1].model.endswith(":ckpt-step-9")
    assert backend.predict(short[-1].model, world.prompts, PredictOptions(labels=LABELS))


def test_without_leave_or_where_anything_else_differs_a_run_has_its_own_job(world: World) -> None:
    world.complete(world.open(), key="long", n_epochs=4)
    world.complete(world.open(), key="without leave", n_epochs=3)
    backend = world.open(epoch_ladder=True)
    world.complete(backend, key="another batch", n_epochs=3, batch_size=6)
    world.complete(backend, key="longer", n_epochs=5)
    world.complete(backend, key="long, too", n_epochs=4, batch_size=12)
    world.complete(backend, key="too early to be left", n_epochs=1, batch_size=12)
    assert world.host.operations.count(CREATE) == 6


def test_a_model_that_serves_two_runs_goes_with_the_last(world: World) -> None:
    backend = world.open(epoch_ladder=True, ask_labels=False)
    long = backend.submit(world.request("long", n_epochs=4))
    world.drain(backend, long)
    short = backend.submit(world.request("short", n_epochs=3))
    end = world.drain(backend, short)[-1]
    assert isinstance(end, Finished)
    assert end.model not in {leftover.name for leftover in backend.cleanup.leftovers(["long"])}
    backend.discard(long)
    (job,) = world.host.jobs.values()
    assert [checkpoint["fine_tuned_model_checkpoint"] for checkpoint in world.host.checkpoints(job)] == [end.model]
    backend.discard(short)
    assert end.model not in world.host.models


AZURE = {"subscription": "s", "resource_group": "g", "account": "a"}


def deployed(world: World) -> int:
    return sum(operation.startswith("PUT subscriptions/s/resourceGroups/g/providers/") for operation in world.host.operations)


def test_where_a_model_must_be_deployed_it_is_and_is_not_left(world: World) -> None:
    change_behaviour(world.host, needs_deployment=True)
    world.host.deployment_polls = 3
    backend = world.open(host="azure", base_url="http://host/v1", deployment=AZURE)
    events = world.complete(backend)
    assert isinstance(events[-1], Finished)
    assert "valid_accuracy" in evaluated(events)[-1].values
    assert deployed(world) == 1
    assert world.host.deployments == {}, "it ends with the last question"
    options = PredictOptions(labels=LABELS)
    answers = backend.predict(events[-1].model, [{"prompt": "something else"}], options)
    assert all(answer.text in LABELS for answer in answers)
    assert (deployed(world), len(world.host.deployments)) == (2, 1)
    backend.predict(events[-1].model, [{"prompt": "a third"}], options)
    assert deployed(world) == 2
    backend.close()
    assert world.host.deployments == {}


def test_where_nobody_says_where_to_deploy_no_label_is_asked(world: World) -> None:
    change_behaviour(world.host, needs_deployment=True)
    backend = world.open(host="azure", base_url="http://host/v1")
    assert not {"valid_accuracy"} & set(backend.capabilities.metrics)
    assert isinstance(world.complete(backend)[-1], Finished)
    assert world.host.prediction_requests == []


def test_a_deployment_that_a_killed_process_left_is_found(world: World) -> None:
    backend = world.open(host="azure", base_url="http://host/v1", deployment=AZURE, ask_labels=False)
    handle = backend.submit(world.request())
    end = world.drain(backend, handle)[-1]
    assert isinstance(end, Finished)
    backend.predict(end.model, world.prompts, PredictOptions(labels=LABELS))
    successor = world.open(host="azure", base_url="http://host/v1", deployment=AZURE)
    assert next(iter(successor.cleanup.leftovers(["k"]))).kind == "deployment"
    successor.discard(handle)
    assert world.host.deployments == {}


def test_a_wrong_management_token_is_a_users_mistake_and_stays_secret(world: World) -> None:
    secrets = {"AZURE_OPENAI_API_KEY": KEY, "AZURE_MANAGEMENT_TOKEN": "another-token"}
    backend = world.open(host="azure", base_url="http://host/v1", deployment=AZURE, secrets=secrets)
    with pytest.raises(BackendError) as raised:
        backend.predict("base-chat", world.prompts, PredictOptions(labels=LABELS))
    assert raised.value.failure.kind is FailureKind.USER
    assert "another-token" not in str(raised.value.failure)


# --------------------------------------------------------------------------------------------------------- hosts' ways
def test_the_older_way_into_azure(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.host = ScriptedHost(lambda: world.now, HostBehaviour(waiting="pending"), base="/openai")
    backend = world.open(host="azure-legacy", base_url="http://host")
    assert isinstance(world.complete(backend)[-1], Finished)
    assert all("api-key" in headers for headers in world.host.request_headers)
    (job,) = world.host.jobs.values()
    assert job.body["trainingType"] == "GlobalStandard"
    assert "." not in job.body["suffix"]
    assert world.host.contents[job.body["training_file"]].startswith(b"\xef\xbb\xbf")
    backend.close()


def test_what_a_job_says_of_its_trial(world: World) -> None:
    world.complete(world.open(extra_body={"tier": "x"}))
    (job,) = world.host.jobs.values()
    assert job.body["metadata"]["sweep_key"] == "k"
    assert job.body["seed"] == 7
    assert job.body["tier"] == "x"
    assert job.body["method"] == {
        "type": "supervised",
        "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 8}},
    }


def test_our_server_hears_the_labels_as_they_stand_in_the_files(world: World) -> None:
    world.complete(world.open("chat", host="local", format="chat"), key="chat")
    (job,) = world.host.jobs.values()
    assert job.body["task"]["labels"] == ["red", "green", "blue"]
    assert '"content": "red"' in world.host.contents[job.body["training_file"]].decode()
    world.host.jobs.clear()
    backend = world.open(host="local", model="babbage-002")
    backend.predict("babbage-002", world.prompts, PredictOptions(labels=LABELS))
    assert world.host.prediction_requests[-1]["labels"] == list(LABELS)


def test_our_server_hears_the_labels(world: World) -> None:
    world.complete(world.open(host="local", model="babbage-002"), model="babbage-002")
    (job,) = world.host.jobs.values()
    assert job.body["task"]["labels"] == list(LABELS)
    assert job.body["task"]["keep_metric"] == "valid_loss"


# -------------------------------------------------------------------------------------------------------------- secrets
def ends_of_quoting_jobs(world: World) -> Iterator[str]:
    """Jobs that fail in every known way, and one that succeeds, at a host that quotes the key in all that it says."""
    kinds = set()
    for code in (*failures.RULES_BY_JOB_CODE, None, "a code of tomorrow"):
        backend = world.open(f"job {code}", ask_labels=False)
        handle = backend.submit(world.request(f"job {code}"))
        job = list(world.host.jobs.values())[-1]
        job.status = "failed"
        job.error = {} if code is None else {"code": code, "message": f"refused {KEY} " * 60, "param": KEY}
        last = {
            "id": f"e-{code}",
            "object": "fine_tuning.job.event",
            "created_at": 9,
            "level": "error",
            "data": {KEY: KEY},
        }
        job.extra_events.append({**last, "type": "message", "message": f"moderation: {KEY}"})
        events = backend.events(handle, 0)
        world.now += 60.0
        if (waiting := backend.waiting(handle)) is not None:
            yield waiting.reason
            kinds.add("quota")
        else:
            (*_, end) = events = world.drain(backend, handle)
            assert isinstance(end, Failed), code
            assert "<key>" in end.failure.message
            kinds.add(end.failure.kind.value)
        yield repr(events)
        backend.close()
        world.now += 2 * 3600  # what the account waits for is over
    assert kinds == {"user", "quota", "bug", "transient", "lost", "out_of_memory", "diverged"}
    backend = world.open("succeeds")
    answer = world.host._chat_choice
    world.host._chat_choice = lambda name, body: {  # type: ignore[method-assign]
        **answer(name, body), "logprobs": None, "message": {"role": "assistant", "content": KEY}
    }  # fmt: skip
    yield repr(world.complete(backend, key="succeeds"))
    yield repr(backend.predict("base-chat", world.prompts, PredictOptions()))
    del world.host._chat_choice  # type: ignore[method-assign]
    world.host.file_polls = 0
    broken = world.open("broken file")
    store = world.host._store
    world.host._store = lambda *file: store(*file) | {"status": "error", "status_details": f"{KEY} is bad"}  # type: ignore
    world.host.files.clear()
    with pytest.raises(BackendError) as raised:
        world.complete(broken, key="broken file")
    assert "<key> is bad" in raised.value.failure.message
    del world.host._store  # type: ignore[method-assign]


def test_the_key_is_nowhere(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """After a run with every kind of failure, neither the workspace nor logs nor failures hold the key."""
    caplog.set_level(logging.DEBUG)
    texts: list[str] = []

    def echoing(status: int) -> Callable[[str, str], Response | None]:
        return lambda operation, moment: error_response(status, f"bad key {KEY}, headers: Bearer {KEY}")

    for status in (400, 401, 403, 404, 409, 422, 429, 500):
        backend = world.open(f"w{status}", patience_s=1.0)
        world.host.fault = echoing(status)
        try:
            world.drain(backend, backend.submit(world.request()), hours=0.2)
        except (BackendError, AssertionError) as error:
            texts.append(f"{error!r} {error.__cause__!r} {getattr(error, 'failure', '')}")
        try:
            backend.predict("base-chat", world.prompts, PredictOptions())
        except BackendError as error:
            texts.append(f"{error!r} {error.__cause__!r} {error.failure}")
        world.host.fault = lambda operation, moment: None
        backend.close()
    assert len(texts) > 8
    texts += list(ends_of_quoting_jobs(world))
    for file in world.folder.rglob("*"):
        if file.is_file():
            assert KEY.encode() not in file.read_bytes(), file
    assert KEY not in " ".join(texts)
    assert KEY not in caplog.text
    assert sqlite3.connect(world.folder / "w500" / "hosted" / "journal.sqlite").execute("SELECT 1").fetchone()
