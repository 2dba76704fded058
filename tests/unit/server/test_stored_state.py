"""A server's folder that version 0.1 wrote still loads, and its jobs continue."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends import codec
from backends.contract import TERMINAL_EVENTS, Event
from sweeps.server.database_schema import TABLES, from_row, to_row
from sweeps.server.faults import Faults
from sweeps.server.records import Checkpoint, Job, JobEvent, JobStatus, StoredFile, TunedModel
from sweeps.server.routes.job_creation import new_job
from sweeps.server.routes.job_objects import job_body
from sweeps.server.schemas.jobs import CreateJob
from sweeps.server.service import Service
from sweeps.server.settings import ServerSettings

pytestmark = pytest.mark.unit

STATE = Path(__file__).parents[2] / "data" / "version_0_1"


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the server, restored once. The tests that use it only read."""
    spec = importlib.util.spec_from_file_location("restore_version_0_1", STATE / "restore.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("version_0_1")
    module.restore(STATE / "state.tar.gz", folder)
    return folder / ".sweep" / "server"


@pytest.fixture
def root(restored: Path, tmp_path: Path) -> Path:
    """A copy of the server's folder that the test may change."""
    copy = tmp_path / "server"
    for path in restored.rglob("*"):
        target = copy / path.relative_to(restored)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return copy


@contextlib.contextmanager
def server(root: Path) -> Iterator[Service]:
    settings = ServerSettings(
        root=root, backend="fake", models={"fake-small": "fake-small"}, options={"seconds_per_epoch": 0.01}
    )
    service = Service(settings, Faults.none())
    try:
        yield service
    finally:
        service.close()


def rows(root: Path, table: str) -> list[dict[str, Any]]:
    with contextlib.closing(sqlite3.connect(root / "server.sqlite")) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f"SELECT * FROM {table}")]


def wait_for_success(service: Service, job_id: str) -> Job:
    deadline = time.monotonic() + 60
    while True:
        job = service.store.find(Job, job_id)
        assert job is not None
        if job.status is JobStatus.SUCCEEDED:
            return job
        assert job.status is not JobStatus.FAILED, job.error
        assert time.monotonic() < deadline, job.status
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("record_type", "count"), [(StoredFile, 6), (Job, 5), (JobEvent, 77), (Checkpoint, 11), (TunedModel, 15)]
)
def test_a_stored_record_loads_and_is_written_with_the_same_columns(
    restored: Path, record_type: Any, count: int
) -> None:
    stored = rows(restored, TABLES[record_type])
    assert len(stored) == count
    for row in stored:
        del row["seq"]
        written = to_row(from_row(record_type, row))
        if record_type is Job:  # version 0.1 did not say which answers of a conversation are trained
            written["data"] = written["data"].replace(', "train_on": "last"', "")
        assert written == row


def test_a_stored_event_of_the_backend_loads_and_is_written_as_the_same_text(restored: Path) -> None:
    texts = [row["event"] for row in rows(restored, "run_events")]
    assert len(texts) == 76
    for text in texts:
        assert json.dumps(codec.to_json(codec.from_json(Event, json.loads(text)))) == text


def test_a_new_database_has_the_tables_and_columns_of_version_0_1(restored: Path, tmp_path: Path) -> None:
    with server(tmp_path / "new"):
        pass

    def schema(root: Path) -> dict[str, list[Any]]:
        with contextlib.closing(sqlite3.connect(root / "server.sqlite")) as connection:
            names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return {name: connection.execute(f"PRAGMA table_info({name})").fetchall() for name in names}

    new, old = schema(tmp_path / "new"), schema(restored)
    assert {name: new[name] for name in old} == old
    assert set(new) - set(old) == {"intents"}, "a server of version 0.1 ignores this table"


