"""Runs the program of one trial and outlives the worker that started it: `supervisor.py FOLDER`.

A worker of Ray ends with its children, so the program has a parent of its own. The supervisor
starts the program in a new session, writes its output to a file, and ends it with everything that
it has started: when `stop` or `pause` appears in the folder, when nobody has touched `watched` for
a while, or when a signal ends the supervisor. Afterwards `exit.json` says how the program ended.
The lock on `lock` is held meanwhile, so that a free lock without `exit.json` means that no program
runs: none has started yet, or the supervisor was killed, and the kernel killed the program with it.

The file is run by its path and imports nothing of finesweep, so that it starts within 0.1 s.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import IO, Any

import psutil

LOOK_EVERY_S = 0.25
"""How soon a request to stop is noticed."""

LOCK_TIMEOUT_S = 1.0
"""How long a second supervisor waits before it leaves the run to the first one."""

LAST_CHILDREN_GRACE_S = 5.0
"""How long processes may take to end that the program has left behind, such as an upload."""

KILL_TIMEOUT_S = 20.0

MARK = "FINESWEEP_RUN"
"""The environment variable that all processes of a run inherit; its value is the run's folder."""

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
"""Options of prctl(2) on Linux."""


def main() -> None:
    """Run the program of the folder in the first argument, unless it has run or runs already."""
    folder = Path(sys.argv[1])
    with (folder / "lock").open("ab") as lock:
        if locked(lock, LOCK_TIMEOUT_S) and not (folder / "exit.json").exists() and (folder / "call.json").exists():
            _supervise(folder)


def locked(lock: IO[bytes], timeout_s: float) -> bool:
    """Return whether this process got the lock, which a question for it can hold briefly."""
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)


def _supervise(folder: Path) -> None:
    call = json.loads((folder / "call.json").read_text(encoding="utf-8"))
    signalled = _noticed_signals()
    _adopt_orphans()
    began, kills = time.monotonic(), _out_of_memory_kills()
    end = _run(call, folder, signalled)
    end["seconds"] = time.monotonic() - began
    end["out_of_memory_kills"] = _out_of_memory_kills() - kills
    write_durably(folder / "exit.json", json.dumps(end))


def _run(call: dict[str, Any], folder: Path, signalled: list[int]) -> dict[str, Any]:
    """Run the program to its end, and return how it ended."""
    if cause := requested_end(folder):
        return {"code": None, "cause": cause}
    if left := end_processes(folder, 0.0):  # of an earlier attempt whose supervisor was killed
        reason = f"process {left[0].pid} of an earlier attempt cannot be ended"
        return {"code": None, "cause": "not started", "reason": reason}
    with (folder / "output.log").open("ab") as output:
        try:
            program = _start(call, folder, output)
        except OSError as error:
            end_processes(folder, 0.0)
            return {"code": None, "cause": "not started", "reason": error.strerror or str(error)}
    end = _follow(program, folder, call, signalled)
    end["left_behind"] = len(processes_of(folder)) if end["cause"] == "ended" else 0
    end_processes(folder, min(call["grace_s"], LAST_CHILDREN_GRACE_S), program)
    return end


