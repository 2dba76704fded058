"""The process of a night, and how the scheduler starts it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from sweeps.scheduling.claims import Claim
from sweeps.scheduling.night import Night
from sweeps.scheduling.schedule import Schedule

_TAIL_BYTES = 4000


class Process(Protocol):
    """The part of `subprocess.Popen` that the scheduler uses."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...


def start_process(command: Sequence[str], output: IO[bytes]) -> Process:
    """Start a command in a session of its own, with both output streams in `output`.

    Ctrl-C in the terminal then reaches only the scheduler, which asks the nights to stop.
    """
    return subprocess.Popen(
        list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )


@dataclass(frozen=True)
class NightProcess:
    """A claimed night that runs in a process, and the log file with the output of that process."""

    claim: Claim
    schedule: Schedule
    process: Process
    log: Path

    def last_line(self) -> str:
        """Return the last line of the log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
                lines = file.read().decode("utf-8", "replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1].strip() if lines else "no output"


@dataclass(frozen=True)
class NightLauncher:
    """Starts the process of a claimed night.

    `command` returns the command line that runs it, `log_file` the file for its output.
    """

    command: Callable[[Claim], Sequence[str]]
    log_file: Callable[[Night], Path]
    start: Callable[[Sequence[str], IO[bytes]], Process] = start_process

    def launch(self, schedule: Schedule, claim: Claim) -> NightProcess:
        """Start the process. Raises OSError."""
        log = self.log_file(claim.night)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            return NightProcess(claim, schedule, self.start(self.command(claim), output), log)
