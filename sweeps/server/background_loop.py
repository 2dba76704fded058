"""A background thread that repeats a piece of work, after each pause or when it is woken."""

from __future__ import annotations

import threading
from collections.abc import Callable


class BackgroundLoop:
    """Calls `first` once, then repeats `work` until `close`.

    Both should return soon once `closing` is set.
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
            self._first()
        while not self.closing.is_set():
            self._work()
            self._wake.wait(self._pause_s)
            self._wake.clear()
