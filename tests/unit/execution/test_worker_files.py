"""A run on one machine and then on another: files, names, attempts, and what the driver fetches."""

from __future__ import annotations

import fcntl
from collections.abc import Sequence
from pathlib import Path

import pytest
import relocatable_backend
from relocatable_backend import CountingBackend

from backends.contract import BackendError, Checkpointed, Event, FailureKind, Finished, Handle, Started, TrainingRequest
from sweeps.errors import SweepError
from sweeps.execution import worker_files
from sweeps.execution.worker_files import FilesSettings, RunFiles, WorkerFiles
from sweeps.file_store.data_files import put_data
from sweeps.file_store.delivered_models import with_stored_models
from sweeps.file_store.run_archive import RunArchive
from sweeps.file_store.store import FileStore

pytestmark = pytest.mark.unit

DRIVER = "/driver/sweeps/pairs"


@pytest.fixture(autouse=True)
def every_checkpoint_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_files, "CHECKPOINT_SHARE", 0.0)


class Machine:
    """A machine with a cache of its own."""

    def __init__(self, root: Path, name: str) -> None:
        self.files = WorkerFiles(FilesSettings(str(root / "store"), "sweep", DRIVER), root / name)
        self.backend = CountingBackend(self.files.workspace)

    def begin(self, request: TrainingRequest) -> RunFiles:
        return self.files.begin(self.backend, request)  # type: ignore[arg-type]

    def step(self, run: RunFiles, after: int) -> tuple[Event, ...]:
        return run.after(self.backend.events(run.handle, after))

    def train(self, run: RunFiles) -> list[Event]:
        events: list[Event] = []
        while not (events and isinstance(events[-1], Finished)):
            events += self.step(run, len(events))
        return events


@pytest.fixture
def request_(tmp_path: Path) -> TrainingRequest:
    for part in ("train", "valid"):
        (tmp_path / f"{part}.jsonl").write_text(f'{{"prompt": "{part}"}}\n')
    request = relocatable_backend.request(tmp_path / "train.jsonl", tmp_path / "valid.jsonl")
    put_data(FileStore(str(tmp_path / "store")), request.dataset, "sweep")
    return request


def models(events: Sequence[Event]) -> list[str]:
    return [event.model for event in events if isinstance(event, Checkpointed | Finished)]


def test_the_driver_learns_its_own_names(tmp_path: Path, request_: TrainingRequest) -> None:
    machine = Machine(tmp_path, "one")
    events = machine.train(machine.begin(request_))
    assert set(models(events)) == {f"{DRIVER}/jobs/run-{request_.key}/model"}
    assert isinstance(events[0], Started)
    assert events[0].resolved == {"cache": f"{DRIVER}/cache", "n_epochs": 3}


def test_another_machine_continues_from_the_last_checkpoint(tmp_path: Path, request_: TrainingRequest) -> None:
    first, second = Machine(tmp_path, "one"), Machine(tmp_path, "two")
    run = first.begin(request_)
    before = [*first.step(run, 0), *first.step(run, 3)]
    assert first.backend.trained == [1, 2]

    continued = second.begin(request_)
    assert continued.resumed_on is not None
    events = second.train(continued)
    assert second.backend.trained == [3], "the second machine trained again what the first had done"
    assert events[: len(before)] == before, "the events up to the checkpoint are the same for the driver"
    assert set(models(events)) == {f"{DRIVER}/jobs/run-{request_.key}/model"}


def test_a_third_machine_continues_before_the_second_has_trained(tmp_path: Path, request_: TrainingRequest) -> None:
    machines = [Machine(tmp_path, name) for name in ("one", "two", "three")]
    run = machines[0].begin(request_)
    machines[0].step(run, 0)
    machines[1].begin(request_)
    events = machines[2].train(machines[2].begin(request_))
    assert machines[2].backend.trained == [2, 3]
    assert set(models(events)) == {f"{DRIVER}/jobs/run-{request_.key}/model"}


def test_a_run_without_a_checkpoint_starts_anew(tmp_path: Path, request_: TrainingRequest) -> None:
    first, second = Machine(tmp_path, "one"), Machine(tmp_path, "two")
    first.begin(request_)
    run = second.begin(request_)
    assert run.resumed_on is None
    second.train(run)
    assert second.backend.trained == [1, 2, 3]


def test_a_run_that_has_ended_reports_its_events_again_and_trains_nothing(
    tmp_path: Path, request_: TrainingRequest
) -> None:
    """The driver was killed before it recorded the end."""
    first, second = Machine(tmp_path, "one"), Machine(tmp_path, "two")
    events = first.train(first.begin(request_))
    assert second.train(second.begin(request_)) == events
    assert second.backend.trained == []


def test_an_attempt_stops_once_a_newer_one_exists(tmp_path: Path, request_: TrainingRequest) -> None:
    """The first machine was cut off, not dead."""
    first, second = Machine(tmp_path, "one"), Machine(tmp_path, "two")
    cut_off = first.begin(request_)
    first.step(cut_off, 0)
    continued = second.begin(request_)
    with pytest.raises(BackendError, match="continues on another machine") as raised:
        first.step(cut_off, 3)
    assert raised.value.failure.kind is FailureKind.LOST
    second.train(continued)
    assert second.backend.trained == [2, 3]


