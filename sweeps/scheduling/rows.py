"""Read and write schedules and nights within a transaction. No function here commits."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime

from sqlalchemy import ColumnElement, and_, delete, insert, select, update
from sqlalchemy.engine import Connection, Row

from backends import codec
from sweeps.errors import Problem, UserInputError, suggestion
from sweeps.scheduling.calendar import DueNight
from sweeps.scheduling.database import NIGHTS, SCHEDULES
from sweeps.scheduling.night import Night, NightState
from sweeps.scheduling.schedule import Schedule


def all_schedules(connection: Connection) -> list[Schedule]:
    """Return every schedule, in the order of the names."""
    return [_schedule(row) for row in connection.execute(select(SCHEDULES).order_by(SCHEDULES.c.name))]


def get_schedule(connection: Connection, name: str) -> Schedule:
    """Return the schedule of this name. Raises UserInputError if there is none."""
    known = {schedule.name: schedule for schedule in all_schedules(connection)}
    if name not in known:
        hint = suggestion(name, known) or "Add one: sweep schedule add FILE --cron ..."
        raise UserInputError([Problem(name, "no such schedule", hint)])
    return known[name]


def insert_schedule(connection: Connection, schedule: Schedule) -> None:
    """Add the row of a schedule. Raises IntegrityError if the name is taken."""
    connection.execute(
        insert(SCHEDULES).values(name=schedule.name, content=_schedule_json(schedule), paused=schedule.paused)
    )


def update_schedule(connection: Connection, schedule: Schedule, *, paused: bool | None = None) -> None:
    """Overwrite the content of a schedule's row, and with `paused` also whether it is paused.

    Its lease stays as it is.
    """
    values = {"content": _schedule_json(schedule)} | ({} if paused is None else {"paused": paused})
    connection.execute(update(SCHEDULES).where(SCHEDULES.c.name == schedule.name).values(**values))


def nights_of(connection: Connection, schedule: str) -> list[Night]:
    """Return the nights of a schedule in the order of their times."""
    chosen = select(NIGHTS.c.content).where(NIGHTS.c.schedule == schedule)
    rows = connection.execute(chosen.order_by(NIGHTS.c.planned_at, NIGHTS.c.attempt))
    return [night_from(row) for row in rows]


def night_from(row: Row[tuple[str]]) -> Night:
    """Return the night of a row with the column `content`."""
    return codec.from_json(Night, json.loads(row.content))


def is_night(night: Night) -> ColumnElement[bool]:
    """Return the condition for the row of this night."""
    columns = NIGHTS.c
    return and_(
        columns.schedule == night.schedule,
        columns.planned_at == night.planned_at,
        columns.attempt == night.attempt,
    )


def insert_night(connection: Connection, night: Night) -> None:
    """Add the row of a night. Raises IntegrityError if it exists."""
    connection.execute(
        insert(NIGHTS).values(
            schedule=night.schedule,
            planned_at=night.planned_at,
            attempt=night.attempt,
            manual=night.manual,
            state=night.state.value,
            content=_night_json(night),
        )
    )


def update_night(connection: Connection, night: Night, only_in: NightState | None = None) -> bool:
    """Overwrite the row of a night, if its stored state is `only_in`. Return whether it was."""
    row = update(NIGHTS).where(is_night(night))
    if only_in is not None:
        row = row.where(NIGHTS.c.state == only_in.value)
    return connection.execute(row.values(state=night.state.value, content=_night_json(night))).rowcount > 0


def delete_night(connection: Connection, night: Night) -> None:
    """Delete the row of a night."""
    connection.execute(delete(NIGHTS).where(is_night(night)))


def request_notification(connection: Connection, night: Night, reserved_until: float = 0.0) -> None:
    """Record that people are yet to be notified of this night's end.

    Until `reserved_until`, in seconds since the Unix epoch, only the current process notifies them.
    """
    connection.execute(update(NIGHTS).where(is_night(night)).values(notification_reserved_until=reserved_until))


def mark_lost(connection: Connection, schedule: str, now: datetime) -> list[Night]:
    """Store the running nights of a schedule as lost, request their notification, return them."""
    reason = "its process stopped renewing the lease"
    lost = [
        replace(night, state=NightState.LOST, ended_at=now.timestamp(), reason=reason)
        for night in nights_of(connection, schedule)
        if night.state is NightState.RUNNING
    ]
    for night in lost:
        update_night(connection, night)
        request_notification(connection, night)
    return lost


def mark_missed(connection: Connection, schedule: str, due: DueNight | None, now: datetime) -> list[Night]:
    """Store the missed nights of `due`, request their notification, and return them."""
    reason = "did not start in time: no scheduler ran, or an earlier night was still running"
    missed = [
        Night(schedule, planned_at, state=NightState.MISSED, ended_at=now.timestamp(), reason=reason)
        for planned_at in (due.missed if due else ())
    ]
    for night in missed:
        insert_night(connection, night)
        request_notification(connection, night)
    return missed


def _schedule(row: Row[tuple[object, ...]]) -> Schedule:
    return replace(codec.from_json(Schedule, json.loads(row.content)), paused=bool(row.paused))


def _schedule_json(schedule: Schedule) -> str:
    return json.dumps(codec.to_json(schedule))


def _night_json(night: Night) -> str:
    return json.dumps(codec.to_json(night))
