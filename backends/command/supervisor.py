"""Runs the program of one trial and outlives the worker that started it: `supervisor.py FOLDER`.

A worker of Ray ends with its children, so the program has a parent of its own. The supervisor
starts the program in a new session, writes its output to a file, and ends it with everything that
it has started: when `stop` appears in the folder, or when nobody has touched `watched` for a while.
Afterwards `exit.json` says how the program ended. The lock on `lock` is held meanwhile, so that a
free lock without `exit.json` means that the supervisor itself was killed.

The file is run by its path and imports nothing of finesweep, so that it starts within 0.1 s.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import psutil

LOOK_EVERY_S = 0.25
"""How soon a request to stop is noticed."""

LOCK_TIMEOUT_S = 1.0
"""How long a second supervisor waits before it leaves the run to the first one."""

MARK = "FINESWEEP_RUN"
"""The environment variable that all processes of a run inherit; its value is the run's folder."""

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
"""Options of prctl(2) on Linux."""


def main() -> None:
    """Run the program of the folder in the first argument, unless it has run or runs already."""
    folder = Path(sys.argv[1])
    with (folder / "lock").open("ab") as lock:
        if _locked(lock) and not (folder / "exit.json").exists():
            _supervise(folder)


def _locked(lock: IO[bytes]) -> bool:
    """Return whether this process got the lock, which a question for it can hold briefly."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.01)
    return False


def _supervise(folder: Path) -> None:
    call = json.loads((folder / "call.json").read_text(encoding="utf-8"))
    began = time.monotonic()
    end: dict[str, Any] = {"code": None, "cause": "stopped"}
    if not (folder / "stop").exists():
        _adopt_orphans()
        with (folder / "output.log").open("ab") as output:
            try:
                program = _start(call, folder, output)
            except OSError as error:
                end = {"code": None, "cause": "not started", "reason": error.strerror or str(error)}
            else:
                end = _follow(program, folder, call)
                end_processes(folder, 0.0)
    end["seconds"] = time.monotonic() - began
    write_durably(folder / "exit.json", json.dumps(end))


def _start(call: dict[str, Any], folder: Path, output: IO[bytes]) -> subprocess.Popen[bytes]:
    program = subprocess.Popen(
        call["arguments"],
        cwd=call["working_folder"],
        env={**os.environ, **call["environment"], MARK: str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_end_with_the_supervisor if sys.platform == "linux" else None,  # noqa: PLW1509  one thread only
    )
    write_durably(folder / "started.json", json.dumps({"pid": program.pid}))
    return program


def _follow(program: subprocess.Popen[bytes], folder: Path, call: dict[str, Any]) -> dict[str, Any]:
    """Wait for the end of the program, and bring it about where it is due."""
    watched, watched_at = _touched(folder), time.monotonic()
    ended = _end_notice(program)
    while True:
        ended(LOOK_EVERY_S)
        if program.poll() is not None:
            return {"code": program.returncode, "cause": "ended"}
        _reap_adopted(program)
        if (touched := _touched(folder)) != watched:
            watched, watched_at = touched, time.monotonic()
        if (folder / "stop").exists():
            cause = "stopped"
        elif time.monotonic() - watched_at > call["abandoned_after_s"]:
            cause = "abandoned"
        else:
            continue
        end_processes(folder, call["grace_s"], program)
        return {"code": program.wait(), "cause": cause}


def _end_notice(program: subprocess.Popen[bytes]) -> Callable[[float], object]:
    """Return a function that waits for the end of the program, at most for the given seconds."""
    if not hasattr(os, "pidfd_open"):
        return time.sleep
    descriptor = os.pidfd_open(program.pid)
    return lambda timeout_s: select.select([descriptor], [], [], timeout_s)


def _reap_adopted(program: subprocess.Popen[bytes]) -> None:
    """Clear the ended processes that this one has adopted. The program itself is left to `poll`."""
    if not hasattr(os, "waitid"):
        return
    while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid != program.pid:
        os.waitpid(ended.si_pid, os.WNOHANG)


def end_processes(folder: Path, grace_s: float, program: subprocess.Popen[bytes] | None = None) -> None:
    """End all processes of a run: SIGTERM, and SIGKILL to those that are left after `grace_s`.

    They are the descendants of this process, and every process with the run's mark: a descendant
    may have left its session.
    """
    deadline = time.monotonic() + grace_s
    for process in processes_of(folder):
        _signal(process, signal.SIGTERM)
    while (left := processes_of(folder)) and time.monotonic() < deadline:
        if program is not None:
            program.poll()  # a zombie is not running
        time.sleep(min(0.05, grace_s))
    while left:
        for process in left:
            _signal(process, signal.SIGKILL)
        if program is not None:
            program.poll()
        time.sleep(0.02)
        left = processes_of(folder)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return the running processes of a run, without this process."""
    own, found = psutil.Process(), {}
    with contextlib.suppress(psutil.Error):
        found = {process.pid: process for process in own.children(recursive=True)} if _is_supervisor() else {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid not in found and process.environ().get(MARK) == str(folder):
                found[process.pid] = process
    found.pop(own.pid, None)
    return [process for process in found.values() if _runs(process)]


def _is_supervisor() -> bool:
    return Path(sys.argv[0]).name == Path(__file__).name


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.Error):
        process.send_signal(number)


def _touched(folder: Path) -> int:
    try:
        return (folder / "watched").stat().st_mtime_ns
    except OSError:
        return 0


def _adopt_orphans() -> None:
    """Become the parent of descendants whose own parents end, so that none is lost sight of."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_with_the_supervisor() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def write_durably(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or nothing, even after a crash."""
    draft = path.with_name(path.name + ".draft")
    with draft.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)


if __name__ == "__main__":
    main()
