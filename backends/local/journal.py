"""One run on disk: its request, events, resume checkpoint, kept model and trainer lock.

Loads no torch.

jobs/<id>/request.json   the request, written once at submission
jobs/<id>/events.jsonl   the events, one per line, appended and flushed
jobs/<id>/resume.pt      trained weights, optimizer state and position; deleted when the run ends
jobs/<id>/model/         the best state, in the transformers (or peft) layout
jobs/<id>/stop           an empty file: somebody asked the run to stop
jobs/<id>/lock           locked by the process that trains the run
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from backends import codec
from backends.contract import (
    TERMINAL_EVENTS,
    BackendError,
    Event,
    Failure,
    FailureKind,
    TrainingRequest,
)
from backends.relocation import ResumePoint


class Journal:
    """The directory of one run.

    Reading needs no lock. Only the run's trainer writes events (see `claim`).
    """

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

    # -------------------------------------------------------------------------------------- request
    @property
    def exists(self) -> bool:
        """Whether the run has been submitted."""
        return (self.directory / "request.json").is_file()

    def create(self, request: TrainingRequest) -> None:
        """Write the request to disk. Do nothing if the run already exists."""
        if self.exists:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        write_atomically(self.directory / "request.json", json.dumps(codec.to_json(request)).encode())

    def request(self) -> TrainingRequest:
        """Return the request with which the run was submitted."""
        text = (self.directory / "request.json").read_text(encoding="utf-8")
        return codec.from_json(TrainingRequest, json.loads(text))

    # --------------------------------------------------------------------------------------- events
    def events(self) -> Sequence[Event]:
        """Return all complete events so far, including those that another process has written.

        A line that is still being written is left out.
        """
        if not self._events_path.is_file():
            self._events, self._read_bytes = [], 0
            return self._events
        size = self._events_path.stat().st_size
        if size < self._read_bytes:  # another process resumed from an earlier checkpoint
            self._events, self._read_bytes = [], 0
        if size > self._read_bytes:
            with self._events_path.open("rb") as stream:
                stream.seek(self._read_bytes)
                new_bytes = stream.read()
            complete = new_bytes[: new_bytes.rfind(b"\n") + 1]
            self._events.extend(codec.from_json(Event, json.loads(line)) for line in complete.splitlines())
            self._read_bytes += len(complete)
        return self._events

    @property
    def ended(self) -> bool:
        """Whether the run's last event is terminal."""
        events = self.events()
        return bool(events) and isinstance(events[-1], TERMINAL_EVENTS)

    def append(self, events: Iterable[Event]) -> None:
        """Append `events` in one write and pass them to the operating system."""
        text = "".join(json.dumps(codec.to_json(event)) + "\n" for event in events)
        with self._events_path.open("ab") as stream:
            stream.write(text.encode())

    def truncate(self, count: int) -> None:
        """Keep the first `count` events and delete the rest, including an incomplete last line."""
        content = self._events_path.read_bytes() if self._events_path.is_file() else b""
        write_atomically(self._events_path, b"".join(content.splitlines(keepends=True)[:count]))
        self._events, self._read_bytes = [], 0

    # ----------------------------------------------------------------------------------------- stop
    @property
    def stop_requested(self) -> bool:
        """Whether somebody has asked the run to stop."""
        return self._stop_path.exists()

    def request_stop(self) -> None:
        """Ask the run's trainer to stop. The trainer may be in another process."""
        self._stop_path.touch()

    # ---------------------------------------------------------------------------------------- claim
    def claim(self) -> None:
        """Lock the run for this process, its only trainer.

        The lock ends with the process at the latest.

        Raises BackendError (transient) while another process trains the run.
        """
        if self._lock is not None:
            return
        stream = (self.directory / "lock").open("ab")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.close()
            message = f"another process is training run {self.run}"
            raise BackendError(
                Failure(FailureKind.TRANSIENT, message, "wait until it ends, or end that process")
            ) from error
        self._lock = stream

    def release(self) -> None:
        """Unlock the run, so that another process can train it. Idempotent."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # ---------------------------------------------------------------------------------------- files
    def delete_working_files(self) -> None:
        """Delete the files that only an unfinished run needs: checkpoint, stop request, temporary
        files.
        """
        self.checkpoint_path.unlink(missing_ok=True)
        self._stop_path.unlink(missing_ok=True)
        for path in self.directory.glob("*.tmp"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    @property
    def kept_model(self) -> str | None:
        """The path of the kept model, or None if the run has kept none."""
        return str(self.model_directory) if self.model_directory.is_dir() else None

    def resume_point(self) -> ResumePoint | None:
        """Return the files from which the run can continue, or None if it must start anew.

        The request is not among them: `submit` writes it. After the end only the events count.
        """
        if self.ended:
            return ResumePoint("end", (self._events_path.absolute(),))
        if not self.checkpoint_path.is_file():
            return None
        stat = self.checkpoint_path.stat()
        stamp = f"{stat.st_mtime_ns}-{stat.st_ino}-{stat.st_size}"
        files = [self.checkpoint_path.absolute(), self._events_path.absolute()]
        if self.model_directory.is_dir():
            files += sorted(path for path in self.model_directory.rglob("*") if path.is_file())
        return ResumePoint(stamp, tuple(files))

    def delete(self) -> None:
        """Delete the run's folder. Idempotent."""
        if self.directory.exists():
            shutil.rmtree(self.directory)

    def delete_model(self) -> None:
        """Delete the kept model. Idempotent."""
        if self.model_directory.exists():
            shutil.rmtree(self.model_directory)


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` so that a reader sees the complete old or new content, even after a crash."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
