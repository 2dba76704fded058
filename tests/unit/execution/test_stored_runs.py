"""A worker's runs while the store is away: they wait with words, and lose nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import relocatable_backend
from relocatable_backend import CountingBackend

from backends.contract import Event, Finished, TrainingRequest
from sweeps.errors import SweepError
from sweeps.execution.stored_runs import StoredRuns
from sweeps.execution.worker_files import FilesSettings, WorkerFiles
from sweeps.file_store.data_files import put_data
from sweeps.file_store.store import FileStore

pytestmark = pytest.mark.unit


class UnreliableStore(FileStore):
    """A store that can be away."""

    is_away = False

    def _path(self, name: str) -> str:
        if self.is_away:
            raise SweepError("cannot reach the store: away")
        return super()._path(name)


class Worker:
    def __init__(self, folder: Path) -> None:
        self.files = WorkerFiles(FilesSettings(str(folder / "store"), "sweep", "/driver"), folder / "cache")
        self.store = self.files.store = UnreliableStore(str(folder / "store"))
        self.backend = CountingBackend(self.files.workspace)
        self.backend.capabilities = None  # type: ignore[attr-defined]
        self.slept: list[float] = []
        self.runs = StoredRuns(self.backend, self.files, self.slept.append)  # type: ignore[arg-type]

    def events_to_the_end(self, request: TrainingRequest) -> Sequence[Event]:
        handle = self.runs.submit(request)
        events: list[Event] = []
        while not (events and isinstance(events[-1], Finished)):
            events += self.runs.events(handle, len(events))
        return events


@pytest.fixture
def request_(tmp_path: Path) -> TrainingRequest:
    for part in ("train", "valid"):
        (tmp_path / f"{part}.jsonl").write_text("{}\n")
    request = relocatable_backend.request(tmp_path / "train.jsonl", tmp_path / "valid.jsonl")
    put_data(FileStore(str(tmp_path / "store")), request.dataset, "sweep")
    return request


def test_a_run_waits_for_the_store_at_its_start_and_in_the_middle(tmp_path: Path, request_: TrainingRequest) -> None:
    worker = Worker(tmp_path)
    handle = worker.runs.submit(request_)
    worker.store.is_away = True
    assert worker.runs.events(handle, 0) == ()
    waiting = worker.runs.waiting(handle)
    assert waiting is not None
    assert "away" in waiting.reason
    assert waiting.reason.startswith("machine ")
    assert worker.runs.events(handle, 0) == ()
    assert worker.runs.waiting(handle) == waiting, "each attempt would be a message"

    worker.store.is_away = False
    events = list(worker.runs.events(handle, 0))
    assert worker.runs.waiting(handle) is None
    worker.store.is_away = True
    assert worker.runs.events(handle, len(events)) == ()
    assert worker.runs.events(handle, len(events)) == ()
    assert worker.backend.trained == [1, 2], "it trains no further while nobody can keep the result"
    worker.store.is_away = False
    while not isinstance(events[-1], Finished):
        events += worker.runs.events(handle, len(events))
    assert worker.backend.trained == [1, 2, 3]
    assert worker.slept, "it asked again and again without a pause"
    assert events == Worker(tmp_path).events_to_the_end(request_), "the store has every event"


def test_one_worker_trains_one_run_after_another(tmp_path: Path, request_: TrainingRequest) -> None:
    worker = Worker(tmp_path)
    for key in ("sweep-0001", "sweep-0002"):
        worker.events_to_the_end(relocatable_backend.with_key(request_, key))
    assert worker.backend.trained == [1, 2, 3] * 2
    assert list((worker.files.workspace / "jobs").iterdir()) == []


def test_a_stopped_run_frees_the_machine(tmp_path: Path, request_: TrainingRequest) -> None:
    worker = Worker(tmp_path)
    handle = worker.runs.submit(request_)
    worker.runs.events(handle, 0)
    stopped = []
    worker.backend.stop = stopped.append  # type: ignore[attr-defined]
    worker.runs.stop(handle)
    worker.runs.stop(handle)
    assert stopped == [handle]
    assert list((worker.files.workspace / "jobs").iterdir()) == []
