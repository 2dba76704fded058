"""Keeps the lease of a night that this process runs, and ends the night where somebody else has taken it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from sweeps.scheduling.store import LEASE_S, Claim, Schedules, StorageAwayError

BEAT_S = LEASE_S / 6


class Heartbeat:
    """Renews the lease on a thread. Where it was taken, or could not be renewed for as long as it lasts, the process
    gets SIGINT: the sweep ends in order, before another daemon can take up the same night.
    """

    def __init__(
        self,
        schedules: Schedules,
        claim: Claim,
        beat_s: float = BEAT_S,
        lease_s: float = LEASE_S,
        end: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGINT),
    ) -> None:
        self._schedules, self._claim = schedules, claim
        self._beat_s, self._lease_s, self._end = beat_s, lease_s, end
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self.lost = ""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        renewed = time.monotonic()
        while not self._stop.wait(self._beat_s):
            try:
                if self._schedules.renew(self._claim, datetime.now(UTC)):
                    renewed = time.monotonic()
                    continue
                self.lost = "another scheduler took the night over"
            except StorageAwayError as away:
                if time.monotonic() - renewed < self._lease_s - self._beat_s:
                    continue
                self.lost = f"{away.message}, for as long as the night may go on without it"
            self._end()
            return