def test_a_machine_that_still_trains_the_run_is_waited_for(
    tmp_path: Path, request_: TrainingRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_files, "OTHER_PROCESS_S", 0.0)
    machine = Machine(tmp_path, "one")
    run = machine.begin(request_)
    with pytest.raises(BackendError, match="still trains run"):
        machine.begin(request_)
    run.close()
    machine.begin(request_)


def test_an_ended_run_leaves_nothing_on_the_machine(tmp_path: Path, request_: TrainingRequest) -> None:
    machine = Machine(tmp_path, "one")
    run = machine.begin(request_)
    machine.train(run)
    run.close()
    run.close()
    assert list((machine.files.workspace / "jobs").iterdir()) == []
    with (tmp_path / "one" / "locks" / request_.key).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_an_event_is_reported_only_once_its_model_is_stored(
    tmp_path: Path, request_: TrainingRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is away for a while: the caller asks again with the same events."""
    machine = Machine(tmp_path, "one")
    run = machine.begin(request_)
    events = machine.backend.events(run.handle, 0)

    def refuse(self: FileStore, file: Path, name: str) -> None:
        raise SweepError("cannot write to the store: away")

    with monkeypatch.context() as patched:
        patched.setattr(FileStore, "upload", refuse)
        with pytest.raises(SweepError, match="away"):
            run.after(events)
    assert RunArchive(machine.files.store, run.handle.id).latest() is None
    assert len(run.after(events)) == len(events)
    latest = RunArchive(machine.files.store, run.handle.id).latest()
    assert latest is not None
    assert latest[1].model


def test_checkpoints_take_at_most_a_tenth_of_the_time(
    tmp_path: Path, request_: TrainingRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uploads take a second each on the clock of this test; training takes no time at all."""
    monkeypatch.setattr(worker_files, "CHECKPOINT_SHARE", 10.0)
    now = [0.0]
    machine = Machine(tmp_path, "one")
    run = machine.begin(request_)
    run._clock = lambda: now[0]
    stamps = []
    save = RunFiles._save

    def slow_save(self: RunFiles, state) -> None:  # type: ignore[no-untyped-def]
        now[0] += 1.0
        stamps.append(state.stamp)
        save(self, state)

    monkeypatch.setattr(RunFiles, "_save", slow_save)
    machine.step(run, 0)
    machine.step(run, 3)
    assert stamps[1] == stamps[0], "the model is stored again, the checkpoint is not"
    now[0] += 100.0
    machine.step(run, 5)
    assert stamps[2] != stamps[1]


def test_files_that_no_manifest_names_are_deleted(tmp_path: Path, request_: TrainingRequest) -> None:
    machine = Machine(tmp_path, "one")
    run = machine.begin(request_)
    machine.train(run)
    archive = RunArchive(machine.files.store, run.handle.id)
    latest = archive.latest()
    assert latest is not None
    attempt, manifest = latest
    named = {file.sha256 for file in (*manifest.checkpoint, *manifest.model)}
    stored = machine.files.store.names(f"runs/{run.handle.id}/{attempt}/files")
    assert set(stored) == named


def test_the_driver_fetches_a_model_when_it_is_used_and_discards_it(tmp_path: Path, request_: TrainingRequest) -> None:
    folder = tmp_path / "driver"
    files = WorkerFiles(FilesSettings(str(tmp_path / "store"), "sweep", str(folder)), tmp_path / "one")
    machine = CountingBackend(files.workspace)
    run = files.begin(machine, request_)  # type: ignore[arg-type]
    events: list[Event] = []
    while not (events and isinstance(events[-1], Finished)):
        events += run.after(machine.events(run.handle, len(events)))
    model = models(events)[-1]
    read: list[str] = []

    class Driver(CountingBackend):
        capabilities = None

        def predict(self, model: str, prompts: object, options: object) -> list[object]:
            read.append((Path(model) / "weights").read_text())
            return []

    backend = with_stored_models(
        Driver(folder),  # type: ignore[arg-type]
        files.store,
        folder,
        lambda: [(model, run.handle)],
    )
    assert not folder.exists(), "nothing is fetched before it is needed"
    backend.predict(model, [], None)  # type: ignore[arg-type]
    assert read == ["weights of epoch 3"]

    backend.discard(run.handle)
    backend.discard(run.handle)
    assert not Path(model).exists()
    with pytest.raises(BackendError, match="has no model") as raised:
        backend.predict(model, [], None)  # type: ignore[arg-type]
    assert raised.value.failure.kind is FailureKind.LOST
    archive = RunArchive(files.store, run.handle.id).latest()
    assert archive is not None
    assert archive[1].ended, "the store still knows that the run has ended"


def test_names_of_other_models_are_left_alone(tmp_path: Path) -> None:
    class Driver(CountingBackend):
        capabilities = None

        def predict(self, model: str, prompts: object, options: object) -> list[object]:
            return [model]

    store = FileStore(str(tmp_path / "store"))
    backend = with_stored_models(Driver(tmp_path), store, tmp_path, lambda: [])  # type: ignore[arg-type]
    for name in ("builtin:tiny-lm", "org/name", "/elsewhere/model"):
        assert backend.predict(name, [], None) == [name]  # type: ignore[arg-type,comparison-overlap]
    backend.stop(Handle("counting", "none"))
    backend.discard(Handle("counting", "none"))
