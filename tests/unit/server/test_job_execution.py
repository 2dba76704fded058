"""Jobs whose backend, or whose machine, fails for a while."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.contract import BackendError, Failure, FailureKind
from backends.fake import FakeBackend
from sweeps.server import job_execution, run_loop
from sweeps.server.faults import Faults
from sweeps.server.records import Job, JobEvent, JobStatus, StoredFile
from sweeps.server.routes.job_creation import new_job
from sweeps.server.schemas.jobs import CreateJob
from sweeps.server.service import Service
from sweeps.server.settings import ServerSettings

pytestmark = pytest.mark.unit


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(job_execution, "RESOURCE_PAUSE_S", 0.01)
    settings = ServerSettings(root=tmp_path, backend="fake", models={"fake-small": "fake-small"})
    service = Service(settings, Faults.none())
    content = b"".join(json.dumps({"prompt": f"{n}", "completion": "a"}).encode() + b"\n" for n in range(12))
    service.folder.content("file-1").write_bytes(content)
    service.store.add(StoredFile("file-1", "a.jsonl", "fine-tune", len(content), 1, "sha"))
    yield service
    service.close()


def create(service: Service) -> Job:
    job = new_job(service, CreateJob(model="fake-small", training_file="file-1"))
    service.store.add_job(job, [])
    return job


def wait_for(service: Service, job_id: str, status: JobStatus) -> Job:
    deadline = time.monotonic() + 60
    while True:
        job = service.store.find(Job, job_id)
        assert job is not None
        if job.status is status:
            return job
        assert time.monotonic() < deadline, (job.status, job.error)
        time.sleep(0.01)


def status_of(service: Service, job_id: str) -> JobStatus:
    job = service.store.find(Job, job_id)
    assert job is not None
    return job.status


def fail_first(error: Exception, times: int, then: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that raises an error a few times, and then does its work."""
    left = [error] * times

    def function(*arguments: Any, **options: Any) -> Any:
        if left:
            raise left.pop()
        return then(*arguments, **options)

    return function


def messages(service: Service, job_id: str) -> list[str]:
    return [event.message for event in service.store.all(JobEvent, "job_id = ?", job_id)]


@pytest.mark.parametrize(
    "error",
    [
        BackendError(Failure(FailureKind.TRANSIENT, "the service is away")),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EMFILE, "Too many open files"),
    ],
)
def test_a_job_waits_for_what_will_pass(service: Service, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(FakeBackend, "open", fail_first(error, 3, FakeBackend.open))
    job = create(service)
    service.start()
    wait_for(service, job.id, JobStatus.SUCCEEDED)
    waits = [message for message in messages(service, job.id) if "waits" in message]
    assert waits == (["The job waits for the backend: the service is away"] if isinstance(error, BackendError) else [])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BackendError(Failure(FailureKind.USER, "the key is wrong")), "invalid_request"),
        (ZeroDivisionError("a bug"), "internal_error"),
    ],
)
def test_a_job_fails_because_of_what_stays(
    service: Service, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    monkeypatch.setattr(FakeBackend, "open", fail_first(error, 1, FakeBackend.open))
    job = create(service)
    service.start()
    failed = wait_for(service, job.id, JobStatus.FAILED)
    assert failed.error is not None
    assert failed.error.code == code
    assert wait_for(service, create(service).id, JobStatus.SUCCEEDED), "the next job runs"


def test_a_job_does_not_wait_for_its_backend_without_end(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_execution, "RETRY_FOR_S", 0.0)
    error = BackendError(Failure(FailureKind.TRANSIENT, "the service is away"))
    monkeypatch.setattr(FakeBackend, "open", fail_first(error, 1, FakeBackend.open))
    job = create(service)
    service.start()
    assert wait_for(service, job.id, JobStatus.FAILED).error is not None


def test_a_job_that_was_cancelled_before_its_submission_leaves_no_intent(service: Service) -> None:
    """Otherwise the next server would submit its run in order to stop it."""
    job = create(service)
    service.validator._validate_all()
    assert service.executor.execute(job.id, lambda _: False) == 0.0
    assert service.store.intended("submit") == set()


def test_only_a_paused_job_is_resumed(service: Service) -> None:
    """A job whose files nobody has checked must not get into the queue."""
    job = create(service)
    assert not service.runner.resume(job)
    assert status_of(service, job.id) is JobStatus.VALIDATING
    service.validator._validate_all()
    assert not service.runner.resume(job)
    assert service.runner.pause(job)
    assert service.runner.resume(job)
    assert status_of(service, job.id) is JobStatus.QUEUED


def test_a_run_that_the_backend_cannot_stop_now_is_stopped_later(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, other = create(service), create(service)
    service.validator._validate_all()
    for created in (job, other):
        service.store.add_intent("submit", created.id)
        assert service.runner.cancel(created)
    away = BackendError(Failure(FailureKind.TRANSIENT, "the service is away"))
    monkeypatch.setattr(FakeBackend, "submit", fail_first(away, 2, FakeBackend.submit))
    monkeypatch.setattr(FakeBackend, "stop", fail_first(ZeroDivisionError("a bug"), 1, FakeBackend.stop))
    for _ in range(3):  # both are away, then one meets the bug, which must not keep the other from its end
        service.runner._clean_up()
    assert len(service.store.intended("submit")) == 1
    assert len(list(service.folder.jobs.iterdir())) == 1


def test_a_full_disk_while_a_checkpoint_is_copied_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backends.contract import Checkpointed

    source = tmp_path / "model"
    source.mkdir()
    (source / "weights").write_text("w")
    events = [Checkpointed(step=3, epoch=1.0, model=str(source))]
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(run_loop.shutil, "copytree", fail_first(full, 1, run_loop.shutil.copytree))
    control = run_loop.RunControl()
    copies = run_loop.retry(control, lambda: run_loop._copy_checkpoints(events, tmp_path / "copies"))
    assert copies == {"3": str(tmp_path / "copies" / "step-3")}
    assert (tmp_path / "copies" / "step-3" / "weights").read_text() == "w"
