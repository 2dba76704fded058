"""The server's end of a worker process: start it, give it orders, read its answers, end it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

GRACE_S = 20.0
"""How long a worker may take to leave its run; afterwards it is killed, and the run goes on at its last checkpoint."""


class WorkerProcess:
    """One worker. It is in a session of its own, so that Ctrl-C reaches the server alone."""

    def __init__(self, order: Mapping[str, Any], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sweeps.server.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                text=True,
                encoding="utf-8",
            )
        self.ask(order)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, None while the process lives."""
        return self._process.poll()

    def tell(self, line: str) -> None:
        """Give it a line. One that is dead already does not mind: its answers have ended, too."""
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(OSError, ValueError):
            stdin.write(line + "\n")
            stdin.flush()

    def ask(self, question: Mapping[str, Any]) -> None:
        """Give it a question as one line of JSON."""
        self.tell(json.dumps(question))

    def answers(self) -> Iterator[dict[str, Any]]:
        """Yield its answers until it ends."""
        stdout = self._process.stdout
        assert stdout is not None
        for line in stdout:
            if line.endswith("\n"):  # else it died in the middle of it
                yield json.loads(line)

    def dismiss(self) -> None:
        """Let it finish what it is doing and end."""
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(OSError, ValueError):
            stdin.close()

    def end(self) -> None:
        """Dismiss it, wait, and kill it where it does not end by itself. Idempotent."""
        self.dismiss()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None and not self._process.stdout.closed:
            with contextlib.suppress(ValueError):
                self._process.stdout.close()
