"""The state of the fake service: runs and fired faults in an SQLite file that outlives its clients.

The file stores only facts that cannot be computed: the terms of a run, the number of its revealed
events, and where it was stopped. A new run and each step of its progress are one small transaction
that does not wait for the disk. So the file survives the death of every process, but not a power
failure.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.contract import BackendError, Failure, FailureKind

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    terms TEXT NOT NULL,             -- JSON of RunTerms
    submitted_at REAL NOT NULL,      -- seconds since the Unix epoch
    ends_at REAL,                    -- when real time ends the run; NULL if only polls or a stop end it
    total INTEGER NOT NULL,          -- number of events of the whole run
    hangs INTEGER NOT NULL,          -- 1 if no terminal event is among them
    revealed INTEGER NOT NULL DEFAULT 0,  -- number of events that clients can see
    stopped_after INTEGER,           -- number of events before the stop
    discarded INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS faults (fault TEXT PRIMARY KEY, fired INTEGER NOT NULL) WITHOUT ROWID;
"""

_ACTIVE = """
    stopped_after IS NULL AND (hangs OR (revealed < total AND (ends_at IS NULL OR ends_at > :now)))
"""


@dataclass(frozen=True)
class FakeRun:
    """A row of the table `runs`, whose columns are explained there."""

    id: str
    key: str
    terms: str
    submitted_at: float
    ends_at: float | None
    total: int
    hangs: bool
    revealed: int = 0
    stopped_after: int | None = None
    discarded: bool = False


class FakeService:
    """A connection to the file. Threads and processes may share it; a method is a transaction.

    Every method raises BackendError (transient) if SQLite fails.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = OFF")
            self._connection.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise _unavailable(error) from error

    def close(self) -> None:
        """Disconnect. The runs remain."""
        self._connection.close()

    def accept(self, run: FakeRun, max_active: int | None, now: float) -> bool:
        """Store a run, unless its id is known. Return False if `max_active` runs are active."""
        values = {**vars(run), "now": now, "max_active": max_active}
        self._execute(
            f"""
            INSERT INTO runs (id, key, terms, submitted_at, ends_at, total, hangs)
            SELECT :id, :key, :terms, :submitted_at, :ends_at, :total, :hangs
            WHERE :max_active IS NULL OR (SELECT COUNT(*) FROM runs WHERE {_ACTIVE}) < :max_active
            ON CONFLICT DO NOTHING
            """,
            values,
        )
        return max_active is None or self.run(run.id) is not None

    def active(self, now: float) -> int:
        """Return the number of runs that have not ended."""
        ((count,),) = self._execute(f"SELECT COUNT(*) FROM runs WHERE {_ACTIVE}", {"now": now})
        return int(count)

    def run(self, id_: str) -> FakeRun | None:
        """Return the run with this id, or None."""
        return self._one("SELECT * FROM runs WHERE id = :id", {"id": id_})

    def run_by_key(self, key: str) -> FakeRun | None:
        """Return the run with this key, or None."""
        return self._one("SELECT * FROM runs WHERE key = :key", {"key": key})

    def reveal(self, id_: str, at_least: int, further: int) -> FakeRun | None:
        """Reveal `further` more events, and at least `at_least` in total. Return the run."""
        return self._one(
            """
            UPDATE runs SET revealed = MIN(MAX(revealed + :further, :at_least), total)
            WHERE id = :id AND stopped_after IS NULL RETURNING *
            """,
            {"id": id_, "at_least": at_least, "further": further},
        ) or self.run(id_)

    def stop(self, id_: str, visible: int) -> None:
        """Stop a run that has not ended, after its revealed events or the first `visible` events.

        The larger number counts.
        """
        self._execute(
            """
            UPDATE runs SET stopped_after = MAX(revealed, :visible)
            WHERE id = :id AND stopped_after IS NULL AND (hangs OR MAX(revealed, :visible) < total)
            """,
            {"id": id_, "visible": visible},
        )

    def discard(self, id_: str) -> None:
        """Mark the models of a run as deleted."""
        self._execute("UPDATE runs SET discarded = 1 WHERE id = :id", {"id": id_})

    def fire(self, fault: str, times: int | None) -> bool:
        """Count a fault as fired and return True, unless it has fired `times` times.

        `times` is None if there is no limit.
        """
        rows = self._execute(
            """
            INSERT INTO faults VALUES (:fault, 1)
            ON CONFLICT DO UPDATE SET fired = fired + 1 WHERE :times IS NULL OR fired < :times RETURNING fired
            """,
            {"fault": fault, "times": times},
        )
        return bool(rows)

    def _one(self, statement: str, values: Mapping[str, Any]) -> FakeRun | None:
        rows = self._execute(statement, values)
        return FakeRun(*rows[0]) if rows else None

    def _execute(self, statement: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise _unavailable(error) from error


def _unavailable(error: sqlite3.Error) -> BackendError:
    return BackendError(Failure(FailureKind.TRANSIENT, f"the file of the fake service cannot be used: {error}"))
