"""Leases: exactly one process runs a night.

The process that runs a night holds the schedule's lease and renews it. Claiming a night is one
transaction that only one process can win. An expired lease means that its holder is gone. Leases
compare the clocks of different machines, so the clocks must agree to well within `LEASE_S`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, or_, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from sweeps.errors import SweepError
from sweeps.scheduling import rows
from sweeps.scheduling.calendar import due_night
from sweeps.scheduling.database import SCHEDULES, Database
from sweeps.scheduling.night import Night, NightState
from sweeps.scheduling.schedule import Schedule

LEASE_S = 120.0
"""How long a lease is valid without renewal. Then the night is lost, and another scheduler may make
another attempt."""


@dataclass(frozen=True)
class Claim:
    """The right of one process to run a night. `holder` is its name for the lease."""

    night: Night
    holder: str


class Claims:
    """The claims on the nights of all schedules.

    Each method is one transaction and raises DatabaseUnavailableError if the database cannot be
    reached.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim_due(self, schedule: str, holder: str, now: datetime) -> Claim | None:
        """Claim the night of a schedule that is due, and record missed nights.

        Returns None if no night is due or another process holds the lease. If the holder of a
        running night is gone, that night is recorded as lost.
        """
        with self._leased(schedule, holder, now) as (connection, leased):
            if leased is None:
                return None
            due = due_night(leased, rows.nights_of(connection, schedule), now)
            rows.mark_missed(connection, schedule, due, now)
            if due is None or due.planned_at is None:
                _release(connection, schedule, holder)
                return None
            night = Night(schedule, due.planned_at, due.attempt, started_at=now.timestamp())
            rows.insert_night(connection, night)
            return Claim(night, holder)

    def claim_now(self, schedule: str, holder: str, now: datetime) -> Claim | None:
        """Claim a night that a user starts by hand, planned or not.

        Returns None if a night of the schedule is running. Raises UserInputError if there is no
        such schedule.
        """
        with self._database.transaction() as connection:
            rows.get_schedule(connection, schedule)
        with self._leased(schedule, holder, now) as (connection, leased):
            if leased is None:
                return None
            taken = {night.planned_at for night in rows.nights_of(connection, schedule)}
            planned_at = int(now.timestamp())
            while planned_at in taken:
                planned_at += 1
            night = Night(schedule, planned_at, manual=True, started_at=now.timestamp())
            rows.insert_night(connection, night)
            return Claim(night, holder)

    def take_over(self, schedule: str, holder: str, now: datetime) -> Claim | None:
        """Return the claim that the scheduler made for this process, and renew its lease.

        The scheduler made it under the name `holder`. Returns None if the lease has another holder.
        """
        with self._database.transaction() as connection:
            if not _renew(connection, schedule, holder, now):
                return None
            running = [night for night in rows.nights_of(connection, schedule) if night.state is NightState.RUNNING]
            return Claim(running[-1], holder) if running else None

    def renew(self, claim: Claim, now: datetime) -> bool:
        """Renew the lease for another `LEASE_S`.

        Returns False if another process holds it; then this process must end the night.
        """
        with self._database.transaction() as connection:
            return _renew(connection, claim.night.schedule, claim.holder, now)

    def finish(self, claim: Claim, night: Night) -> bool:
        """Store the outcome of a claimed night and release the lease.

        The caller has `LEASE_S` to notify people, as after `NotificationQueue.take`. Returns False,
        and stores nothing, if another process has taken the lease.
        """
        with self._database.transaction() as connection:
            if not _release(connection, night.schedule, claim.holder):
                return False
            rows.update_night(connection, night)
            rows.request_notification(connection, night, (night.ended_at or 0.0) + LEASE_S)
            return True

    def store_progress(self, claim: Claim, night: Night) -> None:
        """Store what is known of a running night.

        Raises SweepError if another scheduler has taken it over.
        """
        with self._database.transaction() as connection:
            if not rows.update_night(connection, night, only_in=NightState.RUNNING):
                raise SweepError(f"another scheduler took over the night {claim.night.label}")

    def update_earlier(self, claim: Claim, nights: Sequence[Night]) -> None:
        """Store what became known of earlier nights, if this process still holds the lease."""
        with self._database.transaction() as connection:
            held = select(SCHEDULES.c.name).where(_is_held(claim.night.schedule, claim.holder))
            if connection.execute(held).first() is not None:
                for night in nights:
                    rows.update_night(connection, night)

    def mark_lost(self, schedule: str, now: datetime) -> list[Night]:
        """Release an expired lease, record its nights as lost, and request their notification.

        Each lost night is returned to one caller only.
        """
        with self._database.transaction() as connection:
            expired = and_(SCHEDULES.c.name == schedule, SCHEDULES.c.lease_expires_at < now.timestamp())
            released = update(SCHEDULES).where(expired).values(lease_holder=None, lease_expires_at=None)
            if connection.execute(released).rowcount != 1:
                return []
            return rows.mark_lost(connection, schedule, now)

    def mark_missed(self, schedule: str, now: datetime) -> list[Night]:
        """Record missed nights, as `claim_due` does, and request their notification.

        Each missed night is returned to one caller only.
        """
        holder = uuid.uuid4().hex
        with self._leased(schedule, holder, now) as (connection, leased):
            if leased is None:
                return []
            _release(connection, schedule, holder)
            due = due_night(leased, rows.nights_of(connection, schedule), now)
            return rows.mark_missed(connection, schedule, due, now)

    @contextmanager
    def _leased(self, schedule: str, holder: str, now: datetime) -> Iterator[tuple[Connection, Schedule | None]]:
        """Take the lease within a transaction.

        Yields None instead of the schedule if another process holds the lease.
        """
        try:
            with self._database.transaction() as connection:
                free = and_(SCHEDULES.c.name == schedule, is_free(now))
                values = {"lease_holder": holder, "lease_expires_at": now.timestamp() + LEASE_S}
                if connection.execute(update(SCHEDULES).where(free).values(**values)).rowcount != 1:
                    yield connection, None
                    return
                rows.mark_lost(connection, schedule, now)
                yield connection, rows.get_schedule(connection, schedule)
        # the lease excludes other processes, so the same night was planned twice
        except IntegrityError as error:
            hint = "Look at sweep schedule history."
            raise SweepError(f"this night of `{schedule}` exists already", hint) from error


def is_free(now: datetime) -> ColumnElement[bool]:
    """Return the condition for schedules whose lease nobody holds, or has expired."""
    return or_(SCHEDULES.c.lease_holder.is_(None), SCHEDULES.c.lease_expires_at < now.timestamp())


def _is_held(schedule: str, holder: str) -> ColumnElement[bool]:
    return and_(SCHEDULES.c.name == schedule, SCHEDULES.c.lease_holder == holder)


def _renew(connection: Connection, schedule: str, holder: str, now: datetime) -> bool:
    lease = update(SCHEDULES).where(_is_held(schedule, holder))
    return connection.execute(lease.values(lease_expires_at=now.timestamp() + LEASE_S)).rowcount == 1


def _release(connection: Connection, schedule: str, holder: str) -> bool:
    lease = update(SCHEDULES).where(_is_held(schedule, holder))
    return connection.execute(lease.values(lease_holder=None, lease_expires_at=None)).rowcount == 1
