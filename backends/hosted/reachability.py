"""Asking a host while a person waits: few attempts, seconds instead of hours, and no silence.

During trials a host may be away for an hour (see `rate_limiter` and `run_lifecycle`). Before a
sweep starts, an address that nobody answers at is most likely a mistake.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from backends.contract import Failure, FailureKind
from backends.hosted.failures import HostError
from backends.notices import notice

ATTEMPTS = 5
CONNECT_TIMEOUT_S = 3.0
ATTEMPT_S = 8.0
"""The longest attempt, name resolution included, which has no time limit of its own."""
LAST_ATTEMPT_BEFORE_S = 12.0
"""No attempt begins later than this. So the answer comes within about 20 s."""
ANNOUNCED_AFTER_S = 2.0
PAUSE_S = 0.25
"""The pause after the first attempt; each further one is longer by as much."""

_Answer = TypeVar("_Answer")


def ask(
    call: Callable[[], _Answer],
    address: str,
    sleep: Callable[[float], None],
    last_attempt_before_s: float = LAST_ATTEMPT_BEFORE_S,
) -> _Answer:
    """Return the result of the call; repeat it after a failure that may pass soon.

    Tells the person who waits why it takes long. Raises the HostError of the last attempt, at once
    if a repetition cannot help or the host asks for a longer pause than a person waits. The answer
    comes within `last_attempt_before_s` and `ATTEMPT_S`.
    """
    began = time.monotonic()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _within_time(call, address, attempt)
        except HostError as error:
            reason = error.failure.message
            pause_s = max(PAUSE_S * attempt, error.wait_s or 0.0)
            waited_s = time.monotonic() - began
            may_pass = error.failure.kind.retryable and not error.permanent
            if not may_pass or attempt == ATTEMPTS or waited_s + pause_s > last_attempt_before_s:
                raise
        if pause_s > ANNOUNCED_AFTER_S:
            notice(f"waiting {pause_s:.0f} s for {address}: {reason}")
        sleep(pause_s)
    raise AssertionError("the last attempt returns or raises")


def _within_time(call: Callable[[], _Answer], address: str, attempt: int) -> _Answer:
    """Return the result of the call. Its thread may outlive an attempt that takes too long."""
    answers: list[_Answer] = []
    errors: list[HostError] = []
    ended = threading.Event()

    def run() -> None:
        try:
            answers.append(call())
        except HostError as error:
            errors.append(error)
        finally:
            ended.set()

    threading.Thread(target=run, name="hosted-reachability", daemon=True).start()
    if not ended.wait(ANNOUNCED_AFTER_S):
        notice(f"waiting for {address} (attempt {attempt} of {ATTEMPTS})")
        if not ended.wait(ATTEMPT_S - ANNOUNCED_AFTER_S):
            message = f"{address} did not answer within {ATTEMPT_S:g} s"
            failure = Failure(FailureKind.TRANSIENT, message, "Check the address and the network.")
            raise HostError(failure, ambiguous=True, wait_s=None, status=None)
    if errors:
        raise errors[0]
    return answers[0]
