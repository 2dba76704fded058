"""The database of schedules and nights: its tables, its connection, its transactions.

It is a SQLite file in the workspace, or the database that also stores the studies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    inspect,
    text,
)
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from sweeps.errors import Problem, SweepError, UserInputError
from sweeps.study.storage_url import connect_arguments
from sweeps.workspace import Workspace

_TABLES = MetaData()
SCHEDULES = Table(
    "finesweep_schedules",
    _TABLES,
    Column("name", String(100), primary_key=True),
    Column("content", Text, nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("held_by", String(64), key="lease_holder"),
    Column("held_until", Float(53), key="lease_expires_at"),
)
"""One row per schedule. `content` is its JSON value. `lease_holder` is the process that runs its
night, until `lease_expires_at` in seconds since the Unix epoch; both are null while no night runs.
The column names in the database, `held_by` and `held_until`, are those of version 0.1."""

NIGHTS = Table(
    "finesweep_nights",
    _TABLES,
    Column("id", Integer, primary_key=True),
    Column("schedule", String(100), nullable=False, index=True),
    Column("planned_at", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("manual", Boolean, nullable=False),
    Column("state", String(20), nullable=False),
    Column("content", Text, nullable=False),
    Column("telling_until", Float(53), key="notification_reserved_until"),
    UniqueConstraint("schedule", "planned_at", "attempt"),
)
"""One row per night.

`content` is its JSON value. `notification_reserved_until` is null unless people are yet to be
notified of the night's end. Until that time, in seconds since the Unix epoch, one process has
reserved the notification. Its column name in the database, `telling_until`, is that of version 0.1.
"""


class DatabaseUnavailableError(SweepError):
    """The database cannot be reached now. The same call may succeed later."""


class Database:
    """A connection to the database. `name` stands for it in messages."""

    def __init__(self, engine: Engine, name: str) -> None:
        """Create missing tables and columns. Raises DatabaseUnavailableError."""
        self._engine, self._name = engine, name
        with self.transaction() as connection:
            _TABLES.create_all(connection)
            column_names = {column["name"] for column in inspect(connection).get_columns(NIGHTS.name)}
            if "telling_until" not in column_names:
                connection.execute(text(f"ALTER TABLE {NIGHTS.name} ADD COLUMN telling_until FLOAT"))

    @classmethod
    def open(cls, workspace: Workspace, url: str | None) -> Database:
        """Open the database at `url`, or the SQLite file of the workspace if `url` is None.

        Creates missing tables. Raises UserInputError if `url` is not a valid database URL, and
        DatabaseUnavailableError.
        """
        if url is None:
            workspace.root.mkdir(parents=True, exist_ok=True)
        try:
            engine = create_engine(
                make_url(url if url is not None else f"sqlite:///{_sqlite_file(workspace)}"),
                pool_pre_ping=True,
                connect_args=connect_arguments(url) if url is not None else {},
            )
        except (ArgumentError, ValueError, NoSuchModuleError, ModuleNotFoundError) as error:
            message = f"not a usable database URL ({type(error).__name__})"
            hint = (
                "Give a URL such as postgresql+psycopg://user:password@host/database, and install its driver: "
                "pip install 'finesweep[postgres]' for PostgreSQL."
            )
            raise UserInputError([Problem("SWEEP_STORAGE", message, hint)]) from None
        if engine.dialect.name == "sqlite":
            _begin_as_writer(engine)
        name = "the database at SWEEP_STORAGE" if url is not None else str(_sqlite_file(workspace))
        for attempt in (1, 2):
            try:
                return cls(engine, name)
            # another process just created the tables
            except (DatabaseUnavailableError, IntegrityError) as error:
                if attempt == 2:
                    raise DatabaseUnavailableError(
                        f"cannot open {name}: {error}", "Check that it is writable."
                    ) from None
        raise AssertionError

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Commit what the block does, or nothing if it raises.

        Raises DatabaseUnavailableError if the database cannot be reached, and IntegrityError as
        SQLAlchemy does.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except (SQLAlchemyError, OSError) as error:
            # The error's text may contain the database password, so the message has only its type.
            hint = "Check that it is running and writable."
            raise DatabaseUnavailableError(f"{self._name} cannot be reached: {type(error).__name__}", hint) from None


def _sqlite_file(workspace: Workspace) -> Path:
    return workspace.root / "schedules.db"


def _begin_as_writer(engine: Engine) -> None:
    """Begin every SQLite transaction as a writer.

    If two transactions read first, SQLite lets only one of them write afterwards.
    """

    @event.listens_for(engine, "connect")
    def _on_connect(connection, _record) -> None:  # type: ignore[no-untyped-def]
        connection.isolation_level = None  # else pysqlite begins transactions itself, and too late
        connection.execute("PRAGMA busy_timeout = 30000")

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
