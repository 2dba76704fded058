"""One run on disk: its request, its program, and its events.

programs/<id>/request.json   the request, written once at submission
programs/<id>/call.json      the command of the current attempt; see `supervisor`
programs/<id>/lock           locked by the supervisor while the program runs
programs/<id>/started.json   the process id of the program
programs/<id>/exit.json      how the program ended
programs/<id>/stop           an empty file: somebody asked the run to stop
programs/<id>/watched        touched by the workers that follow the run
programs/<id>/events.jsonl   the events, one per line, and which log they come from
programs/<id>/output.log     what the program prints
programs/<id>/output/        what the program writes
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends import codec
from backends.command.supervisor import write_durably
from backends.contract import TERMINAL_EVENTS, Event, TrainingRequest

_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")

_OF_AN_ATTEMPT = ("call.json", "started.json", "exit.json", "stop")


def run_id(key: str) -> str:
    """Return the folder's name for `key`: the key if it is a safe file name, else its digest."""
    return key if _SAFE.fullmatch(key) else hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True)
class ProgramEnd:
    """How the program ended.

    `code` is its exit code, negative for a signal, and None if it never started. `cause` is
    "ended", "stopped", "abandoned" or "not started", for the given `reason`.
    """

    code: int | None
    cause: str
    seconds: float
    reason: str = ""


class RunFolder:
    """The folder of one run. Several processes may read it; `followed` makes one of them write."""

    def __init__(self, programs: Path, run: str) -> None:
        self.path = programs / run
        self.output = self.path / "output"
        self.log = self.path / "output.log"
        self._events: list[Event] = []
        self._read_bytes = 0

    # ------------------------------------------------------------------------------------- the run
    @property
    def exists(self) -> bool:
        """Whether the run has been submitted."""
        return (self.path / "request.json").is_file()

    def create(self, request: TrainingRequest) -> None:
        """Write the request, unless the run exists."""
        if not self.exists:
            self.output.mkdir(parents=True, exist_ok=True)
            write_durably(self.path / "request.json", json.dumps(codec.to_json(request)))

    def request(self) -> TrainingRequest:
        """Return the request with which the run was submitted."""
        return codec.from_json(TrainingRequest, json.loads((self.path / "request.json").read_text(encoding="utf-8")))

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        """Let this process alone write the events during the block."""
        with (self.path / "follower").open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    # ------------------------------------------------------------------------------------- program
    @property
    def is_planned(self) -> bool:
        """Whether the command of the current attempt is written."""
        return (self.path / "call.json").exists()

    def write_call(self, call: Mapping[str, Any]) -> None:
        """Write the command of an attempt, for the supervisor."""
        write_durably(self.path / "call.json", json.dumps(call))

    @property
    def end(self) -> ProgramEnd | None:
        """How the program ended; None as long as nothing is known of it."""
        end = self._json("exit.json")
        return None if end is None else ProgramEnd(**end)

    @property
    def has_started(self) -> bool:
        """Whether the program was started in this attempt."""
        return (self.path / "started.json").exists()

    @property
    def is_supervised(self) -> bool:
        """Whether a supervisor runs."""
        try:
            with (self.path / "lock").open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    @property
    def stop_requested(self) -> bool:
        """Whether somebody has asked the run to stop."""
        return (self.path / "stop").exists()

    def request_stop(self) -> None:
        """Ask the supervisor to end the program."""
        (self.path / "stop").touch()

    def watch(self) -> None:
        """Tell the supervisor that somebody follows the run."""
        (self.path / "watched").touch()

    def forget_attempt(self, *, keep_events: bool) -> None:
        """Prepare the folder for another attempt, which continues the events or begins anew."""
        for name in _OF_AN_ATTEMPT:
            (self.path / name).unlink(missing_ok=True)
        if not keep_events:
            (self.path / "events.jsonl").unlink(missing_ok=True)
            self.log.unlink(missing_ok=True)
            shutil.rmtree(self.output, ignore_errors=True)
            self._events, self._read_bytes = [], 0
        self.output.mkdir(exist_ok=True)

    # -------------------------------------------------------------------------------------- events
    def events(self) -> list[Event]:
        """Return all complete events so far, including those that another process has written."""
        path = self.path / "events.jsonl"
        size = path.stat().st_size if path.is_file() else 0
        if size < self._read_bytes:  # another process began the run again
            self._events, self._read_bytes = [], 0
        if size > self._read_bytes:
            with path.open("rb") as stream:
                stream.seek(self._read_bytes)
                content = stream.read()
            complete = content[: content.rfind(b"\n") + 1]
            self._events += [codec.from_json(Event, json.loads(line)) for line in complete.splitlines()]
            self._read_bytes += len(complete)
        return self._events

    def append(self, events: Iterable[Event]) -> None:
        """Append events in one write, behind the complete lines."""
        text = "".join(json.dumps(codec.to_json(event)) + "\n" for event in events)
        if not text:
            return
        self.events()
        with (self.path / "events.jsonl").open("r+b" if self._read_bytes else "wb") as stream:
            stream.seek(self._read_bytes)
            stream.truncate()  # what a killed process left of a line
            stream.write(text.encode())

    @property
    def ended(self) -> bool:
        """Whether the run's last event is terminal."""
        events = self.events()
        return bool(events) and isinstance(events[-1], TERMINAL_EVENTS)

    # --------------------------------------------------------------------------------------- files
    def delete_output(self) -> None:
        """Delete what the program wrote. Idempotent."""
        shutil.rmtree(self.output, ignore_errors=True)

    def last_lines(self, count: int) -> list[str]:
        """Return the last lines that the program printed and that say something."""
        try:
            with self.log.open("rb") as stream:
                stream.seek(max(0, stream.seek(0, 2) - 64_000))
                text = stream.read().decode("utf-8", "replace")
        except OSError:
            return []
        lines = [line.rpartition("\r")[2].rstrip() for line in text.split("\n")]
        return [line for line in lines if line.strip()][-count:]

    def _json(self, name: str) -> Any:
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
