"""One run in the store: its attempts, the last checkpoint, and the kept model.

runs/<run>/<attempt>/begun.json      which machine began the attempt, and when
runs/<run>/<attempt>/manifest.json   the files of the last checkpoint and of the kept model
runs/<run>/<attempt>/files/<digest>  the files, each under its SHA-256 digest

An attempt is one start of a run on a machine. It holds all files that its manifest names, so an
attempt that was given up can do no harm to the next one. The manifest is written after its files
and replaced as a whole, so the store holds a complete state at any time. Only the newest attempt
that has a manifest counts.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from backends import codec
from sweeps.errors import SweepError
from sweeps.file_store.store import FileStore, digest, replace_folder


@dataclass(frozen=True)
class StoredFile:
    """A file of a run: its path relative to the workspace, and its digest."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What the store holds of a run.

    `checkpoint` are the files from which the run continues, `stamp` that of their resume point.
    `model` are the files of the kept model, which the events of the run call `model_name`.
    `workspaces` are the folders of all machines that have trained the run. `machine` trained it
    last.
    """

    machine: str
    workspaces: tuple[str, ...] = ()
    stamp: str | None = None
    checkpoint: tuple[StoredFile, ...] = ()
    model_name: str | None = None
    model: tuple[StoredFile, ...] = ()
    ended: bool = False


class SupersededError(Exception):
    """A newer attempt of the run exists, so this one must stop."""


@dataclass
class Attempt:
    """One start of a run on this machine. `saved` is the state that the store has from it."""

    store: FileStore
    folder: str
    name: str
    saved: Manifest
    _digests: set[str] = field(default_factory=set)
    _is_first: bool = True

    def save(self, manifest: Manifest, workspace: Path) -> None:
        """Put the files that the manifest names into the store, and then the manifest.

        The files are below `workspace`. Raises SupersededError if a newer attempt exists, and
        SweepError if the store cannot be reached; the stored state is then the earlier one.
        """
        if any(name > self.name for name in self.store.names(self.folder)):
            raise SupersededError
        files = {file.sha256: file for file in (*manifest.checkpoint, *manifest.model)}
        for sha256, file in files.items():
            if sha256 not in self._digests:
                self.store.upload(workspace / file.path, f"{self.folder}/{self.name}/files/{sha256}")
                self._digests.add(sha256)
        self.store.write(f"{self.folder}/{self.name}/manifest.json", _to_bytes(manifest))
        self.saved = manifest
        for sha256 in self._digests - set(files):
            self.store.delete(f"{self.folder}/{self.name}/files/{sha256}")
        self._digests &= set(files)
        if self._is_first:
            for older in self.store.names(self.folder):
                if older < self.name:
                    self.store.delete(f"{self.folder}/{older}")
            self._is_first = False


class RunArchive:
    """The run `run` in a store."""

    def __init__(self, store: FileStore, run: str) -> None:
        self._store = store
        self._folder = run_folder(run)

    def latest(self) -> tuple[str, Manifest] | None:
        """Return the newest attempt with a manifest, and the manifest; None if there is none."""
        for attempt in reversed(self._store.names(self._folder)):
            content = self._store.read(f"{self._folder}/{attempt}/manifest.json")
            if content is not None:
                return attempt, codec.from_json(Manifest, json.loads(content))
        return None

    def begin(self, machine: str, workspace: Path, earlier: Manifest | None) -> Attempt:
        """Begin a new attempt, after which all earlier ones stop."""
        numbers = [int(name.partition("-")[0]) for name in self._store.names(self._folder)]
        name = f"{max(numbers, default=0) + 1:05d}-{uuid.uuid4().hex[:8]}"
        begun = {"machine": machine, "at": time.time()}
        self._store.write(f"{self._folder}/{name}/begun.json", json.dumps(begun).encode())
        workspaces = (*(earlier.workspaces if earlier is not None else ()), str(workspace))
        return Attempt(self._store, self._folder, name, Manifest(machine, tuple(dict.fromkeys(workspaces))))

    def restore(self, attempt: str, files: Iterable[StoredFile], workspace: Path) -> None:
        """Copy stored files to their places in a workspace of this machine."""
        for file in files:
            path = _below(workspace, file.path)
            self._store.download(f"{self._folder}/{attempt}/files/{file.sha256}", path, file.sha256)

    def fetch_model(self, model: Path, workspace: Path) -> bool:
        """Copy the kept model to `model`, a folder or file of this workspace.

        It appears there completely or not at all. Returns False if the store has none.
        """
        latest = self.latest()
        if latest is None or not latest[1].model:
            return False
        attempt, manifest = latest
        prepared = model.with_name(f"{model.name}.{uuid.uuid4().hex}.tmp")
        relative = PurePosixPath(model.relative_to(workspace).as_posix())
        try:
            for file in manifest.model:
                target = _below(prepared, PurePosixPath(file.path).relative_to(relative).as_posix())
                self._store.download(f"{self._folder}/{attempt}/files/{file.sha256}", target, file.sha256)
            replace_folder(prepared, model)
        finally:
            shutil.rmtree(prepared, ignore_errors=True)
        return True

    def discard(self) -> None:
        """Delete the checkpoint and the model, but remember that the run has ended. Idempotent."""
        latest = self.latest()
        if latest is None:
            return
        attempt, manifest = latest
        if manifest.model or manifest.checkpoint:
            self._keep(attempt, replace(manifest, model=(), model_name=None, checkpoint=(), stamp=None))

    def discard_model(self) -> None:
        """Delete the kept model of a run that has ended; the record too if nothing else is left.

        Idempotent.
        """
        latest = self.latest()
        if latest is None or not latest[1].checkpoint:
            self._store.delete(self._folder)
            return
        attempt, manifest = latest
        self._keep(attempt, replace(manifest, model=(), model_name=None))

    def discard_checkpoint(self) -> None:
        """Delete all but the kept model of a run that has ended; the record too if there is none.

        Idempotent.
        """
        latest = self.latest()
        if latest is None or not latest[1].model:
            self._store.delete(self._folder)
            return
        attempt, manifest = latest
        self._keep(attempt, replace(manifest, checkpoint=(), stamp=None))

    def _keep(self, attempt: str, manifest: Manifest) -> None:
        """Make `manifest` the state of the run, and delete all files that it does not name.

        An attempt that was killed while it stored its first state may have left files, too.
        """
        self._store.write(f"{self._folder}/{attempt}/manifest.json", _to_bytes(manifest))
        kept = {file.sha256 for file in (*manifest.checkpoint, *manifest.model)}
        for other in self._store.names(self._folder):
            folder = f"{self._folder}/{other}/files"
            stored = self._store.names(folder)
            if not kept or other != attempt:
                if stored:
                    self._store.delete(folder)
                continue
            for sha256 in set(stored) - kept:
                self._store.delete(f"{folder}/{sha256}")


def run_folder(run: str) -> str:
    """Return the folder of a run in the store."""
    return f"runs/{quote(run, safe='')}"


def stored_files(paths: Iterable[Path], workspace: Path) -> tuple[StoredFile, ...]:
    """Return the description of files below a workspace; folders count with all their files."""
    files = (file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path]))
    return tuple(StoredFile(file.relative_to(workspace).as_posix(), digest(file)) for file in files if file.is_file())


def _to_bytes(manifest: Manifest) -> bytes:
    return json.dumps(codec.to_json(manifest)).encode()


def _below(folder: Path, relative: str) -> Path:
    """Return `folder / relative`. Raises SweepError if that is not below `folder`."""
    parts = PurePosixPath(relative)  # the path "." is the folder itself: a model that is one file
    if parts.is_absolute() or ".." in parts.parts:
        raise SweepError(f"the store names a file outside the run's folder: {relative}", "use a store of your own")
    return folder / parts
