"""Limits of an account, refusals, and hosts that cannot be reached."""

from __future__ import annotations

import pytest
from hosted_world import CREATE, HostedWorld, cut_connection
from scripted_host import ConnectionCutError, Response, change_behaviour, error_response

from backends.contract import (
    TERMINAL_EVENTS,
    BackendError,
    Charged,
    Failed,
    FailureKind,
    Finished,
    Measured,
    Queued,
    Stopped,
)

pytestmark = pytest.mark.integration


def test_a_daily_limit_is_a_wait_and_not_a_failure(world: HostedWorld) -> None:
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
    assert world.host.operations.count(CREATE) == 4, "no request is sent before the wait is over"


def test_a_limit_reached_by_one_run_makes_the_others_wait(world: HostedWorld) -> None:
    world.host.fault = lambda operation, moment: (
        error_response(429, "rate-limited: 2 requests per day", "daily_rate_limit_exceeded")
        if operation == CREATE
        else None
    )
    backend = world.open()
    for key in ("a", "b", "c"):
        backend.submit(world.request(key))
    assert world.host.operations.count(CREATE) == 1


def test_a_wait_is_reported_with_its_reason_and_its_end(world: HostedWorld) -> None:
    limit = error_response(429, "rate-limited: 2 requests per day", "daily_rate_limit_exceeded")
    world.host.fault = lambda operation, moment: limit if operation == CREATE else None
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
    assert backend.waiting(first) is None, "the wait is over"
    assert isinstance(world.drain(backend, first)[-1], Finished)
    assert backend.waiting(first) is None


def test_the_limit_of_the_user_and_an_unreachable_host_are_reported_too(world: HostedWorld) -> None:
    backend = world.open(jobs_per_day=1)
    world.complete(backend, key="a")
    handle = backend.submit(world.request("b"))
    waiting = backend.waiting(handle)
    assert waiting is not None
    assert "`jobs_per_day`" in waiting.reason
    assert waiting.until > world.now + 80000
    unreachable = world.open("unreachable")
    world.host.fault = cut_connection
    handle = unreachable.submit(world.request("c"))
    assert unreachable.waiting(handle) is None, "a short wait is not reported"
    for _ in range(30):
        world.now += 5.0
        unreachable.events(handle, 0)
    waiting = unreachable.waiting(handle)
    assert waiting is not None
    assert "cannot be reached" in waiting.reason


OVER_QUOTA = {"code": "exceeded_quota", "message": "too many jobs", "param": None}


def test_a_job_that_fails_for_its_quota_before_training_is_created_again_later(world: HostedWorld) -> None:
    backend = world.open()
    handle = backend.submit(world.request())
    for hours in (1, 2, 3):
        job = list(world.host.jobs.values())[-1]
        job.status, job.error = "failed", OVER_QUOTA
        failed_at = world.now
        while len(world.host.jobs) == hours:
            assert [type(event) for event in backend.events(handle, 0)] == [Queued]
            world.now += 60.0
        assert 3600 <= world.now - failed_at < 3800
    other = backend.submit(world.request("another trial"))
    events = world.drain(backend, handle)
    assert isinstance(events[-1], Finished)
    assert isinstance(world.drain(backend, other)[-1], Finished)
    assert [job.status for job in world.host.jobs.values()] == ["failed"] * 3 + ["succeeded"] * 2
    steps = [event.step for event in events if isinstance(event, Measured) and event.scope == "step"]
    assert steps == sorted(set(steps)), "the failed jobs leave no measurements"
    assert [event.tokens > 0 for event in events if isinstance(event, Charged)] == [True]


def test_a_job_over_its_quota_makes_the_other_trials_wait(world: HostedWorld) -> None:
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


def test_a_run_that_is_stopped_while_it_waits_for_its_quota_gets_no_job(world: HostedWorld) -> None:
    backend = world.open()
    handle = backend.submit(world.request())
    (job,) = world.host.jobs.values()
    job.status, job.error = "failed", OVER_QUOTA
    backend.events(handle, 0)
    backend.stop(handle)
    assert world.drain(backend, handle)[-1] == Stopped(None)
    assert len(world.host.jobs) == 1


def test_a_job_that_fails_for_its_quota_during_training_is_a_retryable_failure(world: HostedWorld) -> None:
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


