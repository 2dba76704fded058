"""Nothing waits in silence: after a while without news, the screen says what is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable

QUIET_S = 30.0
"""The first message comes after this long without news, the next ones after twice as long each."""

MAX_QUIET_S = 900.0


class SilenceWatch:
    """Calls `say` when there has been no news for a while. `clock` is monotonic, in seconds."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._quiet_s = QUIET_S
        self._news_at = clock()

    def news(self) -> None:
        """Take note that the user has just heard something."""
        self._news_at = self._clock()
        self._quiet_s = QUIET_S

    def look(self, reason: Callable[[], str]) -> None:
        """Say what the sweep waits for, if it is time to. `reason` says it in words."""
        silent_s = self._clock() - self._news_at
        if silent_s >= self._quiet_s:
            self._quiet_s = min(self._quiet_s * 2, self._quiet_s + MAX_QUIET_S)
            self._say(f"no news for {silent_s:.0f} s: {reason()}")
