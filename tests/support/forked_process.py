"""Runs a function in a forked child of this process, and tells how the child ended.

The child has everything imported, so that it starts in milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sweeps.errors import SweepError

_EXIT = os._exit  # the product's workers replace it

TRACEBACK_EXIT_CODE = 70
"""The exit code of a child that ended with an exception that nobody should see."""


@dataclass(frozen=True)
class ChildEnd:
    """How a child ended: its exit code, or the signal that killed it, or that it hung.

    `output` is what it wrote.
    """

    exit_code: int | None
    signal_number: int | None
    hung: bool
    output: str

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it, and not for hanging."""
        return self.signal_number == signal.SIGKILL and not self.hung

    def __str__(self) -> str:
        how = "hung" if self.hung else f"exit code {self.exit_code}, signal {self.signal_number}"
        return f"{how}\n{self.output}"


def run_in_child(action: Callable[[], None], output: Path, timeout_s: float = 120.0) -> ChildEnd:
    """Run `action` in a child. A child that takes longer than `timeout_s` is killed."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _be_child(action, output)
    deadline = time.monotonic() + timeout_s
    pause_s = 0.001
    hung = False
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > deadline:
            hung = True
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(pause_s)
        pause_s = min(0.01, pause_s * 1.3)
    text = output.read_text(encoding="utf-8", errors="replace") if output.exists() else ""
    if os.WIFSIGNALED(status):
        return ChildEnd(None, os.WTERMSIG(status), hung, text)
    return ChildEnd(os.WEXITSTATUS(status), None, hung, text)


def _be_child(action: Callable[[], None], output: Path) -> None:
    code = TRACEBACK_EXIT_CODE
    try:
        stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        sys.stdout = sys.__stdout__ = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = sys.__stderr__ = os.fdopen(2, "w", buffering=1, closefd=False)
        action()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except SweepError as error:
        print(f"error: {error.message}\n  {error.hint}", file=sys.stderr)
        code = error.exit_code
    except BaseException:  # noqa: BLE001 - the parent reads it in the output
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        _EXIT(code)
