"""Discarding runs, and removing their leftovers at the host."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hosted_world import AZURE, LABELS, HostedWorld
from scripted_host import ScriptedHost, change_behaviour, error_response

from backends.contract import Finished, PredictOptions
from backends.hosted import HostedBackend

pytestmark = pytest.mark.integration


def test_discarding_deletes_the_results_of_the_run_only(world: HostedWorld) -> None:
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


def test_leftovers_are_listed_and_can_be_remove_all(world: HostedWorld) -> None:
    backend = world.open()
    world.complete(backend, key="a")
    world.start(backend, key="b", n_epochs=50)
    leftovers = backend.cleanup.leftovers()
    assert {(leftover.kind, leftover.key) for leftover in leftovers} >= {
        ("model", "a"),
        ("result file", "a"),
        ("job", "b"),
    }
    assert [leftover.kind for leftover in leftovers if leftover.key is None] == ["data file", "data file"]
    assert {leftover.key for leftover in backend.cleanup.leftovers(["a"])} == {"a"}
    for leftover in leftovers:
        backend.cleanup.remove(leftover)
    kinds = {leftover.kind for leftover in backend.cleanup.leftovers()}
    assert "data file" not in kinds
    assert "job" not in kinds
    assert all(job.ended for job in world.host.jobs.values())
    assert world.host.files == {}


def state_of(host: ScriptedHost) -> tuple[Any, ...]:
    jobs = {name: job.status for name, job in host.jobs.items()}
    return set(host.files), set(host.models), dict(host.deployments), jobs


def test_listing_leftovers_changes_nothing(world: HostedWorld) -> None:
    backend = world.open()
    world.complete(backend, key="a")
    world.start(backend, key="b", n_epochs=50)
    twin = world.host.accept(list(world.host.jobs.values())[1].body)
    before, operations = state_of(world.host), len(world.host.operations)
    sqlite = world.folder / "workspace" / "hosted" / "journal.sqlite"
    with contextlib.closing(
        sqlite3.connect(sqlite)
    ) as journal:  # as if the process had died before it recorded the job
        journal.execute("UPDATE runs SET job = NULL WHERE key = 'b'")
        journal.commit()
    leftovers = backend.leftovers()
    assert {leftover.name for leftover in leftovers if leftover.kind == "job"} >= {twin.id}, (
        "including the superfluous second job"
    )
    assert {operation.split()[0] for operation in world.host.operations[operations:]} == {"GET"}
    after = state_of(world.host)
    assert (after[0], after[1], after[2]) == before[:3]
    assert after[3][twin.id] != "cancelled"


def remove_all(backend: HostedBackend, others: list[Path] | None = None) -> dict[str, str]:
    """Remove all leftovers. Returns the reasons of those that stay, by name."""
    reasons = {leftover.name: backend.remove(leftover) for leftover in backend.leftovers(others or [])}
    return {name: reason for name, reason in reasons.items() if reason}


def test_a_clean_up_can_be_repeated_and_interrupted(world: HostedWorld) -> None:
    backend = world.open()
    world.complete(backend, key="a")
    world.start(backend, key="b", n_epochs=50)
    leftovers = list(backend.leftovers())
    for leftover in leftovers[: len(leftovers) // 2]:
        backend.remove(leftover)
    again = world.open()
    assert [leftover.name for leftover in again.leftovers()] == [
        leftover.name for leftover in leftovers[len(leftovers) // 2 :]
    ]
    for leftover in (*leftovers, *leftovers):  # everything, although half of it is gone
        assert again.remove(leftover) == ""
    assert list(again.leftovers()) == []
    assert (world.host.files, [model for model in world.host.models if model.startswith("ft:")]) == ({}, [])
    assert isinstance(world.complete(again, key="c")[-1], Finished), "missing files are uploaded again"


def test_a_data_file_stays_while_another_local_sweep_uses_it(world: HostedWorld) -> None:
    one, two = world.open("one"), world.open("two")
    world.complete(one, key="a")
    world.complete(two, key="b")
    world.now += 10 * 86400
    shared = {file["id"] for file in world.data_files()}
    assert len(shared) == 2
    others = [world.folder / "two", world.folder / "no-such-sweep"]
    assert remove_all(one, others) == dict.fromkeys(shared, "sweep two uses it")
    assert list(one.leftovers(others)) == [], "from now on it belongs to the other sweep alone"
    assert remove_all(two, [world.folder / "one"]) == {}
    assert world.data_files() == []


def test_a_data_file_stays_while_a_job_of_a_sweep_elsewhere_needs_it(world: HostedWorld) -> None:
    """The folder of the other sweep is on another machine: only its job is visible."""
    one, two = world.open("one"), world.open("elsewhere")
    world.complete(one, key="a")
    handle = world.start(two, key="b", n_epochs=50)
    world.now += 10 * 86400
    reasons = remove_all(one)
    assert len(reasons) == 2
    assert all("of another sweep trains with it" in reason for reason in reasons.values())
    two.stop(handle)
    (theirs,) = [job for job in world.host.jobs.values() if job.body["metadata"]["sweep_key"] == "b"]
    theirs.created_at = int(world.now) - 3600
    assert {"within the last day" in reason for reason in remove_all(one).values()} == {True}
    theirs.created_at = int(world.now) - 2 * 86400
    assert remove_all(one) == {}


def test_a_file_that_another_sweep_begins_to_use_after_the_listing_stays(world: HostedWorld) -> None:
    one, two = world.open("one"), world.open("elsewhere")
    world.complete(one, key="a")
    leftovers = list(one.leftovers())
    assert not any(leftover.needed for leftover in leftovers)
    world.start(two, key="b", n_epochs=50)
    reasons = {one.remove(leftover) for leftover in leftovers}
    assert any("trains with it" in reason for reason in reasons)
    assert len(world.data_files()) == 2


def test_nothing_is_listed_that_no_sweep_made(world: HostedWorld) -> None:
    backend = world.open()
    world.complete(backend, key="a")
    own_file = world.host._store(b"{}", "my-own.jsonl", "fine-tune")["id"]
    job = world.host.accept({"model": "base-chat", "training_file": own_file, "validation_file": own_file})
    world.host.models.add(f"ft:base-chat:org::{job.id}")
    assert remove_all(backend) == {}
    assert own_file in world.host.files
    assert world.host.final_model(job) in world.host.models
    assert not job.ended


def test_a_deployment_of_a_base_model_is_listed_too(world: HostedWorld) -> None:
    backend = world.open(host="azure", base_url="http://host/v1", deployment=AZURE, ask_labels=False)
    backend.predict("base-chat", world.prompts, PredictOptions(labels=LABELS))
    without_settings = world.open(host="azure", base_url="http://host/v1", ask_labels=False)
    (leftover,) = without_settings.leftovers()
    assert (leftover.kind, leftover.name, leftover.key) == ("deployment", "base-chat", None)
    assert "does not say where" in without_settings.remove(leftover)
    successor = world.open(host="azure", base_url="http://host/v1", deployment=AZURE, ask_labels=False)
    assert remove_all(successor) == {}
    assert world.host.deployments == {}


def test_the_reason_quotes_a_host_that_refuses_to_delete_a_model(world: HostedWorld) -> None:
    backend = world.open()
    world.complete(backend, key="a")
    world.host.fault = lambda operation, moment: (
        error_response(403, "only owners delete models") if operation == "DELETE models/*" else None
    )
    reasons = remove_all(backend)
    assert reasons
    assert all("only owners delete models" in reason for reason in reasons.values())
    assert {leftover.kind for leftover in backend.leftovers()} == {"model"}, "everything else is deleted"


def test_checkpoints_can_be_listed_after_the_end(world: HostedWorld) -> None:
    change_behaviour(world.host, checkpoints_while_training=False)
    backend = world.open()
    handle = backend.submit(world.request(n_epochs=5))
    world.drain(backend, handle)
    checkpoints = backend.checkpoints(handle)
    assert [(checkpoint.step, checkpoint.epoch) for checkpoint in checkpoints] == [(9, 3.0), (12, 4.0), (15, 5.0)]