def test_another_workspace_adopts_the_job_that_followed_the_one_over_its_quota(world: HostedWorld) -> None:
    first = world.open("one")
    handle = first.submit(world.request())
    (job,) = world.host.jobs.values()
    job.status, job.error = "failed", OVER_QUOTA
    while len(world.host.jobs) == 1:
        first.events(handle, 0)
        world.now += 60.0
    assert isinstance(world.complete(world.open("two"))[-1], Finished)
    assert [job.status for job in world.host.jobs.values()] == ["failed", "succeeded"]


def test_jobs_per_day_limits_the_created_jobs(world: HostedWorld) -> None:
    backend = world.open(jobs_per_day=2)
    began = world.now
    for key in ("a", "b", "c"):
        world.drain(backend, backend.submit(world.request(key)), hours=30)
    created = sorted(job.created_at for job in world.host.jobs.values())
    assert len(created) == 3
    assert created[2] - created[0] >= 86400 - 1
    assert created[1] - began < 3600


def test_a_long_retry_after_is_respected(world: HostedWorld) -> None:
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


def test_training_not_available_is_a_user_error_with_a_remedy(world: HostedWorld) -> None:
    message = "OpenAI is winding down the fine-tuning platform"
    world.host.fault = lambda operation, moment: (
        error_response(403, message, "training_not_available") if operation == CREATE else None
    )
    with pytest.raises(BackendError, match="winding down") as raised:
        world.open().submit(world.request())
    assert raised.value.failure.kind is FailureKind.USER
    assert "Azure" in raised.value.failure.detail
    assert world.host.jobs == {}


def test_a_rejection_after_the_submission_ends_the_run(world: HostedWorld) -> None:
    change_behaviour(world.host, file_polls=3)
    backend = world.open()
    handle = backend.submit(world.request())
    world.host.fault = lambda operation, moment: error_response(400, "no such model") if operation == CREATE else None
    end = world.drain(backend, handle)[-1]
    assert isinstance(end, Failed)
    assert end.failure.kind is FailureKind.USER


def test_a_wrong_key_is_an_error_and_does_not_end_the_run(world: HostedWorld) -> None:
    backend = world.open()
    handle = backend.submit(world.request())
    wrong = world.open(secrets={"OPENAI_API_KEY": "wrong"})
    with pytest.raises(BackendError) as raised:
        wrong.events(handle, 0)
    assert raised.value.failure.kind is FailureKind.USER
    assert isinstance(world.drain(backend, handle)[-1], Finished)


def test_the_error_for_a_missing_key_names_the_variable(world: HostedWorld) -> None:
    with pytest.raises(BackendError, match="OPENAI_API_KEY is not set"):
        world.open(secrets={})
    world.open(host="local", secrets={})


def test_an_unreachable_host_is_a_failure_only_after_the_patience(world: HostedWorld) -> None:
    change_behaviour(world.host, file_polls=10**6)
    backend = world.open(patience_s=1800)
    handle = backend.submit(world.request())
    world.host.fault = cut_connection
    with pytest.raises(BackendError) as raised:
        world.drain(backend, handle)
    assert raised.value.failure.kind is FailureKind.TRANSIENT
    assert 1800 <= world.now - 1_700_000_000 < 2200


def test_a_run_with_a_job_never_fails_because_its_host_is_unreachable(
    world: HostedWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """Another attempt would pay for a second job while this one goes on."""
    backend = world.open(patience_s=1800)
    handle = backend.submit(world.request())
    world.host.fault = cut_connection
    for _ in range(200):
        world.now += 120
        assert not any(isinstance(event, TERMINAL_EVENTS) for event in backend.events(handle, 0))
    assert 5 <= sum("still unreachable" in record.message for record in caplog.records) <= 15
    world.host.fault = lambda operation, moment: None
    assert isinstance(world.drain(backend, handle)[-1], Finished)


def test_a_wrong_key_does_not_end_a_run_that_may_have_a_job(world: HostedWorld) -> None:
    """An expired key after a lost answer to a creation is no rejection of the run."""
    key_expired = [False]

    def fault(operation: str, moment: str) -> Response | None:
        if operation == CREATE and moment == "after":
            key_expired[0] = True
            raise ConnectionCutError
        return error_response(401, "expired", "invalid_api_key") if key_expired[0] else None

    world.host.fault = fault
    backend = world.open()
    handle = backend.submit(world.request())
    world.now += 60
    with pytest.raises(BackendError, match="expired"):
        backend.events(handle, 0)
    world.host.fault = lambda operation, moment: None
    assert isinstance(world.drain(backend, handle)[-1], Finished)
    assert len(world.host.jobs) == 1