def test_the_server_shows_the_jobs_that_version_0_1_completed(root: Path) -> None:
    stored = rows(root, "jobs")
    with server(root) as service:
        service.start()
        jobs = service.store.all(Job)
        assert [job.id for job in jobs] == [row["id"] for row in stored]
        for job, row in zip(jobs, stored, strict=True):
            body = job_body(service, job)
            assert body["status"] == "succeeded"
            assert body["error"] is None
            assert body["fine_tuned_model"] == row["fine_tuned_model"]
            assert body["trained_tokens"] == row["trained_tokens"]
            assert body["metadata"] == json.loads(row["metadata"])
            assert body["task"] == json.loads(row["task"])
            assert body["hyperparameters"].items() >= json.loads(row["hyperparameters"]).items()
            events = service.store.run_events(job.id)
            assert isinstance(events[-1], TERMINAL_EVENTS)
        assert service.store.count_by_status()["succeeded"] == len(stored)
        results = service.store.all(StoredFile, "purpose = 'fine-tune-results'")
        assert len(results) == 4, "the client has deleted one"
        assert {result.id for result in results} < {name for job in jobs for name in job.result_files}
        for result in results:
            assert service.folder.content(result.id).read_bytes().startswith(b"step,train_loss,")


def test_a_job_that_version_0_1_left_in_the_middle_ends_as_it_would_have(root: Path) -> None:
    """The test removes the events from the first checkpoint on, like a kill at that point."""
    (job_id,) = [row["id"] for row in rows(root, "jobs")][-1:]
    with contextlib.closing(sqlite3.connect(root / "server.sqlite")) as connection, connection:
        complete = connection.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
        events = connection.execute("SELECT number, event FROM run_events WHERE job_id = ?", (job_id,)).fetchall()
        models = connection.execute("SELECT name FROM models WHERE job_id = ? ORDER BY name", (job_id,)).fetchall()
        connection.execute("DELETE FROM run_events WHERE job_id = ? AND number >= 6", (job_id,))
        for table in ("models", "checkpoints", "events"):
            connection.execute(f"DELETE FROM {table} WHERE job_id = ?", (job_id,))
        (result,) = json.loads(
            connection.execute("SELECT result_files FROM jobs WHERE id = ?", (job_id,)).fetchone()[0]
        )
        connection.execute("DELETE FROM files WHERE id = ?", (result,))
        connection.execute(
            "UPDATE jobs SET status = 'running', fine_tuned_model = NULL, trained_tokens = NULL, result_files = '[]' "
            "WHERE id = ?",
            (job_id,),
        )
    content = (root / "files" / result).read_bytes()

    with server(root) as service:
        assert not service.folder.content(result).exists(), "no record refers to it"
        service.start()
        finished_at = wait_for_success(service, job_id).finished_at
    with contextlib.closing(sqlite3.connect(root / "server.sqlite")) as connection, connection:
        connection.execute("UPDATE jobs SET finished_at = ? WHERE id = ?", (complete[15], job_id))
        assert connection.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone() == complete
        again = connection.execute("SELECT number, event FROM run_events WHERE job_id = ?", (job_id,)).fetchall()
        assert again == events
        again = connection.execute("SELECT name FROM models WHERE job_id = ? ORDER BY name", (job_id,)).fetchall()
        assert again == models
    assert finished_at >= complete[2]
    assert (root / "files" / result).read_bytes() == content


def test_a_new_job_trains_on_the_files_that_version_0_1_stored(root: Path) -> None:
    training, validation = (row["id"] for row in rows(root, "files") if row["purpose"] == "fine-tune")
    request = CreateJob.model_validate(
        {"model": "fake-small", "training_file": training, "validation_file": validation, "seed": 7}
    )
    with server(root) as service:
        job = new_job(service, request)
        service.store.add_job(job, [])
        service.start()
        assert wait_for_success(service, job.id).fine_tuned_model == f"ft:fake-small:local::{job.id[6:16]}"
        assert len(service.store.all(Job)) == 6
