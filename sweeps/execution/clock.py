"""The clock of a run: shows the time of day, and never jumps."""

from __future__ import annotations

import time
from collections.abc import Callable


def steady_clock(
    wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
) -> Callable[[], float]:
    """Return a clock in seconds since the Unix epoch.

    It reads the system's time of day once, now, and then adds the seconds that have passed. If
    somebody sets the system's clock during a run, neither limits nor durations change. Time that
    the machine spends suspended does not count.
    """
    offset = wall() - monotonic()
    return lambda: offset + monotonic()
