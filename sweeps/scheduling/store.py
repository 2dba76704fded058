"""Schedules and their nights in a database: SQLite below `.sweep/`, or the database that keeps the studies.

Whoever runs a night holds the schedule's lease and renews it. Claiming is one transaction, which only one process can
win; a lease that ran out says that its holder is gone. Leases compare the clocks of the machines, so these must agree
to well within `LEASE_S`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    create_engine,
    delete,
    event,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from sweeps.errors import Problem, SweepError, UserInputError, suggestion
from sweeps.scheduling.calendar import Due, due
from sweeps.scheduling.schedule import Night, NightState, Schedule
from sweeps.workspace import Workspace

LEASE_S = 120.0
"""A night whose process has not been heard of for so long is lost, and may be taken up by another daemon."""

PAID_S = 62 * 86400.0
"""So long the nights of a removed schedule are kept that cost something: this month and the one before it."""

_TABLES = MetaData()
_SCHEDULES = Table(
    "finesweep_schedules",
    _TABLES,
    Column("name", String(100), primary_key=True),
    Column("content", Text, nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("held_by", String(64)),
    Column("held_until", Float(53)),
)
_NIGHTS = Table(
    "finesweep_nights",
    _TABLES,
    Column("id", Integer, primary_key=True),
    Column("schedule", String(100), nullable=False, index=True),
    Column("planned_at", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("manual", Boolean, nullable=False),
    Column("state", String(20), nullable=False),
    Column("content", Text, nullable=False),
    Column("telling_until", Float(53)),
    UniqueConstraint("schedule", "planned_at", "attempt"),
)
"""`telling_until`: people are still to be told how the night ended, and until then it is somebody's who said so."""


class StorageAwayError(SweepError):
    """The database cannot be reached now; the same call may succeed later."""


@dataclass(frozen=True)
class Claim:
    """A night that this process may run, and by what name it holds the schedule."""

    night: Night
    holder: str


