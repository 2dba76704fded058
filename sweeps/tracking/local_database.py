"""The local MLflow database: creates, upgrades and mends it, so that no kill leaves it unusable.

MLflow creates and upgrades an SQLite database in place, in some 70 migrations that commit
statement by statement. A process that is killed meanwhile leaves a database that no later process
can open. So all of this happens in a file beside the database, under a lock, and the result takes
the place of the database in one step. A database that MLflow itself left half made is recognised,
and its records are copied into a new one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import sqlite3
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from sweeps.errors import SweepError
from sweeps.tracking.sqlite_files import (
    columns_of,
    connected,
    copy,
    keep_copy,
    locked,
    place,
    remove,
    sqlite_errors,
    tables_of,
    uri_of,
    write_over,
)

QUIET_S = 2.0
"""A half-made database is mended once no process has changed it for so long."""

_UNFINISHED_TABLE = "_alembic_tmp_"
"""Alembic's prefix for the new form of a table while it copies the rows."""

_INITIAL_TABLE = "experiments"
"""One of the tables that MLflow creates before the first migration notes a revision."""

_REVISION = re.compile(r'^revision\b[^="\n]*= *"(\w+)"', re.MULTILINE)
_PRECEDING = re.compile(r'^down_revision\b[^="\n]*= *"(\w+)"', re.MULTILINE)


class DatabaseState(Enum):
    """The state of a database file, as `examine` finds it.

    - MISSING: there is no file.
    - EMPTY: a file without tables.
    - READY: MLflow can use it.
    - OUTDATED: it has the schema of an earlier MLflow, or only tables of other programs.
    - HALF_MADE: a process was killed while MLflow created or upgraded it in place.
    - NEWER: it has a schema that the installed MLflow does not know.
    """

    MISSING = "missing"
    EMPTY = "empty"
    READY = "ready"
    OUTDATED = "outdated"
    HALF_MADE = "half made"
    NEWER = "newer"


@dataclass(frozen=True)
class SchemaRevisions:
    """The revisions of the schema that the installed MLflow knows, and the newest of them."""

    known: frozenset[str]
    newest: str


def installed_revisions() -> SchemaRevisions | None:
    """Return the revisions of the installed MLflow, or None if it stores them in an unknown way.

    Reads the text of MLflow's migration scripts, which takes some milliseconds. Alembic's own
    reader imports all of them, which takes over a second.
    """
    package = importlib.util.find_spec("mlflow")
    if package is None or package.origin is None:
        return None
    scripts = (Path(package.origin).parent / "store" / "db_migrations" / "versions").glob("*.py")
    texts = [script.read_text(encoding="utf-8") for script in scripts]
    known = {found[1] for text in texts if (found := _REVISION.search(text))}
    preceding = {found[1] for text in texts if (found := _PRECEDING.search(text))}
    newest = known - preceding
    return SchemaRevisions(frozenset(known), newest.pop()) if len(newest) == 1 else None


def examine(path: Path) -> DatabaseState:
    """Return the state of a database file. Changes nothing, and does not load MLflow.

    Raises SweepError if the file is no SQLite database or cannot be read.
    """
    if not path.exists():
        return DatabaseState.MISSING
    with sqlite_errors(path), connected(path) as database:
        tables = tables_of(database)
        if not tables:
            return DatabaseState.EMPTY
        if any(table.startswith(_UNFINISHED_TABLE) for table in tables):
            return DatabaseState.HALF_MADE
        found = _revisions(database, tables)
    if not found:
        return DatabaseState.HALF_MADE if _INITIAL_TABLE in tables else DatabaseState.OUTDATED
    installed = installed_revisions()
    if installed is None or found == {installed.newest}:
        return DatabaseState.READY
    return DatabaseState.OUTDATED if found <= installed.known else DatabaseState.NEWER


def prepare(path: Path, say: Callable[[str], None] = lambda message: None) -> None:
    """Make a database that MLflow can use, whatever a killed process left there. Loads MLflow.

    Turns on write-ahead logging: the UI can then read while a sweep writes, and every write costs
    half as much (`docs/log.md`). Safe while other processes do the same. Every record of a mended
    or upgraded database is kept, and a copy of the file as it was stays beside it. `say` receives a
    sentence about everything that takes long or changes an existing database.

    Raises SweepError if the file cannot be used.
    """
    if examine(path) is not DatabaseState.READY:
        with sqlite_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path, say):
                _prepare_locked(path, say)
    with sqlite_errors(path), connected(path) as database:
        # another process reads, or it is a network disk
        with contextlib.suppress(sqlite3.OperationalError):
            database.execute("PRAGMA journal_mode=WAL")
        database.execute("BEGIN IMMEDIATE")
        database.rollback()


