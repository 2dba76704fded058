"""The stored schedules, with their nights, claims and pending notifications."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError

from sweeps.errors import Problem, SweepError, UserInputError
from sweeps.scheduling import rows
from sweeps.scheduling.claims import Claims, is_free
from sweeps.scheduling.database import SCHEDULES, Database
from sweeps.scheduling.night import Night
from sweeps.scheduling.notification_queue import NotificationQueue
from sweeps.scheduling.schedule import Schedule
from sweeps.workspace import Workspace

COST_RETENTION_S = 62 * 86400.0
"""How long the paid nights of a removed schedule are kept: this month and the one before."""


class ScheduleStore:
    """Stores schedules and their nights.

    `claims` has the leases of the nights that run, `notifications` the queue of pending
    notifications. Each method is one transaction, or two, and raises DatabaseUnavailableError if
    the database cannot be reached.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.claims = Claims(database)
        self.notifications = NotificationQueue(database)

    @classmethod
    def open(cls, workspace: Workspace, url: str | None) -> ScheduleStore:
        """Open the database at `url`, or the SQLite file of the workspace; see `Database.open`."""
        return cls(Database.open(workspace, url))

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    def add(self, schedule: Schedule) -> Schedule:
        """Store a new schedule, and return it. Raises UserInputError if the name is taken."""
        try:
            with self._database.transaction() as connection:
                rows.insert_schedule(connection, schedule)
        except IntegrityError:
            hint = "Use --replace to change it and keep its nights, or --name to choose another name."
            raise UserInputError([Problem(schedule.name, "a schedule of this name exists", hint)]) from None
        return schedule

    def replace(self, schedule: Schedule) -> Schedule:
        """Change the times and options of the schedule of this name, and return the result.

        The schedule keeps its nights and stays paused if it was. If its times do not change, a
        planned night is not lost. Raises UserInputError if there is no such schedule.
        """
        old = self.get(schedule.name)
        same_times = (old.cron, old.tz) == (schedule.cron, schedule.tz)
        created_at = old.created_at if same_times else schedule.created_at
        changed = replace(schedule, paused=old.paused, created_at=created_at)
        with self._database.transaction() as connection:
            rows.update_schedule(connection, changed)
        return changed

    def all(self) -> list[Schedule]:
        """Return every schedule, in the order of the names."""
        with self._database.transaction() as connection:
            return rows.all_schedules(connection)

    def get(self, name: str) -> Schedule:
        """Return the schedule of this name. Raises UserInputError if there is none."""
        with self._database.transaction() as connection:
            return rows.get_schedule(connection, name)

    def set_paused(self, name: str, paused: bool, now: datetime) -> Schedule:
        """Pause or resume a schedule, and return it.

        Nights are planned from the resumption on; those that fell into the pause are skipped.
        Raises UserInputError if there is no such schedule.
        """
        schedule = self.get(name)
        created_at = schedule.created_at if paused else now.timestamp()
        changed = replace(schedule, paused=paused, created_at=created_at)
        with self._database.transaction() as connection:
            rows.update_schedule(connection, changed, paused=paused)
        return changed

    def remove(self, name: str, now: datetime) -> None:
        """Delete a schedule and its nights.

        Recent nights that cost money under a monthly limit stay, so that a new schedule of the same
        name does not start the month afresh. Raises UserInputError if there is no such schedule,
        and SweepError while one of its nights runs.
        """
        self.get(name)
        with self._database.transaction() as connection:
            removed = connection.execute(delete(SCHEDULES).where(SCHEDULES.c.name == name, is_free(now)))
            if removed.rowcount == 1:
                recent = now.timestamp() - COST_RETENTION_S
                for night in rows.nights_of(connection, name):
                    if night.results.get("money") is None or (night.started_at or 0.0) < recent:
                        rows.delete_night(connection, night)
                return
        raise SweepError(f"a night of `{name}` is running", "Wait for it or stop the scheduler, then remove it.")

    def nights(self, name: str) -> list[Night]:
        """Return the nights of a schedule in the order of their times."""
        with self._database.transaction() as connection:
            return rows.nights_of(connection, name)
