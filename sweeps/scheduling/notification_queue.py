"""The ended nights of which people are yet to be notified."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import and_, update

from sweeps.scheduling import rows
from sweeps.scheduling.claims import LEASE_S
from sweeps.scheduling.database import NIGHTS, Database
from sweeps.scheduling.night import Night


class NotificationQueue:
    """The queue. Every night's end is delivered at least once.

    If a process dies between delivery and confirmation, another process delivers again. Each method
    is one transaction and raises DatabaseUnavailableError if the database cannot be reached.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, schedule: str, now: datetime) -> list[Night]:
        """Return the nights that are due for a notification, in the order of their times.

        The caller has `LEASE_S` to notify people and to call `confirm`. If it dies before that, a
        later call returns the same nights.
        """
        with self._database.transaction() as connection:
            pending = update(NIGHTS).where(
                NIGHTS.c.schedule == schedule, NIGHTS.c.notification_reserved_until < now.timestamp()
            )
            taken = pending.values(notification_reserved_until=now.timestamp() + LEASE_S).returning(NIGHTS.c.content)
            nights = [rows.night_from(row) for row in connection.execute(taken)]
            return sorted(nights, key=lambda night: night.key)

    def confirm(self, nights: Sequence[Night]) -> None:
        """Record that people know how these nights ended.

        A night that is stored with another state stays in the queue.
        """
        self._reserve(nights, None)

    def retry_at(self, nights: Sequence[Night], at: float) -> None:
        """Record that the delivery failed and is due again `at`, in seconds since the Unix epoch.

        A night that is stored with another state stays as it is.
        """
        self._reserve(nights, at)

    def _reserve(self, nights: Sequence[Night], until: float | None) -> None:
        with self._database.transaction() as connection:
            for night in nights:
                same_end = and_(rows.is_night(night), NIGHTS.c.state == night.state.value)
                connection.execute(update(NIGHTS).where(same_end).values(notification_reserved_until=until))
