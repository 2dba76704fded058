"""A journal that version 0.1 wrote continues under this version.

`data/journal_version_0_1.sql` is a dump of that journal, with FOLDER in place of the test's folder.
It holds a completed run (key `done`) and a run after its first evaluation (key `running`), at the
time 1700000180.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from hosted_world import CREATE, LABELS, HostedWorld, evaluations
from scripted_host import Job

from backends.contract import Charged, Checkpointed, Finished, Handle, PredictOptions, Queued, Started
from backends.hosted.journal import run_id

pytestmark = pytest.mark.integration

DUMP = Path(__file__).parent / "data" / "journal_version_0_1.sql"
DONE, RUNNING = "done", "running"


@pytest.fixture
def stored(world: HostedWorld) -> HostedWorld:
    """The world at the time of the dump: the journal, and the same files and jobs at the host."""
    folder = world.folder / "workspace" / "hosted"
    folder.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(folder / "journal.sqlite")) as connection:
        connection.executescript(DUMP.read_text().replace("FOLDER", str(world.folder)))
    world.now = 1_700_000_180.0
    restore_jobs(world)
    return world


def restore_jobs(world: HostedWorld) -> None:
    """Repeat the history of the journal at a second host, and take over its files and jobs."""
    twin = HostedWorld(world.folder)
    twin.now = 1_700_000_000.0
    backend = twin.open("twin", ask_labels=False)
    twin.complete(backend, key=DONE, n_epochs=1)
    twin.start(backend, key=RUNNING, n_epochs=3)
    twin.close()
    world.host.files, world.host.contents, world.host.jobs = twin.host.files, twin.host.contents, twin.host.jobs
    world.host.models |= twin.host.models
    job(world, RUNNING).epoch = 1.0


def job(world: HostedWorld, key: str) -> Job:
    (match,) = [job for job in world.host.jobs.values() if job.body["metadata"]["sweep_key"] == key]
    return match


def test_a_completed_run_keeps_its_events_and_needs_no_host(stored: HostedWorld) -> None:
    backend = stored.open()
    events = backend.events(Handle("hosted", run_id(DONE)), 0)
    assert events[0] == Queued()
    assert isinstance(events[1], Started)
    assert events[1].resolved["n_epochs"] == 1
    (evaluation,) = evaluations(list(events))
    assert evaluation.values["valid_accuracy"] == 0.0
    assert evaluation.values["valid_loss"] == 0.9357935188127915
    assert events[-3:] == [
        Checkpointed(3, 1.0, "ft:base-chat:org::ftjob-000003:ckpt-step-3"),
        Charged(0.0024, 240),
        Finished("ft:base-chat:org::ftjob-000003"),
    ]
    assert stored.host.operations == []


def test_an_unfinished_run_continues_with_its_job(stored: HostedWorld) -> None:
    backend = stored.open()
    handle = Handle("hosted", run_id(RUNNING))
    waiting = backend.waiting(handle)
    assert waiting is not None
    assert waiting.reason == "a limit"
    before = list(backend.events(handle, 0))
    assert backend.submit(stored.request(RUNNING, n_epochs=3)) == handle
    events = stored.drain(backend, handle)
    assert events[: len(before)] == before
    assert [evaluation.epoch for evaluation in evaluations(events)] == [1.0, 2.0, 3.0]
    assert events[-1] == Finished(stored.host.final_model(job(stored, RUNNING)))
    assert CREATE not in stored.host.operations, "no second job"
    assert "POST files" not in stored.host.operations, "no second upload"


def test_stored_answers_token_counts_and_uploads_are_used(stored: HostedWorld) -> None:
    backend = stored.open()
    answers = backend.predict("ft:base-chat:org::ftjob-000003", stored.prompts, PredictOptions(labels=LABELS))
    assert stored.host.prediction_requests == []
    assert answers[0].label_logprobs is not None
    estimate = backend.estimate(stored.request("new", n_epochs=2))
    assert (estimate.tokens, estimate.max_tokens) == (480, 480)
    assert "as counted by the host" in estimate.basis
    stored.complete(backend, key="new", batch_size=12)
    assert "POST files" not in stored.host.operations
    leftovers = backend.leftovers()
    assert {leftover.kind for leftover in leftovers} == {"job", "model", "result file", "data file"}
    assert [backend.remove(leftover) for leftover in leftovers] == [""] * len(leftovers)
