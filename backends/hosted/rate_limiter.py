"""Patience with a host: how long to leave it alone after a failure, and waiting for it where somebody must."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from backends.hosted.failures import ServiceError

FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 120.0
"""Of our own choosing; a host that says how long to wait is always waited for so long, however long that is."""

_Answer = TypeVar("_Answer")


class Carrying(Protocol):
    """A way to carry out a call: patiently, or once."""

    def __call__(self, call: Callable[[], _Answer], /) -> _Answer:
        """Return what the call returns."""
        ...


def pause_s(failures: int, asked_s: float | None) -> float:
    """Return how long to leave a host alone after so many failures in a row (at least 1)."""
    own = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 16))
    return max(own, asked_s or 0.0)


class Pace:
    """Shared by threads that ask one host: they keep its rate, and all wait when one of them is told to."""

    def __init__(
        self,
        patience_s: float,
        per_minute: float | None,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._patience_s = patience_s
        self._interval_s = 60.0 / per_minute if per_minute else 0.0
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._next = 0.0

    def patiently(self, call: Callable[[], _Answer]) -> _Answer:
        """Return what the call returns, repeated as long as it fails in passing.

        Raises its ServiceError where that cannot help, or where the host was out of reach for longer than the
        patience; what the host itself asks to wait does not count against that.
        """
        failures, patience_s = 0, self._patience_s
        while True:
            try:
                return self.once(call)
            except ServiceError as error:
                failures += 1
                pause = pause_s(failures, error.wait_s)
                patience_s -= 0.0 if error.wait_s else pause
                if not error.failure.kind.retryable or patience_s < 0:
                    raise
                with self._lock:
                    self._next = max(self._next, self._clock() + pause)

    def once(self, call: Callable[[], _Answer]) -> _Answer:
        """Return what the call returns when its turn has come. Raises its ServiceError: the caller waits."""
        self._wait_for_turn()
        return call()

    def _wait_for_turn(self) -> None:
        while True:
            with self._lock:
                now = self._clock()
                pause = self._next - now
                if pause <= 0:
                    self._next = max(self._next, now) + self._interval_s if self._interval_s else self._next
                    return
            self._sleep(pause)
