"""The server's side of worker processes: start, reuse and stop them, exchange messages."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from sweeps.server.training_backend import TrainingBackend
from sweeps.server.worker_messages import (
    STOP_TIMEOUT_S,
    WorkerCommand,
    WorkerReport,
    WorkerSetup,
    decode_report,
    encode,
)

MAX_IDLE_S = 60.0
"""How long a worker waits for the next job, because loading the libraries takes seconds.

Then it frees its memory.
"""


class WorkerProcess:
    """One worker process. It has a session of its own, so that Ctrl-C reaches only the server."""

    def __init__(self, setup: WorkerSetup, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sweeps.server.worker_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                text=True,
                encoding="utf-8",
            )
        self._stdin_lock = threading.Lock()
        self.send(setup)

    @property
    def exit_code(self) -> int | None:
        """The exit code, or None while the process lives."""
        return self._process.poll()

    def send(self, command: WorkerCommand) -> None:
        """Send a command.

        If the process is dead, nothing happens: its reports have ended as well.
        """
        stdin = self._process.stdin
        assert stdin is not None
        with self._stdin_lock, contextlib.suppress(OSError, ValueError):
            stdin.write(encode(command))
            stdin.flush()

    def reports(self) -> Iterator[WorkerReport]:
        """Yield the worker's reports until it ends.

        A caller may stop early and call again for the next command.
        """
        stdout = self._process.stdout
        assert stdout is not None
        # a worker that died may have left half a line
        while (line := stdout.readline()).endswith("\n"):
            yield decode_report(line)

    def request_exit(self) -> None:
        """Ask the worker to leave its run where it is, and to end."""
        stdin = self._process.stdin
        assert stdin is not None
        with self._stdin_lock, contextlib.suppress(OSError, ValueError):
            stdin.close()

    def kill(self) -> None:
        """End the worker at once. Idempotent."""
        self._process.kill()

    def stop(self) -> None:
        """Ask the worker to end, wait for it, and kill it after `STOP_TIMEOUT_S`. Idempotent."""
        self.request_exit()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class WorkerPool:
    """Worker processes that train one job after the other. Any thread may call its methods."""

    def __init__(self, backend: TrainingBackend, log: Path) -> None:
        self._backend, self._log = backend, log
        self._idle: list[tuple[float, WorkerProcess]] = []
        self._lock = threading.Lock()

    def take(self) -> WorkerProcess:
        """Return an idle worker, or start one."""
        with self._lock:
            while self._idle:
                _, worker = self._idle.pop()
                if worker.exit_code is None:
                    return worker
        return WorkerProcess(self._backend.worker_setup(), self._log)

    def give_back(self, worker: WorkerProcess) -> None:
        """Keep a worker for the next job."""
        with self._lock:
            self._idle.append((time.monotonic(), worker))

    def stop_idle(self) -> None:
        """Stop the workers that have been idle for longer than `MAX_IDLE_S`."""
        now = time.monotonic()
        with self._lock:
            expired = [worker for since, worker in self._idle if now - since > MAX_IDLE_S]
            self._idle = [(since, worker) for since, worker in self._idle if now - since <= MAX_IDLE_S]
        for worker in expired:
            worker.stop()

    def close(self) -> None:
        """Stop all idle workers."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, worker in idle:
            worker.request_exit()
        for _, worker in idle:
            worker.stop()
