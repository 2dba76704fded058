"""Earlier epochs of a long job as results of shorter runs."""

from __future__ import annotations

import pytest
from hosted_world import CREATE, LABELS, HostedWorld, evaluations

from backends.contract import Charged, Finished, PredictOptions, Started

pytestmark = pytest.mark.integration


def test_a_shorter_run_gets_the_result_of_an_earlier_epoch(world: HostedWorld) -> None:
    backend = world.open(epoch_ladder=True, ask_labels=False)
    long = world.complete(backend, key="long", n_epochs=4)
    short = world.complete(backend, key="short", n_epochs=3)
    assert world.host.operations.count(CREATE) == 1
    (started,) = (event for event in short if isinstance(event, Started))
    assert started.resolved["n_epochs"] == 3
    assert started.resolved["approximate"] is True
    assert started.resolved["part_of"] == "long"
    assert evaluations(short) == evaluations(long)[:3]
    assert [event for event in short if isinstance(event, Charged)] == [Charged(0.0, 0)]
    assert isinstance(short[-1], Finished)
    assert short[-1].model.endswith(":ckpt-step-9")
    assert backend.predict(short[-1].model, world.prompts, PredictOptions(labels=LABELS))


def test_a_run_has_its_own_job_without_the_option_or_if_anything_else_differs(world: HostedWorld) -> None:
    world.complete(world.open(), key="long", n_epochs=4)
    world.complete(world.open(), key="without the option", n_epochs=3)
    backend = world.open(epoch_ladder=True)
    world.complete(backend, key="another batch", n_epochs=3, batch_size=6)
    world.complete(backend, key="longer", n_epochs=5)
    world.complete(backend, key="long, too", n_epochs=4, batch_size=12)
    world.complete(backend, key="checkpoint already deleted", n_epochs=1, batch_size=12)
    assert world.host.operations.count(CREATE) == 6


def test_a_model_of_two_runs_is_deleted_with_the_last_one(world: HostedWorld) -> None:
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