def _noticed_signals() -> list[int]:
    """Note the signals that would end this process, in the list that is returned.

    A worker may block or ignore signals, and its children inherit that.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    for number in ENDING_SIGNALS:
        signal.signal(number, note)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return received


def _start(call: dict[str, Any], folder: Path, output: IO[bytes]) -> subprocess.Popen[bytes]:
    if call.get("note"):
        output.write(f"[sweep] {call['note']}\n".encode())
        output.flush()
    supervisor = os.getpid()
    program = subprocess.Popen(
        call["arguments"],
        cwd=call["working_folder"],
        env={**os.environ, **call["environment"], MARK: str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=lambda: _become_the_program(supervisor),  # noqa: PLW1509  one thread only
    )
    write_durably(folder / "started.json", json.dumps({"pid": program.pid}))
    return program


def _become_the_program(supervisor: int) -> None:
    """Prepare the new process: signals as usual, and SIGKILL when the supervisor ends."""
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != supervisor:  # it ended before the kernel knew
            os._exit(128 + signal.SIGKILL)


def requested_end(folder: Path) -> str | None:
    """Return how somebody asked the program to end: "stopped", "paused" or not at all."""
    if (folder / "stop").exists():
        return "stopped"
    return "paused" if (folder / "pause").exists() else None


def _follow(
    program: subprocess.Popen[bytes], folder: Path, call: dict[str, Any], signalled: list[int]
) -> dict[str, Any]:
    """Wait for the end of the program, and bring it about where it is due."""
    watched, watched_at = _touched(folder), time.monotonic()
    ended = _end_notice(program)
    while True:
        ended(LOOK_EVERY_S)
        if (code := program.poll()) is not None:
            # Somebody may have killed it on the same request, as `discard` does.
            return {"code": code, "cause": (requested_end(folder) if code else None) or "ended"}
        _reap_adopted(program)
        if (touched := _touched(folder)) != watched:
            watched, watched_at = touched, time.monotonic()
        cause = requested_end(folder)
        if cause is None and signalled:
            cause = "signalled"
        if cause is None and time.monotonic() - watched_at > call["abandoned_after_s"]:
            cause = "abandoned"
        if cause is not None:
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
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid != program.pid:
            os.waitpid(ended.si_pid, os.WNOHANG)


# ---------------------------------------------------------------------------------------- processes
def end_processes(folder: Path, grace_s: float, program: subprocess.Popen[bytes] | None = None) -> list[psutil.Process]:
    """End all processes of a run: SIGTERM, and SIGKILL to those that are left after `grace_s`.

    A process that starts meanwhile gets its own SIGTERM. `program` is a child of this process.
    Returns the processes that not even SIGKILL ended within `KILL_TIMEOUT_S`: those of another
    user, or that wait for a disk.
    """
    kill_at = time.monotonic() + grace_s
    asked: set[psutil.Process] = set()
    while left := _left_of(folder, program):
        kills = time.monotonic() >= kill_at
        if time.monotonic() > kill_at + KILL_TIMEOUT_S:
            return left
        for process in left:
            if kills:
                _signal(process, signal.SIGKILL)
            elif process not in asked:
                asked.add(process)
                _signal(process, signal.SIGTERM)
        time.sleep(0.02 if kills else 0.05)
    return []


def _left_of(folder: Path, program: subprocess.Popen[bytes] | None) -> list[psutil.Process]:
    if program is not None and program.poll() is None:
        _reap_adopted(program)
    return processes_of(folder)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return the running processes of a run, without this process.

    They are the descendants of its supervisor, if this process is that, every process with the
    run's mark, and every process that prints into the run's `output.log`: a descendant may have
    left its session, and its parent may have emptied its environment.
    """
    own = psutil.Process()
    found = {process.pid: process for process in _descendants(own)} if _is_supervisor() else {}
    log = str(folder / "output.log")
    for process in psutil.process_iter():
        if process.pid not in found and process.pid != own.pid and _is_marked(process, str(folder), log):
            found[process.pid] = process
    return [process for process in found.values() if _runs(process)]


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def _is_marked(process: psutil.Process, folder: str, log: str) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        if process.environ().get(MARK) == folder:
            return True
    for stream in (1, 2):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{process.pid}/fd/{stream}") == log:
                return True
    return False


def _is_supervisor() -> bool:
    return Path(sys.argv[0]).name == Path(__file__).name


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
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


def _out_of_memory_kills() -> int:
    """Return how many processes the kernel has killed for lack of memory, here or in this group."""
    return max((int(number) for number in _kill_counts()), default=0)


def _kill_counts() -> Iterator[str]:
    for file in ("/proc/vmstat", "/sys/fs/cgroup/memory.events"):
        with contextlib.suppress(OSError):
            yield from re.findall(r"^oom_kill (\d+)$", Path(file).read_text(encoding="ascii"), re.MULTILINE)


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
