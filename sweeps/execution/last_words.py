"""What is known about a worker process that ended without a report.

The process itself can tell nothing any more, but Ray keeps its standard error in a file. The
interpreter writes a fatal signal there with the Python stack, and `record_exits` writes a call of
`os._exit`.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from backends import credentials, foreign_errors

READ_BYTES = 64 * 1024
"""How much of the end of a file of standard error is read."""

_EXIT = re.compile(r"^sweep worker: (os\._exit\(.*\) at .*)$", re.MULTILINE)
_FATAL = re.compile(r"^Fatal Python error: (.+)$", re.MULTILINE)
_SIGNAL = re.compile(r"^\*\*\* (SIG[A-Z]+) received", re.MULTILINE)
_PID = re.compile(r"^\s*pid: (\d+)$", re.MULTILINE)
_MEMORY_MONITOR = re.compile(r"Memory on the node \([^)]*\) was ([\d.]+\w+) used / ([\d.]+\w+) limit")
_SELECTED_TO_KILL = re.compile(r"pid=(\d+), actual memory used=([\d.]+\w+)")
_FRAME = re.compile(r'^  File "(.+)", line (\d+),? in ', re.MULTILINE)


@dataclass(frozen=True)
class WorkerProcess:
    """A worker process: its id, the name of its machine, and the memory it last occupied."""

    pid: int
    host: str
    memory_bytes: int | None = None


def memory_bytes() -> int | None:
    """Return the memory that this process occupies now; None if the system does not say."""
    try:
        resident_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return resident_pages * os.sysconf("SC_PAGE_SIZE")


def record_exits() -> None:
    """Let a call of `os._exit` in this process say so on standard error. Idempotent."""
    process, leave = os.getpid(), os._exit
    if getattr(leave, "is_recorded", False):
        return

    def recorded_exit(status: int) -> NoReturn:
        if os.getpid() == process:  # a forked child always ends in this way
            caller = sys._getframe(1)
            place = f"{Path(caller.f_code.co_filename).name}:{caller.f_lineno}"
            os.write(2, f"\nsweep worker: os._exit({status}) at {place}\n".encode())
        leave(status)

    recorded_exit.is_recorded = True  # type: ignore[attr-defined]
    os._exit = recorded_exit


def out_of_memory_kills() -> int | None:
    """Return how many processes of this machine the kernel has ended for lack of memory.

    None if the kernel does not say.
    """
    try:
        found = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


@dataclass(frozen=True)
class Loss:
    """Why a trial lost its worker: one sentence, and everything that is known for the log.

    `out_of_memory`: the kernel or Ray ended the worker because its machine lacked memory.
    """

    message: str
    log_text: str = ""
    out_of_memory: bool = False


def loss_of(error: BaseException | None, process: WorkerProcess | None, logs: Path | None, kills_since: int) -> Loss:
    """Say what is known about a worker that failed with an error of Ray.

    `logs` is the folder of Ray's logs on this machine, and `kills_since` the number of processes
    that the kernel ended here for lack of memory since the trial started.
    """
    ray_text = str(error) if error is not None else ""
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        # An exception that no backend raised: a mistake of ours, or an installation that differs.
        place = _last_place(ray_text)
        return Loss(foreign_errors.in_one_line(cause) + (f" ({place})" if place else ""), credentials.masked(ray_text))
    if "node has died" in ray_text or "node was terminated" in ray_text:
        where = f"the machine {process.host}" if process is not None else "the machine of its worker"
        return Loss(f"{where} left the Ray cluster", ray_text)
    process = process or _named_process(ray_text)
    subject = "the worker process"
    if process is not None:
        subject += f" {process.pid}" + (f" on {process.host}" if process.host else "")
    if found := _MEMORY_MONITOR.search(ray_text):
        used = f"{found[1]} of {found[2]} were in use"
        selected = _SELECTED_TO_KILL.search(ray_text)
        own = f", {selected[2]} by process {selected[1]}" if selected else ""
        return Loss(f"Ray ended {subject}, because its machine ran low on memory: {used}{own}", ray_text, True)
    words, standard_error = "", ""
    is_local = process is not None and process.host in ("", platform.node())
    if process is not None and is_local and logs is not None:
        words, standard_error = _last_words(logs, process.pid)
    log_text = "\n".join(filter(None, (ray_text, standard_error)))
    if words:
        return Loss(f"{subject} ended: {words}", log_text)
    occupied = ""
    if process is not None and process.memory_bytes is not None:
        occupied = f"; it occupied {process.memory_bytes / 2**30:.1f} GiB when it last reported"
    if kills_since > 0 and is_local:
        remedy = "lower `search.concurrency`, the batch size or the length of the examples"
        return Loss(f"the kernel most likely ended {subject} for lack of memory{occupied} ({remedy})", log_text, True)
    return Loss(f"{subject} ended: it left no message, as after a kill signal{occupied}", log_text)


def _named_process(ray_text: str) -> WorkerProcess | None:
    found = _PID.search(ray_text)
    return WorkerProcess(int(found[1]), "") if found else None


def _last_words(logs: Path, pid: int) -> tuple[str, str]:
    """Return what ended a worker process, in words, and the end of its standard error.

    Both are empty if it says nothing.
    """
    files = sorted(logs.glob(f"worker-*-{pid}.err"))
    if not files:
        return "", ""
    try:
        with files[-1].open("rb") as stream:
            stream.seek(max(0, files[-1].stat().st_size - READ_BYTES))
            text = credentials.masked(stream.read().decode("utf-8", "replace"))
    except OSError:
        return "", ""
    if found := _EXIT.search(text):
        return f"it called {found[1]}", text
    signal_name = found[1] if (found := _SIGNAL.search(text)) else ""
    if fatal := _FATAL.search(text):
        frames = [Path(frame[0]) / frame[1] for frame in _FRAME.findall(text, fatal.end())]
        place = next((f" ({frame.parent.name}:{frame.name})" for frame in frames if not _is_standard(frame)), "")
        return f"{fatal[1].lower()}{f', {signal_name}' if signal_name else ''}{place}", text
    return signal_name, text


def _last_place(ray_text: str) -> str:
    frames = _FRAME.findall(ray_text)
    return f"{Path(frames[-1][0]).name}:{frames[-1][1]}" if frames else ""


def _is_standard(file: Path) -> bool:
    return "site-packages" not in file.parts and file.is_relative_to(sysconfig.get_path("stdlib"))
