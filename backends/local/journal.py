"""A run on disk: its request, its events, its resume checkpoint, its kept model, and who is training it. No torch.

jobs/<id>/request.json   written once, when the run is submitted
jobs/<id>/events.jsonl   one event a line, appended and flushed
jobs/<id>/resume.pt      trained weights, optimizer and position; gone when the run has ended
jobs/<id>/model/         the kept state in the transformers (or peft) layout
jobs/<id>/stop           somebody asked the run to stop
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from backends.contract import (
    TERMINAL,
    BackendError,
    Event,
    Failure,
    FailureKind,
    TrainingRequest,
    event_from_json,
    event_to_json,
)

_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


def run_id(key: str) -> str:
    """Return the directory name of a key: the key itself where it can be one, else its digest."""
    return key if _SAFE.fullmatch(key) else hashlib.sha256(key.encode()).hexdigest()


class Journal:
    """The directory of one run. Reading needs no lock; only its trainer writes events (see `claim`)."""

    def __init__(self, jobs: Path, run: str) -> None:
        self.run = run
        self.directory = jobs / run
        self.model_directory = (self.directory / "model").absolute()
        self.checkpoint_path = self.directory / "resume.pt"
        self._events_path = self.directory / "events.jsonl"
        self._stop_path = self.directory / "stop"
        self._events: list[Event] = []
        self._read_bytes = 0
        self._lock: IO[bytes] | None = None

    # ---------------------------------------------------------------------------------------------------------- request
    @property
    def exists(self) -> bool:
        """Whether the run was submitted."""
        return (self.directory / "request.json").is_file()

    def create(self, request: TrainingRequest) -> None:
        """Write the request down, unless the run is there already."""
        if self.exists:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        write_atomically(self.directory / "request.json", json.dumps(request.to_json()).encode())

    def request(self) -> TrainingRequest:
        """Return the request that the run was submitted with."""
        return TrainingRequest.from_json(json.loads((self.directory / "request.json").read_text(encoding="utf-8")))

    # ----------------------------------------------------------------------------------------------------------- events
    def events(self) -> Sequence[Event]:
        """Return all events so far, those of another process included, but no line that is still being written."""
        if not self._events_path.is_file():
            self._events, self._read_bytes = [], 0
            return self._events
        size = self._events_path.stat().st_size
        if size < self._read_bytes:  # another process went back to a checkpoint
            self._events, self._read_bytes = [], 0
        if size > self._read_bytes:
            with self._events_path.open("rb") as stream:
                stream.seek(self._read_bytes)
                new = stream.read()
            complete = new[: new.rfind(b"\n") + 1]
            self._events.extend(event_from_json(json.loads(line)) for line in complete.splitlines())
            self._read_bytes += len(complete)
        return self._events

    @property
    def ended(self) -> bool:
        """Whether the last event is terminal."""
        events = self.events()
        return bool(events) and isinstance(events[-1], TERMINAL)

    def append(self, events: Iterable[Event]) -> None:
        """Write events, all in one piece, and hand them to the operating system."""
        text = "".join(json.dumps(event_to_json(each)) + "\n" for each in events)
        with self._events_path.open("ab") as stream:
            stream.write(text.encode())

    def truncate(self, count: int) -> None:
        """Forget the events from number `count` on, and a line that was cut short."""
        kept = self._events_path.read_bytes().splitlines(keepends=True)[:count] if self._events_path.is_file() else []
        write_atomically(self._events_path, b"".join(kept))
        self._events, self._read_bytes = [], 0

    # ------------------------------------------------------------------------------------------------------------- stop
    @property
    def stop_requested(self) -> bool:
        """Whether somebody asked the run to stop."""
        return self._stop_path.exists()

    def request_stop(self) -> None:
        """Ask the trainer of the run, in whichever process it is, to stop."""
        self._stop_path.touch()

    # ------------------------------------------------------------------------------------------------------------ claim
    def claim(self) -> None:
        """Become the run's only trainer. The operating system lets go when the process dies.

        Raises BackendError (transient) while another process trains the run.
        """
        if self._lock is not None:
            return
        stream = (self.directory / "lock").open("ab")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.close()
            message = f"run {self.run} is being trained by another process"
            raise BackendError(Failure(FailureKind.TRANSIENT, message, "wait for it, or end that process")) from error
        self._lock = stream

    def release(self) -> None:
        """Let another process train the run. Idempotent."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # ------------------------------------------------------------------------------------------------------------ files
    def end(self) -> None:
        """Delete what only an unfinished run needs."""
        self.checkpoint_path.unlink(missing_ok=True)
        self._stop_path.unlink(missing_ok=True)
        for each in self.directory.glob("*.tmp"):
            shutil.rmtree(each) if each.is_dir() else each.unlink()

    @property
    def kept_model(self) -> str | None:
        """The kept model where there is one."""
        return str(self.model_directory) if self.model_directory.is_dir() else None

    def delete_model(self) -> None:
        """Delete the kept model. Idempotent."""
        if self.model_directory.exists():
            shutil.rmtree(self.model_directory)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file such that a reader sees the old content or the new one, also after a crash."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
