"""A worker's side of the store: its own workspace, the data, and the saving of a run's files."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from backends.contract import (
    TERMINAL_EVENTS,
    Backend,
    BackendError,
    Checkpointed,
    Event,
    Failure,
    FailureKind,
    Finished,
    Handle,
    Started,
    Stopped,
    TrainingRequest,
)
from backends.relocation import ResumePoint, SupportsRelocation
from sweeps.errors import SweepError
from sweeps.file_store.data_files import delete_unused, fetch_data
from sweeps.file_store.run_archive import Attempt, Manifest, RunArchive, SupersededError, stored_files
from sweeps.file_store.store import FileStore

CHECKPOINT_SHARE = 10.0
"""A checkpoint is stored only after training for this many times as long as the last one took."""

OTHER_PROCESS_S = 60.0
"""How long a run waits for an earlier process on this machine that still trains it."""


@dataclass(frozen=True)
class FilesSettings:
    """What a worker must know: the store, the sweep, and the workspace as the driver names it."""

    url: str
    sweep_id: str
    driver_workspace: str


def cache_folder() -> Path:
    """Return the folder of this machine for copies from stores: SWEEP_CACHE, else the user's."""
    chosen = os.environ.get("SWEEP_CACHE")
    if chosen:
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "finesweep"


class WorkerFiles:
    """The files of one sweep on this machine. `workspace` is where its backend works."""

    def __init__(self, settings: FilesSettings, cache: Path | None = None) -> None:
        """Raises SweepError if the store's library is missing."""
        self.store = FileStore(settings.url)
        self._settings = settings
        self._cache = cache or cache_folder()
        self.workspace = self._cache / "sweeps" / quote(settings.sweep_id, safe="")
        self.workspace.mkdir(parents=True, exist_ok=True)
        for folder in ("data", "locks"):
            delete_unused((self._cache / folder).glob("*"))
        delete_unused(path for path in (self._cache / "sweeps").rglob("*") if self.workspace not in path.parents)

    def localized(self, request: TrainingRequest) -> TrainingRequest:
        """Return the request with the paths of this machine; fetches the data that is missing."""
        return replace(request, dataset=fetch_data(self.store, request.dataset, self._cache / "data"))

    def begin(self, backend: Backend, request: TrainingRequest) -> RunFiles:
        """Submit a run as a new attempt, from its last checkpoint in the store if there is one.

        Raises SweepError if the store cannot be reached, and BackendError.
        """
        lock = self._lock(request.key)
        try:
            return self._begin(backend, request, lock)
        except BaseException:
            os.close(lock)
            raise

    def _begin(self, backend: Backend, request: TrainingRequest, lock: int) -> RunFiles:
        local = self.localized(request)
        machine = socket.gethostname()
        if not isinstance(backend, SupportsRelocation):
            handle = backend.submit(local)
            archive = RunArchive(self.store, handle.id)
            return RunFiles(self, backend, handle, archive.begin(machine, self.workspace, None), None, lock)
        handle = backend.run_of(request.key)
        archive = RunArchive(self.store, handle.id)
        found = archive.latest()
        earlier = found[1] if found is not None else None
        attempt = archive.begin(machine, self.workspace, earlier)
        backend.forget(handle)
        resumed_on: str | None = None
        if found is not None and earlier is not None and earlier.checkpoint:
            archive.restore(found[0], earlier.checkpoint, self.workspace)
            resumed_on = earlier.machine
        handle = backend.submit(local)
        run = RunFiles(self, backend, handle, attempt, resumed_on, lock)
        if earlier is not None and resumed_on is not None and not earlier.ended:
            run.adopt(earlier)
        return run

    def names_for_driver(self, workspaces: Sequence[str], name: str) -> str:
        """Return the name of a file as the driver's workspace has it."""
        for workspace in (str(self.workspace), *workspaces):
            if name.startswith(f"{workspace}/"):
                return self._settings.driver_workspace + name[len(workspace) :]
        return name

    def _lock(self, key: str) -> int:
        """Reserve the run on this machine, and return the descriptor that keeps it reserved.

        An earlier process may still be about to end.
        """
        folder = self._cache / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / quote(key, safe=""), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.utime(lock)
        give_up_at = time.monotonic() + OTHER_PROCESS_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except BlockingIOError:
                if time.monotonic() > give_up_at:
                    os.close(lock)
                    message = f"an earlier process on {socket.gethostname()} still trains run {key}"
                    raise BackendError(Failure(FailureKind.TRANSIENT, message, "end that process")) from None
                time.sleep(0.2)


