"""The server's end of its worker processes: start them, give them orders, read their answers, use them again."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sweeps.server.settings import Trainer

GRACE_S = 30.0
"""How long a worker may take to leave its run; afterwards it is killed, and the run goes on at its last checkpoint."""

IDLE_S = 60.0
"""How long a worker waits for the next job: loading the libraries takes seconds. Then its memory is given back."""


class WorkerProcess:
    """One worker. It is in a session of its own, so that Ctrl-C reaches the server alone."""

    def __init__(self, place: Mapping[str, Any], log: Path) -> None:
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
        self._writing = threading.Lock()
        self.tell(place)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, None while the process lives."""
        return self._process.poll()

    def tell(self, value: Mapping[str, Any]) -> None:
        """Give it an order or a command. One that is dead does not mind: its answers have ended, too."""
        stdin = self._process.stdin
        assert stdin is not None
        with self._writing, contextlib.suppress(OSError, ValueError):
            stdin.write(json.dumps(value) + "\n")
            stdin.flush()

    def answers(self) -> Iterator[dict[str, Any]]:
        """Yield its answers until it ends. May be left and called again for the next order's answers."""
        stdout = self._process.stdout
        assert stdout is not None
        while (line := stdout.readline()).endswith("\n"):  # else it has ended, perhaps in the middle of a line
            yield json.loads(line)

    def dismiss(self) -> None:
        """Let it leave its run where it is, and end."""
        stdin = self._process.stdin
        assert stdin is not None
        with self._writing, contextlib.suppress(OSError, ValueError):
            stdin.close()

    def end(self) -> None:
        """Dismiss it, wait, and kill it where it does not end by itself. Idempotent."""
        self.dismiss()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class Workers:
    """Worker processes for jobs, one after the other in each. Safe to use from any thread."""

    def __init__(self, trainer: Trainer, log: Path) -> None:
        self._trainer, self._log = trainer, log
        self._idle: list[tuple[float, WorkerProcess]] = []
        self._lock = threading.Lock()

    def take(self) -> WorkerProcess:
        """Return one that waits, else a new one."""
        with self._lock:
            while self._idle:
                _, worker = self._idle.pop()
                if worker.exit_code is None:
                    return worker
        return WorkerProcess(self._trainer.place(), self._log)

    def give_back(self, worker: WorkerProcess) -> None:
        """Let one wait for the next job."""
        with self._lock:
            self._idle.append((time.monotonic(), worker))

    def dismiss_idle(self) -> None:
        """End those that have waited long enough."""
        now = time.monotonic()
        with self._lock:
            tired = [worker for since, worker in self._idle if now - since > IDLE_S]
            self._idle = [(since, worker) for since, worker in self._idle if now - since <= IDLE_S]
        for each in tired:
            each.end()

    def close(self) -> None:
        """End all that wait."""
        with self._lock:
            waiting, self._idle = self._idle, []
        for _, worker in waiting:
            worker.dismiss()
        for _, worker in waiting:
            worker.end()
