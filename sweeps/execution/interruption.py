"""Signals that end a sweep cleanly: Ctrl-C, SIGTERM, and the terminal that is closed (SIGHUP)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from sweeps.execution.session import Session

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ends_on_signals(session: Session) -> Iterator[None]:
    """Let the first signal end the sweep cleanly, and a second Ctrl-C raise KeyboardInterrupt.

    A signal that this process ignores stays ignored: `nohup` ignores SIGHUP. Outside the main
    thread, where Python allows no signal handlers, signals are left to the program.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def request_end(number: int, frame: FrameType | None) -> None:
        session.interrupt()
        if signal.getsignal(signal.SIGINT) is request_end:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    handled = {number: handler for number, handler in previous.items() if handler is not signal.SIG_IGN}
    for number in handled:
        signal.signal(number, request_end)
    try:
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