class RunFiles:
    """The files of one run that this worker trains.

    `handle` is the run. `resumed_on` names the machine whose checkpoint it continues, or is None.
    """

    def __init__(
        self,
        files: WorkerFiles,
        backend: Backend,
        handle: Handle,
        attempt: Attempt,
        resumed_on: str | None,
        lock: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.handle, self.resumed_on = handle, resumed_on
        self._files, self._backend, self._attempt, self._clock = files, backend, attempt, clock
        self._lock: int | None = lock
        self._model_stamp: tuple[tuple[str, int, int], ...] = ()
        self._next_checkpoint_at = 0.0

    def adopt(self, earlier: Manifest) -> None:
        """Store the checkpoint that was restored as the first state of this attempt."""
        restored = [self._files.workspace / file.path for file in earlier.checkpoint]
        name = None if earlier.model_name is None else self._local_name(earlier)
        model = [] if name is None else [path for path in restored if path.is_relative_to(Path(name))]
        self._save(
            replace(
                self._attempt.saved,
                stamp=point.stamp if (point := self._resume_point()) is not None else None,
                checkpoint=earlier.checkpoint,
                model_name=name if model else None,
                model=stored_files(model, self._files.workspace),
            )
        )

    def after(self, events: Sequence[Event]) -> tuple[Event, ...]:
        """Store what the events report, and return them with the names that the driver uses.

        A model that an event names is in the store before the event is reported. Raises SweepError
        while the store cannot be reached, and then the caller asks again with the same events.
        Raises BackendError (lost) if the run continues on another machine.
        """
        models = [
            event.model for event in events if isinstance(event, Checkpointed | Finished | Stopped) and event.model
        ]
        ended = any(isinstance(event, TERMINAL_EVENTS) for event in events)
        try:
            self._store_state(models[-1] if models else None, ended=ended)
        except SupersededError:
            message = f"run {self.handle.id} continues on another machine"
            raise BackendError(Failure(FailureKind.LOST, message, "wait for that machine")) from None
        return tuple(self._for_driver(event) for event in events)

    def close(self) -> None:
        """Delete the copy of the run on this machine, which has ended or stopped. Idempotent."""
        if self._lock is None:
            return
        if isinstance(self._backend, SupportsRelocation):
            self._backend.forget(self.handle)
        os.close(self._lock)
        self._lock = None

    def _store_state(self, model: str | None, *, ended: bool) -> None:
        saved = self._attempt.saved
        state = replace(saved, ended=saved.ended or ended)
        workspace = self._files.workspace
        path = Path(model) if model is not None else None
        stamp = self._model_stamp
        if path is not None and path.is_absolute() and path.is_relative_to(workspace) and path.exists():
            stamp = _stamp(path)
            if stamp != self._model_stamp:
                state = replace(state, model_name=model, model=stored_files([path], workspace))
        point = self._resume_point()
        due = ended or saved.stamp is None or self._clock() >= self._next_checkpoint_at
        started = self._clock()
        if point is not None and point.stamp != saved.stamp and due:
            state = replace(state, stamp=point.stamp, checkpoint=stored_files(point.files, workspace))
        if state == saved:
            return
        self._save(state)
        self._model_stamp = stamp
        if state.stamp != saved.stamp:
            now = self._clock()
            self._next_checkpoint_at = now + CHECKPOINT_SHARE * (now - started)

    def _save(self, state: Manifest) -> None:
        self._attempt.save(state, self._files.workspace)

    def _resume_point(self) -> ResumePoint | None:
        return self._backend.resume_point(self.handle) if isinstance(self._backend, SupportsRelocation) else None

    def _local_name(self, earlier: Manifest) -> str | None:
        for workspace in earlier.workspaces:
            if earlier.model_name is not None and earlier.model_name.startswith(f"{workspace}/"):
                return str(self._files.workspace) + earlier.model_name[len(workspace) :]
        return None

    def _for_driver(self, event: Event) -> Event:
        names = self._attempt.saved.workspaces
        match event:
            case Checkpointed(model=model) | Finished(model=model) | Stopped(model=str(model)):
                return replace(event, model=self._files.names_for_driver(names, model))
            case Started(resolved=resolved):
                values = {
                    key: self._files.names_for_driver(names, value) if isinstance(value, str) else value
                    for key, value in resolved.items()
                }
                return replace(event, resolved=values)
            case _:
                return event


def as_backend_error(error: SweepError | OSError) -> BackendError:
    """Return an error of the store or of this disk as a failure that a retry can mend."""
    if isinstance(error, SweepError):
        message, hint = error.message, error.hint
    else:
        message = f"{error.filename or 'the disk'}: {error.strerror or error}"
        hint = "free some space there, or set SWEEP_CACHE to another folder"
    return BackendError(Failure(FailureKind.TRANSIENT, f"machine {socket.gethostname()}: {message}", hint))


def _stamp(path: Path) -> tuple[tuple[str, int, int], ...]:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return tuple((str(file), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files if file.is_file())
