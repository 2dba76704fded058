"""One run on disk: its request, its program, and its events.

programs/<id>/request.json    the request, written once at submission
programs/<id>/attempt.json    what the current attempt begins with; see `Attempt`
programs/<id>/call.json       the command of the current attempt; see `supervisor`
programs/<id>/lock            locked by the supervisor while the program runs
programs/<id>/started.json    the process id of the program
programs/<id>/exit.json       how the program ended
programs/<id>/stop            an empty file: somebody asked the run to stop
programs/<id>/pause           an empty file: the program must end, and the run continues later
programs/<id>/watched         touched by the workers that follow the run
programs/<id>/followed.json   which log the events come from
programs/<id>/checkpoint_files.json    the files of a complete checkpoint
programs/<id>/events.jsonl    the events, one per line
programs/<id>/output.log      what the program prints, in all attempts
programs/<id>/supervisor.log  errors of the supervisor
programs/<id>/best            a link to the best checkpoint, from the first one on
programs/<id>/output/         what the program writes
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backends import codec
from backends.command.measurements import Timeline
from backends.command.supervisor import locked, write_durably
from backends.contract import TERMINAL_EVENTS, Event, TrainingRequest

_OF_AN_ATTEMPT = ("call.json", "started.json", "exit.json", "pause")

_OURS = frozenset(
    {
        *_OF_AN_ATTEMPT,
        "request.json",
        "attempt.json",
        "lock",
        "stop",
        "watched",
        "follower",
        "followed.json",
        "checkpoint_files.json",
        "events.jsonl",
        "output.log",
        "supervisor.log",
    }
)
"""The files of a run that the program does not write."""


@dataclass(frozen=True)
class ProgramEnd:
    """How the program ended.

    `code` is its exit code, negative for a signal, and None if it never started. `cause` says who
    ended it: "ended" (itself, or the kernel), "stopped" and "paused" (on request), "abandoned"
    (nobody followed it), "signalled" (a signal ended its supervisor), "lost" (its supervisor was
    killed), or "not started" for the given `reason`. `left_behind` counts the processes that it had
    started and that still ran at its end. `out_of_memory_kills` counts the processes that the
    kernel of the machine killed for lack of memory meanwhile.
    """

    code: int | None
    cause: str
    seconds: float = 0.0
    reason: str = ""
    left_behind: int = 0
    out_of_memory_kills: int = 0

    @property
    def may_continue(self) -> bool:
        """Whether the next submission of the run begins another attempt."""
        return self.cause in ("paused", "abandoned", "signalled", "lost")


@dataclass(frozen=True)
class Attempt:
    """One start of the program, numbered from 1.

    A later attempt continues the `checkpoint`, on the `timeline` at that point, or begins from
    scratch. The first `rows` rows of the followed log are those of earlier attempts, as long as
    their digest is `digest`.
    """

    number: int = 1
    checkpoint: str | None = None
    rows: int = 0
    digest: str = ""
    timeline: Timeline | None = None


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
        """Let this process alone write the events and start attempts during the block."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "follower").open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    # ------------------------------------------------------------------------------------- program
    @property
    def attempt(self) -> Attempt:
        """The current attempt."""
        stored = self._json("attempt.json")
        return Attempt() if stored is None else codec.from_json(Attempt, stored)

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

    @contextlib.contextmanager
    def unsupervised(self) -> Iterator[bool]:
        """Keep every supervisor from starting during the block.

        Yields False if one runs.
        """
        with (self.path / "lock").open("ab") as stream:
            yield locked(stream, 0.0)

    def write_end(self, end: ProgramEnd) -> None:
        """Write how the program ended in place of its supervisor, which is gone."""
        write_durably(self.path / "exit.json", json.dumps(asdict(end)))

    @property
    def stop_requested(self) -> bool:
        """Whether somebody has asked the run to stop."""
        return (self.path / "stop").exists()

    def request_stop(self) -> None:
        """Ask the supervisor to end the program, for good."""
        (self.path / "stop").touch()

    @property
    def pause_requested(self) -> bool:
        """Whether somebody has asked the program of this attempt to end."""
        return (self.path / "pause").exists()

    def request_pause(self) -> None:
        """Ask the supervisor to end the program. The next submission continues the run."""
        (self.path / "pause").touch()

    def watch(self) -> None:
        """Tell the supervisor that somebody follows the run."""
        (self.path / "watched").touch()

    def begin_attempt(self, attempt: Attempt) -> None:
        """Prepare the folder for another attempt, while no supervisor runs.

        An attempt from scratch finds an empty folder. Can be repeated after a crash.
        """
        write_durably(self.path / "attempt.json", json.dumps(codec.to_json(attempt)))
        if attempt.checkpoint is None:
            self.delete_output()
        for name in _OF_AN_ATTEMPT:
            (self.path / name).unlink(missing_ok=True)
        self.output.mkdir(exist_ok=True)

    def forget_end(self) -> None:
        """Let a part of a trial that has ended begin again. Nobody keeps its events."""
        for name in ("events.jsonl", "stop", *_OF_AN_ATTEMPT):
            (self.path / name).unlink(missing_ok=True)
        self._events, self._read_bytes = [], 0

    # -------------------------------------------------------------------------------------- events
    def events(self) -> list[Event]:
        """Return all complete events so far, including those that another process has written."""
        path = self.path / "events.jsonl"
        size = path.stat().st_size if path.is_file() else 0
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
        lines = "".join(json.dumps(codec.to_json(event)) + "\n" for event in events).encode()
        if not lines:
            return
        self.events()
        descriptor = os.open(self.path / "events.jsonl", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.ftruncate(descriptor, self._read_bytes)  # what a killed process left of a line
            at = self._read_bytes
            while lines:  # a disk that becomes full takes a part, and the next write fails
                written = os.pwrite(descriptor, lines, at)
                lines, at = lines[written:], at + written
        finally:
            os.close(descriptor)

    @property
    def ended(self) -> bool:
        """Whether the run's last event is terminal."""
        events = self.events()
        return bool(events) and isinstance(events[-1], TERMINAL_EVENTS)

    # --------------------------------------------------------------------------------------- files
    @property
    def places(self) -> Mapping[str, str]:
        """The paths for which placeholders stand, by name."""
        return {
            "output": str(self.output),
            "folder": str(self.path),
            "log": str(self.log),
            "metrics_file": str(self.path / "metrics.jsonl"),
        }

    @property
    def followed_source(self) -> int | None:
        """The number of the log that the events come from, once it is chosen."""
        stored = self._json("followed.json")
        return None if stored is None else int(stored["source"])

    def choose_source(self, source: int) -> None:
        """Take the events from this log from now on."""
        write_durably(self.path / "followed.json", json.dumps({"source": source}))

    @property
    def checkpoint_files(self) -> frozenset[str]:
        """The files that an earlier complete checkpoint had; empty if none is known."""
        return frozenset(self._json("checkpoint_files.json") or ())

    def remember_checkpoint_files(self, files: frozenset[str]) -> None:
        """Remember which files a complete checkpoint has."""
        if files != self.checkpoint_files:
            write_durably(self.path / "checkpoint_files.json", json.dumps(sorted(files)))

    def link_best(self, checkpoint: Path) -> Path:
        """Let `best` lead to this checkpoint, in one step, and return the link."""
        link = self.path / f"best{checkpoint.suffix if checkpoint.is_file() else ''}"
        if not link.is_symlink() or Path(os.readlink(link)) != checkpoint:
            self.remove_draft_of_best()
            self._draft_of_best.symlink_to(checkpoint)
            os.replace(self._draft_of_best, link)
        return link

    @property
    def _draft_of_best(self) -> Path:
        return self.path / "best.draft"

    def remove_draft_of_best(self) -> None:
        """Remove the link that a killed process has begun. Idempotent."""
        self._draft_of_best.unlink(missing_ok=True)

    def _written(self) -> Iterator[Path]:
        """Yield the files and folders that the program wrote, but for what it printed."""
        for path in self.path.iterdir() if self.path.is_dir() else ():
            if path.name not in _OURS and not path.name.endswith(".draft"):
                yield path

    def size_bytes(self) -> int:
        """Return the size of what the program wrote."""
        own = (path for path in self._written() if not path.is_symlink())
        files = (file for path in own for file in (path, *(path.rglob("*") if path.is_dir() else ())))
        return sum(file.stat().st_size for file in files if file.is_file())

    def delete_output(self) -> None:
        """Delete what the program wrote, but for what it printed. Idempotent."""
        for path in list(self._written()):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def last_lines(self, count: int) -> list[str]:
        """Return the last lines that the program printed and that say something."""
        try:
            with self.log.open("rb") as stream:
                stream.seek(max(0, stream.seek(0, 2) - 64_000))
                text = stream.read().decode("utf-8", "replace")
        except OSError:
            return []
        lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
        return [line for line in lines if line.strip()][-count:]

    def last_error_of_supervisor(self) -> str:
        """Return the last line of the supervisor's errors; empty if there are none."""
        try:
            lines = (self.path / "supervisor.log").read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _json(self, name: str) -> Any:
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
