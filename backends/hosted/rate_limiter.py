"""Rate limiting and retries: how fast to call a host, and how long to pause after a failure."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from backends.hosted.failures import HostError

FIRST_BACKOFF_S = 2.0
MAX_BACKOFF_S = 60.0
"""Our own choice. A longer wait that the host asks for always applies."""

_Answer = TypeVar("_Answer")


class CallPolicy(Protocol):
    """A way to make a call: `RateLimiter.with_retries` or `RateLimiter.once`."""

    def __call__(self, call: Callable[[], _Answer], /) -> _Answer:
        """Return the result of the call."""
        ...


def backoff_s(failures: int, requested_s: float | None) -> float:
    """Return how long to leave a host alone after this many consecutive failures (at least 1)."""
    own_s = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(failures - 1, 16))
    return max(own_s, requested_s or 0.0)


class RateLimiter:
    """Makes calls to one host.

    Threads share it: they keep its rate together, and all wait if one must.

    `patience_s`: how long `with_retries` tolerates an unreachable host. `per_minute`: the most
    calls per minute; None: no limit. `on_pause` learns of each pause after a failure, in seconds.
    """

    def __init__(
        self,
        patience_s: float,
        per_minute: float | None,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        on_pause: Callable[[float, HostError], None] | None = None,
    ) -> None:
        self._patience_s = patience_s
        self._interval_s = 60.0 / per_minute if per_minute else 0.0
        self._clock, self._sleep, self._on_pause = clock, sleep, on_pause
        self._lock = threading.Lock()
        self._next_call_at = 0.0

    def with_retries(self, call: Callable[[], _Answer]) -> _Answer:
        """Return the result of the call; repeat it after each retryable failure.

        Raises the call's HostError if it is not retryable, or if the pauses add up to more than the
        patience. A pause that the host itself asks for does not count.
        """
        failures, patience_left_s = 0, self._patience_s
        while True:
            try:
                return self.once(call)
            except HostError as error:
                failures += 1
                pause_s = backoff_s(failures, error.wait_s)
                patience_left_s -= 0.0 if error.wait_s else pause_s
                if not error.failure.kind.retryable or patience_left_s < 0:
                    raise
                with self._lock:
                    self._next_call_at = max(self._next_call_at, self._clock() + pause_s)
                if self._on_pause is not None:
                    self._on_pause(pause_s, error)

    def once(self, call: Callable[[], _Answer]) -> _Answer:
        """Wait for this call's turn, and return its result.

        Raises its HostError without a retry.
        """
        self._wait_for_turn()
        return call()

    def _wait_for_turn(self) -> None:
        while True:
            with self._lock:
                now = self._clock()
                pause_s = self._next_call_at - now
                if pause_s <= 0:
                    if self._interval_s:
                        self._next_call_at = max(self._next_call_at, now) + self._interval_s
                    return
            self._sleep(pause_s)
