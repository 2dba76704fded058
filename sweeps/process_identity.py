"""Processes of this machine, told apart from later ones with the same id."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process of this machine: its id, and its start in clock ticks since the machine started."""

    pid: int
    started: int

    @property
    def is_alive(self) -> bool:
        """Whether this very process still runs. A zombie has ended."""
        return _status_of(self.pid) == (self.started, True)


def existing(pids: Iterable[int]) -> Iterator[Process]:
    """Yield those of these processes that exist now."""
    for pid in pids:
        started, _ = _status_of(pid)
        if started is not None:
            yield Process(pid, started)


def this_process() -> Process:
    """Return this process."""
    return next(existing([os.getpid()]), Process(os.getpid(), 0))


def _status_of(pid: int) -> tuple[int | None, bool]:
    """Return the start time of a process, and whether it runs; (None, False) if there is none."""
    try:
        fields = fields_of_stat(pid)
        return int(fields[19]), fields[0] not in ("Z", "X")
    except (OSError, ValueError, IndexError):
        return None, False


def fields_of_stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name of the command: the state is the first."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def boot_id() -> str:
    """Return what identifies the start of this machine; process ids mean nothing after another."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