class Schedules:
    """The schedules of one storage. Each method is one transaction; it raises StorageAwayError where that fails."""

    def __init__(self, engine: Engine, where: str) -> None:
        self._engine, self._where = engine, where
        with self._transaction() as connection:
            _TABLES.create_all(connection)
            if "telling_until" not in {
                get_column["name"] for get_column in inspect(connection).get_columns(_NIGHTS.name)
            }:
                connection.execute(text(f"ALTER TABLE {_NIGHTS.name} ADD COLUMN telling_until FLOAT"))

    @classmethod
    def open(cls, workspace: Workspace, storage: str | None) -> Schedules:
        """Open the database at the URL `storage`, else the SQLite file of `workspace`. The tables are made where missing.

        Raises UserInputError for a URL that is none, and StorageAwayError.
        """
        if storage is None:
            workspace.root.mkdir(parents=True, exist_ok=True)
        try:
            url = make_url(storage if storage is not None else f"sqlite:///{_file(workspace)}")
            engine = create_engine(url, pool_pre_ping=True)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            message = f"is no database URL that can be opened ({type(error).__name__})"
            hint = "such as postgresql+psycopg://user:password@host/database, with its driver installed"
            raise UserInputError([Problem("SWEEP_STORAGE", message, hint)]) from None
        if engine.dialect.name == "sqlite":
            _take_turns(engine)
        where = "the database of SWEEP_STORAGE" if storage is not None else str(_file(workspace))
        for attempt in (1, 2):
            try:
                return cls(engine, where)
            except (StorageAwayError, IntegrityError) as error:  # another process made the tables at the same moment
                if attempt == 2:
                    raise StorageAwayError(
                        f"{where} cannot be opened: {error}", "check that it may be written"
                    ) from None
        raise AssertionError

    def close(self) -> None:
        """Let the connections go."""
        self._engine.dispose()

    def add(self, schedule: Schedule) -> Schedule:
        """Keep a new schedule, and return it. Raises UserInputError where the name is taken."""
        row = {"name": schedule.name, "content": json.dumps(schedule.to_json()), "paused": schedule.paused}
        try:
            with self._transaction() as connection:
                connection.execute(insert(_SCHEDULES).values(row))
        except IntegrityError:
            hint = "--replace changes it and keeps its nights; --name makes another one"
            raise UserInputError([Problem(schedule.name, "there is a schedule of this name", hint)]) from None
        return schedule

    def replace(self, schedule: Schedule) -> Schedule:
        """Give the schedule of this name other times and options, and keep its nights and whether it is paused.

        Where its times stay as they are, a planned night is not lost by it. Raises UserInputError where there is none.
        """
        old = self.get(schedule.name)
        same = (old.cron, old.tz) == (schedule.cron, schedule.tz)
        changed = replace(schedule, paused=old.paused, created_at=old.created_at if same else schedule.created_at)
        with self._transaction() as connection:
            chosen = update(_SCHEDULES).where(_SCHEDULES.c.name == schedule.name)
            connection.execute(chosen.values(content=json.dumps(changed.to_json())))
        return changed

    def all(self) -> list[Schedule]:
        """Return every schedule, by name."""
        with self._transaction() as connection:
            return [_schedule(each) for each in connection.execute(select(_SCHEDULES).order_by(_SCHEDULES.c.name))]

    def get(self, name: str) -> Schedule:
        """Return the schedule of this name. Raises UserInputError where there is none."""
        known = {each.name: each for each in self.all()}
        if name not in known:
            hint = suggestion(name, known) or "`sweep schedule add FILE --cron ...` makes one"
            raise UserInputError([Problem(name, "there is no such schedule", hint)])
        return known[name]

    def pause(self, name: str, paused: bool, now: datetime) -> Schedule:
        """Stop or start planning. What fell into a pause is not made up for: nights count from the resumption."""
        schedule = self.get(name)
        changed = replace(schedule, paused=paused, created_at=schedule.created_at if paused else now.timestamp())
        with self._transaction() as connection:
            chosen = update(_SCHEDULES).where(_SCHEDULES.c.name == name)
            connection.execute(chosen.values(paused=paused, content=json.dumps(changed.to_json())))
        return changed

    def remove(self, name: str, now: datetime) -> None:
        """Delete a schedule and its history. Raises SweepError while a night of it runs.

        What nights have cost under a monthly limit stays: a schedule of the same name does not begin the month anew.
        """
        self.get(name)
        with self._transaction() as connection:
            free = (_SCHEDULES.c.held_by.is_(None)) | (_SCHEDULES.c.held_until < now.timestamp())
            gone = connection.execute(delete(_SCHEDULES).where(_SCHEDULES.c.name == name, free))
            if gone.rowcount == 1:
                recent = now.timestamp() - PAID_S
                for night in _nights(connection, name):
                    if night.found.get("money") is None or (night.started_at or 0.0) < recent:
                        _delete(connection, night)
                return
        raise SweepError(f"a night of `{name}` is running", "wait for it, or stop the scheduler, and remove it then")

    def nights(self, name: str) -> list[Night]:
        """Return the nights of a schedule in the order of their times."""
        with self._transaction() as connection:
            return _nights(connection, name)

    def mark_lost(self, name: str, now: datetime) -> list[Night]:
        """Mark nights whose holder is gone as lost, and let the schedule go; they are to be told.

        Each is returned to one caller only.
        """
        with self._transaction() as connection:
            gone = update(_SCHEDULES).where(_SCHEDULES.c.name == name, _SCHEDULES.c.held_until < now.timestamp())
            if connection.execute(gone.values(held_by=None, held_until=None)).rowcount != 1:
                return []
            return _mark_lost(connection, name, now)

    def mark_missed(self, name: str, now: datetime) -> list[Night]:
        """Write down the nights that were missed, as `claim_due` does too; they are to be told.

        Each is returned to one caller only.
        """
        holder = uuid.uuid4().hex
        with self._holding(name, holder, now) as (connection, schedule):
            if schedule is None:
                return []
            _release(connection, name, holder)
            return _mark_missed(connection, name, due(schedule, _nights(connection, name), now), now)

    def take_untold(self, name: str, now: datetime) -> list[Night]:
        """Return the ended nights that people have not been told of, in the order of their times.

        They are the caller's for `LEASE_S`, to tell and then to call `told`; if it dies on the way, they are returned
        to somebody else: no end is kept silent, and one may be told twice.
        """
        with self._transaction() as connection:
            waiting = update(_NIGHTS).where(_NIGHTS.c.schedule == name, _NIGHTS.c.telling_until < now.timestamp())
            taken = waiting.values(telling_until=now.timestamp() + LEASE_S).returning(_NIGHTS.c.content)
            nights = [Night.from_json(json.loads(each.content)) for each in connection.execute(taken)]
            return sorted(nights, key=lambda night: (night.planned_at, night.attempt))

    def told(self, nights: Sequence[Night]) -> None:
        """Store that people know of these ends. A night that is stored with another end is still to be told."""
        self._tell_at(nights, None)

    def tell_later(self, nights: Sequence[Night], at: float) -> None:
        """Store that it did not work, and is to be tried again at that time. As with `told`, only of these ends."""
        self._tell_at(nights, at)

    def _tell_at(self, nights: Sequence[Night], at: float | None) -> None:
        with self._transaction() as connection:
            for night in nights:
                same = _named(night) & (_NIGHTS.c.state == night.state.value)
                connection.execute(update(_NIGHTS).where(same).values(telling_until=at))

    def claim_due(self, name: str, holder: str, now: datetime) -> Claim | None:
        """Claim the night of a schedule that is due, and write down what was missed. None where none is, or another
        process was first, or holds the schedule. A night whose holder is gone is marked as lost on the way.
        """
        with self._holding(name, holder, now) as (connection, schedule):
            if schedule is None:
                return None
            found = due(schedule, _nights(connection, name), now)
            _mark_missed(connection, name, found, now)
            if found is None or found.planned_at is None:
                _release(connection, name, holder)
                return None
            night = Night(name, found.planned_at, found.attempt, started_at=now.timestamp())
            _insert(connection, night)
            return Claim(night, holder)

    def claim_now(self, name: str, holder: str, now: datetime) -> Claim | None:
        """Claim a night that somebody begins by hand. None where a night of the schedule runs."""
        self.get(name)
        with self._holding(name, holder, now) as (connection, schedule):
            if schedule is None:
                return None
            taken = {night.planned_at for night in _nights(connection, name)}
            moment = int(now.timestamp())
            while moment in taken:
                moment += 1
            night = Night(name, moment, manual=True, started_at=now.timestamp())
            _insert(connection, night)
            return Claim(night, holder)

    def claim_of(self, name: str, holder: str, now: datetime) -> Claim | None:
        """Return the claim that another process made for this one, renewed. None where somebody else has the night."""
        with self._transaction() as connection:
            mine = update(_SCHEDULES).where(_SCHEDULES.c.name == name, _SCHEDULES.c.held_by == holder)
            if connection.execute(mine.values(held_until=now.timestamp() + LEASE_S)).rowcount != 1:
                return None
            running = [night for night in _nights(connection, name) if night.state is NightState.RUNNING]
            return Claim(running[-1], holder) if running else None

    def renew(self, claim: Claim, now: datetime) -> bool:
        """Hold the schedule for another `LEASE_S`. False where somebody else has taken it: then the night must end."""
        with self._transaction() as connection:
            chosen = update(_SCHEDULES).where(
                _SCHEDULES.c.name == claim.night.schedule, _SCHEDULES.c.held_by == claim.holder
            )
            return connection.execute(chosen.values(held_until=now.timestamp() + LEASE_S)).rowcount == 1

    def finish(self, claim: Claim, night: Night) -> bool:
        """Store how a claimed night ended and let the schedule go. False, and nothing is stored, where it was lost.

        The caller has `LEASE_S` to tell people of it, as after `take_untold`.
        """
        with self._transaction() as connection:
            if _release(connection, night.schedule, claim.holder) == 0:
                return False
            _change(connection, night)
            _to_be_told(connection, night, (night.ended_at or 0.0) + LEASE_S)
            return True

    def note(self, claim: Claim, night: Night) -> None:
        """Store what is known of a night that runs, as long as it is this process's."""
        with self._transaction() as connection:
            if _change(connection, night, only=NightState.RUNNING) == 0:
                raise SweepError(f"the night {claim.night.label} was taken over by another scheduler")

    def amend(self, claim: Claim, nights: Sequence[Night]) -> None:
        """Store what became known later of earlier nights, as long as the schedule is this process's."""
        with self._transaction() as connection:
            mine = select(_SCHEDULES.c.name).where(
                _SCHEDULES.c.name == claim.night.schedule, _SCHEDULES.c.held_by == claim.holder
            )
            if connection.execute(mine).first() is not None:
                for night in nights:
                    _change(connection, night)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except (SQLAlchemyError, OSError) as error:
            # Without the error's own text: it may hold the password of the database.
            hint = "check that it runs and may be written"
            raise StorageAwayError(f"{self._where} cannot be reached: {type(error).__name__}", hint) from None

    @contextmanager
    def _holding(self, name: str, holder: str, now: datetime) -> Iterator[tuple[Connection, Schedule | None]]:
        """Take the lease within a transaction; without a schedule where another process has it or was quicker."""
        try:
            with self._transaction() as connection:
                free = (_SCHEDULES.c.held_by.is_(None)) | (_SCHEDULES.c.held_until < now.timestamp())
                taken = connection.execute(
                    update(_SCHEDULES)
                    .where(_SCHEDULES.c.name == name, free)
                    .values(held_by=holder, held_until=now.timestamp() + LEASE_S)
                )
                if taken.rowcount != 1:
                    yield connection, None
                    return
                _mark_lost(connection, name, now)
                row = connection.execute(select(_SCHEDULES).where(_SCHEDULES.c.name == name)).one()
                yield connection, _schedule(row)
        except IntegrityError as error:  # the lease keeps others out, so this is a night that was planned twice
            raise SweepError(f"a night of `{name}` is there already", "look at `sweep schedule history`") from error


