"""Renews the lease of the night that this process runs, and stops the night without it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from sweeps.scheduling.claims import LEASE_S, Claim, Claims
from sweeps.scheduling.database import DatabaseUnavailableError

RENEWAL_INTERVAL_S = LEASE_S / 6


class Heartbeat:
    """Renews the lease on a thread.

    If another process took the lease, or no renewal succeeded for as long as the lease is valid, it
    calls `stop_night`, which sends SIGINT to this process. The sweep then stops cleanly before
    another scheduler can make another attempt at the night. `lost` says why; it is empty otherwise.
    """

    def __init__(
        self,
        claims: Claims,
        claim: Claim,
        interval_s: float = RENEWAL_INTERVAL_S,
        lease_s: float = LEASE_S,
        stop_night: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGINT),
    ) -> None:
        self._claims, self._claim = claims, claim
        self._interval_s, self._lease_s, self._stop_night = interval_s, lease_s, stop_night
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew_repeatedly, name="lease", daemon=True)
        self.lost = ""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _renew_repeatedly(self) -> None:
        renewed_at = time.monotonic()
        while not self._stop.wait(self._interval_s):
            try:
                if self._claims.renew(self._claim, datetime.now(UTC)):
                    renewed_at = time.monotonic()
                    continue
                self.lost = "another scheduler took over the night"
            except DatabaseUnavailableError as error:
                if time.monotonic() - renewed_at < self._lease_s - self._interval_s:
                    continue
                self.lost = f"{error.message}, for longer than the lease of the night"
            self._stop_night()
            return
