"""The budget of one measurement: requests reserve the most that they can cost before they leave."""

from __future__ import annotations

import threading

from backends.metrics.failures import user_error


class Spending:
    """What a measurement has spent, in USD. Threads share it. `limit` None: no limit."""

    def __init__(self, spent: float, limit: float | None) -> None:
        self._spent, self._limit = spent, limit
        self._reserved = 0.0
        self._changed = threading.Condition()

    def reserve(self, usd: float) -> None:
        """Hold back the most that a request can cost.

        Waits while open requests might leave enough. Raises BackendError (user) if the limit does
        not allow the request.
        """
        with self._changed:
            while self._limit is not None and self._spent + self._reserved + usd > self._limit:
                if self._reserved == 0.0:
                    raise user_error(
                        f"max_usd is {self._limit:g}, this measurement has cost {self._spent:.4f} USD, and the next "
                        f"request can cost {usd:.4f} USD",
                        "Raise max_usd: the answers so far are kept and cost nothing again.",
                    )
                self._changed.wait(0.5)
            self._reserved += usd

    def settle(self, reserved: float, spent: float) -> None:
        """Replace a reservation by what the request has cost."""
        with self._changed:
            self._reserved = max(0.0, self._reserved - reserved)
            if self._reserved < 1e-12:
                self._reserved = 0.0
            self._spent += spent
            self._changed.notify_all()
