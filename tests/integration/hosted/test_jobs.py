"""The life of a job: progress, results, stalls, stops."""

from __future__ import annotations

import pytest
from hosted_world import HostedWorld, cut_connection
from scripted_host import change_behaviour

from backends.contract import TERMINAL_EVENTS, Charged, Failed, FailureKind, Finished, Measured, Started, Stopped

pytestmark = pytest.mark.integration


def test_a_stalled_job_is_cancelled_and_lost(world: HostedWorld) -> None:
    world.host._advance = lambda job: None  # type: ignore[method-assign]
    backend = world.open(stall_s=900)
    began = world.now
    end = world.complete(backend)[-1]
    assert isinstance(end, Failed)
    assert end.failure.kind is FailureKind.LOST
    assert 900 <= world.now - began < 1000
    assert [job.status for job in world.host.jobs.values()] == ["cancelled"]


def test_time_without_polls_does_not_count_as_a_stall(world: HostedWorld) -> None:
    backend = world.open(stall_s=600)
    handle = backend.submit(world.request())
    backend.events(handle, 0)
    backend.close()
    world.now += 10 * 3600
    successor = world.open(stall_s=600)
    assert isinstance(world.drain(successor, handle)[-1], Finished)


def test_a_run_survives_an_unknown_status(world: HostedWorld) -> None:
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


def test_a_run_waits_for_a_job_that_somebody_paused(world: HostedWorld) -> None:
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


def test_a_deleted_job_is_lost_but_not_at_the_first_404(world: HostedWorld) -> None:
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


def test_a_failed_job_is_a_failure_of_the_kind_of_its_code(world: HostedWorld) -> None:
    backend = world.open()
    handle = backend.submit(world.request())
    (job,) = world.host.jobs.values()
    job.status, job.error = "failed", {"code": "invalid_n_examples", "message": "has 7 example(s)", "param": None}
    end = world.drain(backend, handle)[-1]
    assert isinstance(end, Failed)
    assert end.failure.kind is FailureKind.USER
    assert "7 example" in end.failure.message


def test_a_host_that_writes_only_result_files_gives_all_measurements(world: HostedWorld) -> None:
    change_behaviour(world.host, metrics_in_events=False, base64_results=True, checkpoints_while_training=False)
    events = world.complete(world.open())
    measured = [event for event in events if isinstance(event, Measured)]
    assert [measurement.step for measurement in measured if measurement.scope == "step"] == [1, 2, 3, 4, 5, 6]
    assert [measurement.epoch for measurement in measured if measurement.scope == "evaluation"] == [1.0, 2.0]
    assert "batch_token_accuracy" in measured[0].values


def test_the_name_of_the_model_may_appear_after_the_success(world: HostedWorld) -> None:
    change_behaviour(world.host, model_polls=5)
    assert isinstance(world.complete(world.open())[-1], Finished)


def test_a_success_whose_model_never_appears_is_a_failure(world: HostedWorld) -> None:
    change_behaviour(world.host, model_polls=10**6)
    change_behaviour(world.host, kept_checkpoints=0, checkpoints_while_training=False)
    end = world.complete(world.open())[-1]
    assert isinstance(end, Failed)
    assert "no model" in end.failure.message


def test_the_next_estimate_uses_the_token_count_of_the_host(world: HostedWorld) -> None:
    backend = world.open()
    assert "estimated" in backend.estimate(world.request()).basis
    events = world.complete(backend)
    charged = [event for event in events if isinstance(event, Charged)]
    assert charged == [Charged(480 * 10.0 / 1e6, 480)]
    estimate = backend.estimate(world.request("other", n_epochs=5))
    assert estimate.tokens == 1200
    assert "as counted by the host" in estimate.basis


def test_stopping_cancels_the_job_and_records_the_charge(world: HostedWorld) -> None:
    change_behaviour(world.host, epochs_per_poll=0.5, reports_trained_tokens=False)
    backend = world.open()
    handle = world.start(backend, n_epochs=20)
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


def test_stopping_can_pause_the_job_to_keep_a_checkpoint(world: HostedWorld) -> None:
    change_behaviour(world.host, epochs_per_poll=1.0)
    backend = world.open(stop="pause")
    handle = world.start(backend, n_epochs=20)
    backend.stop(handle)
    end = world.drain(backend, handle)[-1]
    assert isinstance(end, Stopped)
    assert end.model is not None
    assert "ckpt-step" in end.model
    assert [job.status for job in world.host.jobs.values()] == ["paused"]
    backend.discard(handle)
    assert [job.status for job in world.host.jobs.values()] == ["cancelled"]


def test_a_job_that_cannot_be_paused_yet_is_cancelled(world: HostedWorld) -> None:
    backend = world.open(stop="pause")
    handle = backend.submit(world.request())
    backend.stop(handle)
    assert isinstance(world.drain(backend, handle)[-1], Stopped)
    assert [job.status for job in world.host.jobs.values()] == ["cancelled"]


def test_a_stop_reaches_the_host_when_it_is_reachable_again(world: HostedWorld) -> None:
    backend = world.open()
    handle = world.start(backend, n_epochs=50)
    world.host.fault = cut_connection
    backend.stop(handle)
    assert [job.status for job in world.host.jobs.values()] == ["running"]
    world.host.fault = lambda operation, moment: None
    backend.close()
    assert isinstance(world.drain(world.open(), handle)[-1], Stopped)
    assert [job.status for job in world.host.jobs.values()] == ["cancelled"]


def test_a_run_that_is_stopped_before_it_has_a_job_never_gets_one(world: HostedWorld) -> None:
    change_behaviour(world.host, file_polls=10**6)
    backend = world.open()
    handle = backend.submit(world.request())
    backend.stop(handle)
    assert world.drain(backend, handle)[-1] == Stopped(None)
    assert world.host.jobs == {}
