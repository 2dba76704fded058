"""SQLite files: copies, replacement in one step, a lock beside the file, errors in words."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

from sweeps.errors import SweepError

BUSY_TIMEOUT_S = 10.0
"""How long to wait for another process that holds the database."""

LOCK_NOTICE_S, LOCK_TIMEOUT_S = 3.0, 1800.0
"""When to say that another process prepares the database, and when to give up waiting for it."""

_REBUILD = "Move the file away, then run `sweep track`: it records every sweep of this folder again."
_WRITABLE = "Make the file and its folder writable, or set MLFLOW_TRACKING_URI to another place."
_HINTS = {
    "database is locked": "Another program holds it: stop that program, or wait for it.",
    "database or disk is full": "Free some disk space, then run the same command again.",
    "No space left on device": "Free some disk space, then run the same command again.",
    "file is not a database": _REBUILD,
    "database disk image is malformed": _REBUILD,
    "attempt to write a readonly database": _WRITABLE,
    "unable to open database file": _WRITABLE,
    "Read-only file system": _WRITABLE,
    "Permission denied": _WRITABLE,
}


def uri_of(path: Path) -> str:
    """Return the SQLAlchemy URI of an SQLite file."""
    return f"sqlite:///{str(path).replace('%', '%25').replace('?', '%3F')}"


@contextlib.contextmanager
def connected(path: Path, *, create: bool = False) -> Iterator[sqlite3.Connection]:
    """Connect to a database, which must exist unless `create`. Statements commit on their own."""
    uri = f"file:{quote(str(path))}?mode={'rwc' if create else 'rw'}"
    with contextlib.closing(sqlite3.connect(uri, timeout=BUSY_TIMEOUT_S, uri=True, isolation_level=None)) as database:
        yield database


@contextlib.contextmanager
def locked(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the right to create or change the file. Ends with the process, however that ends."""
    began, told = time.monotonic(), False
    with path.with_name(f"{path.name}.lock").open("a") as lock_file:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            waited = time.monotonic() - began
            if waited > LOCK_TIMEOUT_S:
                raise unusable(path, "another process has been preparing it for half an hour")
            if waited > LOCK_NOTICE_S and not told:
                say(f"waiting for another process, which prepares the MLflow database {path}")
                told = True
            time.sleep(0.05)
        yield


@contextlib.contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Raise SweepError for an error of SQLite or of the disk."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise unusable(path, reason) from error


def unusable(path: Path, reason: str) -> SweepError:
    """Build the error for a database file that cannot be used, with the remedy for the reason."""
    hint = _HINTS.get(reason, "Set MLFLOW_TRACKING_URI to another place, or move the file away.")
    return SweepError(f"the MLflow database {path} cannot be used: {reason}", hint)


def remove(path: Path) -> None:
    """Delete a database and the files that SQLite keeps beside it. Idempotent."""
    for suffix in ("-journal", "-wal", "-shm", ""):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def place(draft: Path, path: Path) -> None:
    """Give a draft the name of the database, unless another program has created one meanwhile."""
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        return
    except OSError:  # a file system without links
        draft.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_over(path: Path, draft: Path, build: Callable[[], None]) -> None:
    """Build a draft, and give the database its content in one transaction.

    The file itself stays, with its owner and its links. Raises SweepError if another program wrote
    into the database meanwhile.
    """
    with connected(path) as database:
        before = version_of_data(database)
        build()
        if version_of_data(database) != before:
            hint = "Stop the programs that use it (such as `sweep ui`), then run the same command again."
            raise SweepError(f"another program wrote into {path} while it was upgraded; nothing was changed", hint)
        with connected(draft) as source:
            _back_up(source, database)


def keep_copy(path: Path, suffix: str) -> Path:
    """Copy the database as it is, and return the path of the copy."""
    names = (f"{path.name}.{suffix}{number or ''}" for number in itertools.count())
    kept = next(candidate for name in names if not (candidate := path.with_name(name)).exists())
    unfinished = path.with_name(f"{path.name}.copy")
    remove(unfinished)
    copy(path, unfinished)
    return unfinished.rename(kept)


def copy(path: Path, to: Path) -> None:
    """Copy a database as it is now, while other processes may use it."""
    with connected(path) as source, connected(to, create=True) as target:
        _back_up(source, target)


def _back_up(source: sqlite3.Connection, to: sqlite3.Connection) -> None:
    """Replace the content of a database in one transaction."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S

    def stop_waiting(_status: int, _remaining: int, _total: int) -> None:
        if time.monotonic() > deadline:
            raise sqlite3.OperationalError("database is locked")

    source.backup(to, progress=stop_waiting)


def tables_of(database: sqlite3.Connection, schema: str = "main") -> set[str]:
    """Return the names of the tables of a connected or attached database."""
    return {name for (name,) in database.execute(f"SELECT name FROM {schema}.sqlite_master WHERE type = 'table'")}


def columns_of(database: sqlite3.Connection, schema: str, table: str) -> list[str]:
    """Return the columns that can be written: SQLite computes the others."""
    rows = database.execute(f'PRAGMA {schema}.table_xinfo("{table}")')
    return [name for _, name, _, _, _, _, hidden in rows if hidden == 0]


def version_of_data(database: sqlite3.Connection) -> int:
    """Return a number that changes when another connection changes the database."""
    return int(database.execute("PRAGMA data_version").fetchone()[0])