def _prepare_locked(path: Path, say: Callable[[str], None]) -> None:
    draft = path.with_name(f"{path.name}.draft")
    remove(draft)  # a killed process may have left it
    try:
        match examine(path):
            case DatabaseState.READY:
                pass
            case DatabaseState.NEWER:
                hint = "Update MLflow (pip install --upgrade mlflow), or set MLFLOW_TRACKING_URI to another place."
                raise SweepError(f"a newer version of MLflow wrote the database {path}", hint)
            case DatabaseState.MISSING:
                _create(draft)
                place(draft, path)
            case DatabaseState.EMPTY:
                write_over(path, draft, partial(_create, draft))
            case DatabaseState.OUTDATED:
                kept = keep_copy(path, "before-upgrade")
                say(f"upgrading the MLflow database for the installed MLflow; a copy stays in {kept.name}")
                write_over(path, draft, partial(_upgrade, path, draft))
            case DatabaseState.HALF_MADE:
                _await_quiet(path)
                if examine(path) is DatabaseState.HALF_MADE:
                    _say_what_is_mended(path, say)
                    write_over(path, draft, partial(_mend, path, draft))
                else:
                    _prepare_locked(path, say)
    finally:
        remove(draft)


def _say_what_is_mended(path: Path, say: Callable[[str], None]) -> None:
    if _has_records(path):
        kept = keep_copy(path, "half-made")
        say(f"a killed process left the MLflow database half upgraded; mending it. A copy stays in {kept.name}")
    else:
        say("a killed process left the MLflow database half made; creating it again")


def _create(draft: Path) -> None:
    """Create a database with MLflow's tables.

    MLflow's client creates the tables too, but keeps its connection. So this uses the store below
    the client, whose connections can be closed before the file moves.
    """
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    open_store: Any = SqlAlchemyStore  # MLflow's stores have no types
    with _unsynced(draft):
        open_store(uri_of(draft), DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH).engine.dispose()


def _upgrade(path: Path, draft: Path) -> None:
    """Build a draft with the records of the database and the newest schema.

    MLflow's migrations do that. Where they fail, a killed process left one of them half done.
    """
    from alembic.util import CommandError
    from mlflow.db import upgrade
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    copy(path, draft)
    with connected(draft) as database:
        has_mlflow_tables = bool(_revisions(database, tables_of(database)))
    try:
        with _unsynced(draft):
            if has_mlflow_tables:
                upgrade.main([uri_of(draft)], standalone_mode=False)  # the command `mlflow db upgrade`
            else:
                _create(draft)
    except (SQLAlchemyError, CommandError, MlflowException):
        remove(draft)
        _mend(path, draft)


def _mend(path: Path, draft: Path) -> None:
    """Build a draft with the newest schema, and copy every row of the database into it."""
    _create(draft)
    with connected(draft) as database:
        database.execute("ATTACH ? AS old", (str(path),))
        old_tables = tables_of(database, "old")
        database.execute("BEGIN")
        for table in sorted(tables_of(database)):
            # a killed migration may have dropped a table and not yet renamed its new form
            source = next((name for name in (table, _UNFINISHED_TABLE + table) if name in old_tables), None)
            if source is None or table == "alembic_version":
                continue
            old_columns = columns_of(database, "old", source)
            columns = ", ".join(f'"{name}"' for name in columns_of(database, "main", table) if name in old_columns)
            # every name comes from the schema of one of the two databases
            database.execute(f'INSERT OR REPLACE INTO main."{table}" ({columns}) SELECT {columns} FROM old."{source}"')
        database.commit()


@contextlib.contextmanager
def _unsynced(draft: Path) -> Iterator[None]:
    """Let SQLAlchemy write the draft without waiting for the disk after each of its many commits.

    A draft that a power failure destroys is built again.
    """
    from sqlalchemy import Engine, event

    def do_not_wait(connection: sqlite3.Connection, _record: object) -> None:
        if any(Path(file).name == draft.name for _, _, file in connection.execute("PRAGMA database_list")):
            connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", do_not_wait)
    try:
        yield
    finally:
        event.remove(Engine, "connect", do_not_wait)


def _await_quiet(path: Path) -> None:
    """Return once no process has changed the database for QUIET_S: one may still be making it."""
    files = [path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-journal")]
    seen: list[tuple[int, int] | None] = []
    while True:
        stats = [file.stat() if file.exists() else None for file in files]
        now = [stat and (stat.st_mtime_ns, stat.st_size) for stat in stats]
        if now == seen:
            return
        seen = now
        time.sleep(QUIET_S)


def _has_records(path: Path) -> bool:
    """Return whether somebody has recorded anything: a fresh database has one experiment."""
    with connected(path) as database:
        tables = tables_of(database)
        for table, fresh_rows in (("runs", 0), ("registered_models", 0), (_INITIAL_TABLE, 1)):
            for name in (table, _UNFINISHED_TABLE + table):
                if name in tables and database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] > fresh_rows:
                    return True
    return False


def _revisions(database: sqlite3.Connection, tables: Container[str]) -> set[str]:
    if "alembic_version" not in tables:
        return set()
    return {revision for (revision,) in database.execute("SELECT version_num FROM alembic_version")}