def _file(workspace: Workspace) -> Path:
    return workspace.root / "schedules.db"


def _take_turns(engine: Engine) -> None:
    """Let SQLite's transactions begin as writers: two that read first could not both write afterwards."""

    @event.listens_for(engine, "connect")
    def _connected(connection, _record) -> None:  # type: ignore[no-untyped-def]
        connection.isolation_level = None  # pysqlite would begin by itself, and late
        connection.execute("PRAGMA busy_timeout = 30000")

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _schedule(row) -> Schedule:  # type: ignore[no-untyped-def]
    return replace(Schedule.from_json(json.loads(row.content)), paused=bool(row.paused))


def _nights(connection: Connection, name: str) -> list[Night]:
    chosen = select(_NIGHTS.c.content).where(_NIGHTS.c.schedule == name)
    rows = connection.execute(chosen.order_by(_NIGHTS.c.planned_at, _NIGHTS.c.attempt))
    return [Night.from_json(json.loads(row.content)) for row in rows]


def _mark_lost(connection: Connection, name: str, now: datetime) -> list[Night]:
    reason = "its process was not heard of any more"
    lost = [
        replace(night, state=NightState.LOST, ended_at=now.timestamp(), reason=reason)
        for night in _nights(connection, name)
        if night.state is NightState.RUNNING
    ]
    for each in lost:
        _change(connection, each)
        _to_be_told(connection, each, 0.0)
    return lost


