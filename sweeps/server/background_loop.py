"""A background thread that repeats a piece of work, after each pause or when it is woken."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable

_LOG = logging.getLogger("sweeps.server")

_LONGEST_PAUSE_S = 30.0
_MOST_DOUBLINGS = 20


class BackgroundLoop:
    """Calls `first`, then repeats `work` until `close`.

    Both should return soon once `closing` is set. No error ends the loop: it logs the error and
    goes on, after a pause that grows while the errors continue.
    """

    def __init__(
        self, name: str, work: Callable[[], None], pause_s: float, *, first: Callable[[], None] | None = None
    ) -> None:
        self._first, self._work, self._pause_s = first, work, pause_s
        self._wake = threading.Event()
        self.closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin at once, with no pause before the work."""
        self._thread.start()

    def wake(self) -> None:
        """Do the work again without waiting for the end of the pause."""
        self._wake.set()

    def close(self) -> None:
        """Wait for the end of the work at hand, and end. Idempotent."""
        self.closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        if self._first is not None:
            self._repeat(self._first, until_done=True)
        self._repeat(self._work, until_done=False)

    def _repeat(self, work: Callable[[], None], *, until_done: bool) -> None:
        """Do a piece of work again and again, or until it has raised no error once."""
        failures = 0
        while not self.closing.is_set():
            failures = 0 if self._survive(work) else min(failures + 1, _MOST_DOUBLINGS)
            if failures:
                self.closing.wait(min(_LONGEST_PAUSE_S, self._pause_s * 2**failures))
            elif until_done:
                return
            else:
                self._wake.wait(self._pause_s)
            self._wake.clear()

    def _survive(self, work: Callable[[], None]) -> bool:
        """Do a piece of work. Return whether it raised no error."""
        try:
            work()
        except (OSError, sqlite3.Error) as error:  # the disk is full, for example: no mistake of the program
            _LOG.warning("the background work %s failed, and is tried again: %s", self._thread.name, error)
            return False
        except Exception:  # noqa: BLE001  the thread has no caller, and what it still has to do would be lost
            _LOG.exception("the background work %s failed; it is tried again", self._thread.name)
            return False
        return True
