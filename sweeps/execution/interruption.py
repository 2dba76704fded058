"""Signals that end a command or its sweep: Ctrl-C, SIGTERM, and a closed terminal (SIGHUP)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.execution.session import Session  # it takes 0.6 s to import

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_received: list[int] = []
_replaced: dict[int, Any] = {}
"""The handlers that `interrupt_on` has replaced, by the number of the signal."""


def interrupt_on(numbers: Iterable[signal.Signals]) -> None:
    """Let these signals raise KeyboardInterrupt, as Ctrl-C does, and remember that one came.

    Python ignores an exception that a destructor or a callback of C code raises. A sweep that
    starts after such a signal ends at once: see `ends_on_signals`.
    """
    _received.clear()
    for number in numbers:
        previous = signal.signal(number, _interrupt)
        if previous is not _interrupt:
            _replaced[number] = previous


def stop_interrupting() -> None:
    """Undo `interrupt_on`, and forget the signals so far: the command that they meant has ended."""
    _received.clear()
    for number, previous in _replaced.items():
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, previous)
    _replaced.clear()


def _interrupt(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    raise KeyboardInterrupt


@contextmanager
def ends_on_signals(session: Session) -> Iterator[None]:
    """Let the first signal end the sweep cleanly, and a second Ctrl-C raise KeyboardInterrupt.

    A signal that this process ignores stays ignored: `nohup` ignores SIGHUP. Outside the main
    thread, where Python allows no signal handlers, signals are left to the program. Raises
    KeyboardInterrupt if a signal came before the sweep, and its exception got lost.
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
        if _received:
            _received.clear()
            raise KeyboardInterrupt
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
