"""An SQLite file that several processes share: schema, transactions, durable writes."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from backends.contract import BackendError, Failure, FailureKind

BUSY_TIMEOUT_S = 30.0
"""How long a statement waits for another process that holds the file."""


class SqliteFile:
    """A connection to an SQLite file with write-ahead log. `noun` names the file in messages.

    Threads may share it. Raises BackendError where SQLite fails.
    """

    def __init__(self, path: Path, schema: str, noun: str) -> None:
        self._lock = threading.RLock()
        self._noun = noun
        path.parent.mkdir(parents=True, exist_ok=True)
        with _translated_errors(noun):
            self._connection = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = NORMAL")
                self._connection.executescript(f"BEGIN IMMEDIATE; {schema} COMMIT;")
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit the statements of the block together, or none of them if it raises."""
        with self._lock, _translated_errors(self._noun):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextmanager
    def durable(self) -> Iterator[None]:
        """Make each commit of the block wait until the disk holds it."""
        with self._lock, _translated_errors(self._noun):
            self._connection.execute("PRAGMA synchronous = FULL")
            try:
                yield
            finally:
                self._connection.execute("PRAGMA synchronous = NORMAL")

    def execute(self, statement: str, values: Mapping[str, Any]) -> list[Any]:
        """Run one statement with named parameters. Returns its rows."""
        with self._lock, _translated_errors(self._noun):
            return self._connection.execute(statement, values).fetchall()


def rows_of(path: Path, noun: str, statement: str, values: Mapping[str, Any]) -> list[Any]:
    """Return the rows of one query, or none if the file does not exist. Changes nothing.

    Another process may be using the file. `noun` names it in messages. Raises BackendError.
    """
    if not path.is_file():
        return []
    address = f"{path.absolute().as_uri()}?mode=ro"
    with _translated_errors(noun), closing(sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT_S)) as connection:
        return connection.execute(statement, values).fetchall()


@contextmanager
def _translated_errors(noun: str) -> Iterator[None]:
    """Turn SQLite's errors into BackendError (transient)."""
    try:
        yield
    except sqlite3.Error as error:
        raise BackendError(Failure(FailureKind.TRANSIENT, f"cannot use {noun}: {error}")) from error