def _mark_missed(connection: Connection, name: str, found: Due | None, now: datetime) -> list[Night]:
    reason = "not begun in time: no scheduler ran, or an earlier night still did"
    missed = [
        Night(name, each, state=NightState.MISSED, ended_at=now.timestamp(), reason=reason)
        for each in (found.missed if found else ())
    ]
    for each in missed:
        _insert(connection, each)
        _to_be_told(connection, each, 0.0)
    return missed


def _to_be_told(connection: Connection, night: Night, until: float) -> None:
    connection.execute(update(_NIGHTS).where(_named(night)).values(telling_until=until))


def _named(night: Night) -> ColumnElement[bool]:
    columns = _NIGHTS.c
    return and_(
        columns.schedule == night.schedule,
        columns.planned_at == night.planned_at,
        columns.attempt == night.attempt,
    )


def _delete(connection: Connection, night: Night) -> None:
    connection.execute(delete(_NIGHTS).where(_named(night)))


def _insert(connection: Connection, night: Night) -> None:
    row = {"schedule": night.schedule, "planned_at": night.planned_at, "attempt": night.attempt, "manual": night.manual}
    connection.execute(
        insert(_NIGHTS).values(**row, state=night.state.value, content=json.dumps(night.to_json(), default=str))
    )


def _change(connection: Connection, night: Night, only: NightState | None = None) -> int:
    chosen = update(_NIGHTS).where(_named(night))
    if only is not None:
        chosen = chosen.where(_NIGHTS.c.state == only.value)
    content = json.dumps(night.to_json(), default=str)
    return connection.execute(chosen.values(state=night.state.value, content=content)).rowcount


def _release(connection: Connection, name: str, holder: str) -> int:
    chosen = update(_SCHEDULES).where(_SCHEDULES.c.name == name, _SCHEDULES.c.held_by == holder)
    return connection.execute(chosen.values(held_by=None, held_until=None)).rowcount
