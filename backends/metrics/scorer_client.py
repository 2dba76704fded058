"""Runs a scoring function in a process of its own, with a time limit for each call."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_LOG = logging.getLogger("backends.metrics")

_PROGRAM = Path(__file__).with_name("scorer_process.py")
_POLL_S = 0.25
_LAST_WORDS_S = 3.0
"""How long to wait for the last output of a process that has ended or hangs."""

_QUIET_S = 0.25
"""If a process that hangs prints nothing for this long, its stack trace is complete."""

START_TIMEOUT_S = 60.0
"""The smallest time limit for loading the code, because imports can be slow. If the limit of a call
is longer, it applies to loading, too."""

MAX_LOGGED_LINES = 200
"""The log receives at most this many lines of what a process prints."""

SHOWN_LINES = 12
"""An error shows at most this many of the last lines that the process printed."""

MAX_LINE_CHARACTERS = 500


@dataclass(frozen=True)
class Code:
    """A function, and the sources that it needs, by their file names relative to `folder`.

    `file` is the module with the function; it lies in `folder` itself. `parameters` is the number
    of arguments of a call. The folder need not exist.
    """

    folder: str
    file: str
    function: str
    sources: Mapping[str, str]
    parameters: int


class ScorerError(Exception):
    """A call failed: what happened in one sentence, and the traceback or the last output."""

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail


class ScorerProcess:
    """A process that runs one function.

    It starts at the first call, and if it has ended, the next call starts it again. Calls of
    several threads wait for each other. What the function prints goes to the log. When this process
    ends, even by a kill, the other one ends, too.
    """

    def __init__(self, code: Code, timeout_s: float) -> None:
        self._code = code
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._running: _RunningProcess | None = None

    @property
    def pid(self) -> int | None:
        """The id of the process, which is that of its process group, while it runs."""
        return None if self._running is None else self._running.pid

    def start(self) -> None:
        """Load the code, unless the process runs. Raises ScorerError."""
        with self._lock:
            self._started()

    def call(self, *arguments: Any) -> float | list[float]:
        """Return what the function returns for these JSON values.

        Raises ScorerError if the function raises, ends its process, takes longer than the limit, or
        returns no numbers. A number may be not finite.
        """
        with self._lock:
            result: float | list[float] = self._answer(self._started(), {"arguments": arguments}, self._timeout_s)
            return result

    def close(self) -> None:
        """End the process and its children. Idempotent."""
        with self._lock:
            self._end()

    def _started(self) -> _RunningProcess:
        if self._running is None:
            running = self._running = _RunningProcess(self._code.file)
            try:
                self._answer(running, asdict(self._code), max(START_TIMEOUT_S, self._timeout_s))
            except ScorerError:
                self._end()
                raise
        return self._running

    def _answer(self, running: _RunningProcess, message: Mapping[str, Any], timeout_s: float) -> Any:
        try:
            answer = running.ask(message, timeout_s)
        except BaseException:
            self._end()
            raise
        if "problem" in answer:
            raise ScorerError(answer["problem"], answer["detail"])
        return answer["result"]

    def _end(self) -> None:
        if self._running is not None:
            self._running.kill()
            self._running = None


class _RunningProcess:
    """The process, the pipes to it, and the thread that reads what it prints."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._output: deque[str] = deque(maxlen=SHOWN_LINES)
        self._printed_at = 0.0
        its_input, self._requests = os.pipe()
        self._answers, its_output = os.pipe()
        os.set_blocking(self._requests, False)
        try:
            self._process = subprocess.Popen(
                # -P: the folder of the program is not on the import path; -u: its last words arrive
                [sys.executable, "-P", "-u", str(_PROGRAM), str(its_input), str(its_output)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(its_input, its_output),
                start_new_session=True,
                env={**os.environ, "PYTHONHASHSEED": "0"},
            )
        except OSError as error:
            os.close(self._requests)
            os.close(self._answers)
            raise ScorerError(f"no process could be started: {error}") from error
        finally:
            os.close(its_input)
            os.close(its_output)
        self._reader = threading.Thread(target=self._read_output, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, message: Mapping[str, Any], timeout_s: float) -> Any:
        """Send a message and return the answer. Raises ScorerError."""
        deadline = time.monotonic() + timeout_s
        unsent = memoryview(json.dumps(message).encode() + b"\n")
        received = b""
        while not received.endswith(b"\n"):
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise self._hang(timeout_s)
            readable, writable, _ = select.select(
                [self._answers], [self._requests] if unsent else [], [], min(remaining_s, _POLL_S)
            )
            if writable:
                with contextlib.suppress(BrokenPipeError, BlockingIOError):  # an ended process closes both pipes
                    unsent = unsent[os.write(self._requests, unsent[:65536]) :]
            if readable:
                data = os.read(self._answers, 65536)
                received += data
                if not data:
                    raise self._death()
            elif self._process.poll() is not None and not select.select([self._answers], [], [], 0)[0]:
                raise self._death()  # a child of it still holds the pipe
        return json.loads(received)

    def kill(self) -> None:
        """End the process and its children, and close the pipes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._requests)
        os.close(self._answers)
        self._reader.join(_LAST_WORDS_S)

    def _hang(self, timeout_s: float) -> ScorerError:
        """Return the error for a call without an answer, with the place where the function is."""
        self._output.clear()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGUSR1)
        deadline = time.monotonic() + _LAST_WORDS_S
        while (not self._output or time.monotonic() < self._printed_at + _QUIET_S) and time.monotonic() < deadline:
            time.sleep(0.01)
        frames = [line for line in self._output if line.startswith("  File") and str(_PROGRAM) not in line]
        return ScorerError(f"{self._name} did not answer within {timeout_s:g} s", "\n".join(["It was at:", *frames]))

    def _death(self) -> ScorerError:
        code = self._process.wait()
        self._reader.join(_LAST_WORDS_S)
        how = f"by the signal {signal.Signals(-code).name}" if code < 0 else f"with the exit code {code}"
        last = "\n".join(line for line in self._output if str(_PROGRAM) not in line and "Extension mod" not in line)
        return ScorerError(f"{self._name} ended its process {how}", last and f"Its last output:\n{last}")

    def _read_output(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        logged = 0
        with stream:
            for line in iter(lambda: stream.readline(MAX_LINE_CHARACTERS), b""):
                text = line.decode("utf-8", "replace").rstrip()
                self._output.append(text)
                self._printed_at = time.monotonic()
                logged += 1
                if logged <= MAX_LOGGED_LINES:
                    _LOG.info("%s prints: %s", self._name, text)
