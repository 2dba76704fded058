"""The processes and the folder of a Ray that a sweep started, on record until they are gone.

A driver that is killed cannot end its Ray. The kernel ends most of it at once. Two agents of Ray
end a minute later, since they first try to report their end to a head that is gone. A run of the
sweep that begins within this minute ends them. A process is known by its id and its start time, so
that a later process with the same id is left alone.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sweeps.process_identity import Process, boot_id, existing, fields_of_stat, this_process
from sweeps.workspace import write_text

END_TIMEOUT_S = 10.0
"""How long to wait for killed processes to disappear."""


@dataclass(frozen=True)
class RayRecord:
    """What a driver started: its own process, the processes of Ray, and Ray's session folder.

    `boot` identifies the start of the machine; ids and start times mean nothing after another one.
    While Ray starts, `session_folder` is the pattern of its path, which ends with the driver's id.
    """

    driver: Process
    processes: tuple[Process, ...]
    session_folder: str
    boot: str

    def write(self, file: Path) -> None:
        """Write the record, in one step."""
        write_text(file, json.dumps(asdict(self)))


def record_of(pids: Iterable[int], session_folder: str) -> RayRecord:
    """Return the record of a Ray with these processes, which this process started."""
    return RayRecord(this_process(), tuple(existing(pids)), session_folder, boot_id())


def end_leftovers(file: Path) -> None:
    """End what an earlier driver left behind, and remove its session folder and the record.

    Does nothing if there is no record, or if its driver still runs.
    """
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        processes = tuple(Process(**process) for process in stored["processes"])
        record = RayRecord(Process(**stored["driver"]), processes, stored["session_folder"], stored["boot"])
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError, KeyError):  # written halfway, or by another version
        file.unlink(missing_ok=True)
        return
    if record.boot == boot_id():
        if record.driver.is_alive and record.driver != this_process():
            return
        end(record.processes)
        if _is_pattern(record.session_folder) and any(existing([record.driver.pid])):
            record = replace(record, session_folder="")  # another process has the id, and maybe a Ray
    remove_session_folder(record.session_folder)
    file.unlink(missing_ok=True)


def end(processes: Iterable[Process]) -> None:
    """Kill these processes with all their descendants, and wait until they are gone."""
    alive = [process for process in processes if process.is_alive]
    doomed = {process for process in alive for process in (process, *descendants(process.pid))}
    for process in doomed:
        if process.is_alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + END_TIMEOUT_S
    while any(process.is_alive for process in doomed) and time.monotonic() < deadline:
        time.sleep(0.05)


def remove_session_folder(folder: str) -> None:
    """Remove a session folder of Ray, and the link to it if it is the newest one.

    `folder` may be a pattern. Also ends the processes of Ray that still write into it: its agents
    outlive a killed raylet by a minute, and then nobody but the folder connects them with their
    sweep.
    """
    path = Path(folder)
    if not folder or not path.name.startswith("session_"):
        return
    for found in map(Path, glob.glob(folder)) if _is_pattern(folder) else (path,):
        end(_writers_in(found))
        shutil.rmtree(found, ignore_errors=True)
        link = found.parent / "session_latest"
        with contextlib.suppress(OSError):
            if link.is_symlink() and Path(os.readlink(link)).name == found.name:
                link.unlink()


def session_folders_of(driver_pid: int, temporary_folder: str) -> str:
    """Return the pattern of the session folders of the Rays that a process starts."""
    return str(Path(glob.escape(temporary_folder)) / f"session_*_{driver_pid}")


def _is_pattern(session_folder: str) -> bool:
    return "*" in Path(session_folder).name


def _writers_in(folder: Path) -> Iterator[Process]:
    """Yield the processes of Ray, other than this one, that have a file of the folder open."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_of_ray = b"ray" in (process / "cmdline").read_bytes() and int(process.name) != os.getpid()
            is_open = is_of_ray and any(
                Path(os.readlink(link)).is_relative_to(folder) for link in (process / "fd").iterdir()
            )
        except OSError:
            continue
        if is_open:
            yield from existing([int(process.name)])


def descendants(pid: int) -> set[Process]:
    """Return all descendants of a process that run now. Empty where the system cannot list them."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(fields_of_stat(int(folder.name))[1])
        except (OSError, ValueError, IndexError):
            continue
        children.setdefault(parent, []).append(int(folder.name))
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return set(existing(found))
