"""The server's database: an SQLite file in the server's folder."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from backends import codec
from backends.contract import TERMINAL_EVENTS, Event
from sweeps.server.database_schema import (
    SCHEMA,
    TABLES,
    AnyRecord,
    Record,
    column_value,
    columns,
    from_row,
    key_column,
    to_row,
)
from sweeps.server.records import (
    PREVIOUS_STATUSES,
    Checkpoint,
    Delivery,
    Job,
    JobEvent,
    JobStatus,
    TunedModel,
)

_LOG = logging.getLogger("sweeps.server")

LOCK_TIMEOUT_S = 10.0
"""How long a write waits for another program that has locked the database, such as a backup."""

LONGEST_POSTPONEMENT_S = 3600.0
"""How long a webhook waits for its next attempt at most.

A time that lies further ahead comes from a clock that was wrong, so the webhook is due.
"""

Intent = Literal["submit", "discard"]
"""What the server is about to do with the run of a job at the backend.

It is written before the act and deleted after it, so that the next server can complete it.
"""


@dataclass(frozen=True)
class Condition:
    """An SQL condition, and the values of its placeholders."""

    sql: str
    values: tuple[Any, ...] = ()


class Store:
    """A connection to the database. Any thread may call its methods.

    Every method is one transaction, and what it wrote survives a crash and a power failure. A
    method that reads leaves out, and logs, a record that is damaged: it must not hide the others.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._reported: set[tuple[str, object]] = set()
        """The damaged records that are in the log already: table and position."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, timeout=LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        # once the server has answered a request, a power failure must not undo it
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.executescript(SCHEMA)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()

    # ----------------------------------------------------------------------------------- any record
    def add(self, record: AnyRecord) -> None:
        """Write a new record."""
        with self.transaction():
            self._insert(record)

    def find(self, record_type: type[Record], key: str) -> Record | None:
        """Return the record with this id (for a model: its name), or None."""
        records = self._select(record_type, f"WHERE {key_column(record_type)} = ?", (key,))
        return records[0] if records else None

    def page(
        self,
        record_type: type[Record],
        *,
        after: str | None,
        limit: int,
        newest_first: bool = True,
        where: Sequence[Condition] = (),
    ) -> tuple[list[Record], bool]:
        """Return at most `limit` records that follow `after`, and whether there are more.

        `after` is the id of the last record before the page, or None for the first page. All
        conditions in `where` must hold. Raises KeyError if no record has the id `after`.
        """
        table = TABLES[record_type]
        conditions: list[str] = [condition.sql for condition in where]
        values: list[Any] = [value for condition in where for value in condition.values]
        order = "DESC" if newest_first else "ASC"
        position: int | None = None
        if after is not None:
            found = self._execute(f"SELECT seq FROM {table} WHERE {key_column(record_type)} = ?", (after,))
            if not found:
                raise KeyError(after)
            position = found[0][0]
        records: list[Record] = []
        rows: list[tuple[Any, ...]]
        rest: list[str]
        # again, until the page is full, if records of it are damaged
        while len(records) <= limit:
            rest = [] if position is None else ["seq < ?" if newest_first else "seq > ?"]
            clause = f"WHERE {' AND '.join([*conditions, *rest])} " if conditions or rest else ""
            wanted = limit + 1 - len(records)
            rows = self._rows(
                record_type,
                f"{clause}ORDER BY seq {order} LIMIT ?",
                (*values, *([] if position is None else [position]), wanted),
            )
            records += self._records(record_type, rows)
            if len(rows) < wanted:
                break
            position = rows[-1][0]
        return records[:limit], len(records) > limit

    def all(self, record_type: type[Record], condition: str = "1", *values: Any) -> list[Record]:
        """Return all records for which the SQL condition holds, the oldest first."""
        return self._select(record_type, f"WHERE {condition} ORDER BY seq", values)

    def keys(self, record_type: type[Record], condition: str = "1", *values: Any) -> set[str]:
        """Return the ids (of models: the names) for which the SQL condition holds.

        Those of damaged records are among them.
        """
        statement = f"SELECT {key_column(record_type)} FROM {TABLES[record_type]} WHERE {condition}"
        return {str(key) for (key,) in self._execute(statement, values)}

    def delete(self, record_type: type[Record], key: str) -> bool:
        """Delete a record. Return False if there was none."""
        table, column = TABLES[record_type], key_column(record_type)
        return bool(self._execute(f"DELETE FROM {table} WHERE {column} = ? RETURNING 1", (key,)))

    def update(self, record_type: type[Record], key: str, *, condition: str = "1", **fields: Any) -> bool:
        """Change fields of a record.

        Return False if there is none, or if the SQL condition does not hold.
        """
        assignments = ", ".join(f"{name} = ?" for name in fields)
        values: list[Any] = [column_value(name, value) for name, value in fields.items()]
        statement = (
            f"UPDATE {TABLES[record_type]} SET {assignments} "
            f"WHERE {key_column(record_type)} = ? AND {condition} RETURNING 1"
        )
        return bool(self._execute(statement, (*values, key)))

    # ----------------------------------------------------------------------------------------- jobs
    def add_job(self, job: Job, events: Iterable[JobEvent]) -> None:
        """Write a new job with the first lines of its log."""
        with self.transaction():
            self._insert(job)
            for name, value in (job.metadata or {}).items():
                self._execute("INSERT INTO job_metadata VALUES (?, ?, ?)", (job.id, name, value))
            for event in events:
                self._insert(event)

    def change_status(
        self,
        job_id: str,
        status: JobStatus,
        events: Iterable[JobEvent] = (),
        *,
        only_from: JobStatus | None = None,
        **fields: Any,
    ) -> bool:
        """Give a job another status and other fields, and add lines to its log.

        Return False, and change nothing, if the job cannot get there from its present status, or if
        this is not `only_from`.
        """
        allowed = PREVIOUS_STATUSES[status] if only_from is None else PREVIOUS_STATUSES[status] & {only_from}
        previous = ", ".join(f"'{previous_status.value}'" for previous_status in sorted(allowed))
        with self.transaction():
            if not self.update(Job, job_id, condition=f"status IN ({previous})", status=status.value, **fields):
                return False
            for event in events:
                self._insert(event)
            return True

    def add_intent(self, intent: Intent, job_id: str) -> None:
        """Note what the server is about to do with the run of a job. Idempotent."""
        self._execute("INSERT INTO intents VALUES (?, ?) ON CONFLICT DO NOTHING", (intent, job_id))

    def delete_intent(self, intent: Intent, job_id: str) -> None:
        """Note that it is done. Idempotent."""
        self._execute("DELETE FROM intents WHERE intent = ? AND job_id = ?", (intent, job_id))

    def intended(self, intent: Intent) -> set[str]:
        """Return the ids of the jobs for which the server has this intent."""
        return {str(job_id) for (job_id,) in self._execute("SELECT job_id FROM intents WHERE intent = ?", (intent,))}

    def count_by_status(self) -> dict[str, int]:
        """Return the number of jobs in each status."""
        counts = dict(self._execute("SELECT status, COUNT(*) FROM jobs GROUP BY status", ()))
        return {status.value: int(counts.get(status.value, 0)) for status in JobStatus}

    # ----------------------------------------------------------------------------------- run events
    def run_events(self, job_id: str) -> list[Event]:
        """Return the backend's events of a job, in their order."""
        rows = self._execute("SELECT event FROM run_events WHERE job_id = ? ORDER BY number", (job_id,))
        return [codec.from_json(Event, json.loads(text)) for (text,) in rows]

    def run_has_ended(self, job_id: str) -> bool:
        """Return whether the last event of a job's run is a terminal one."""
        rows = self._execute("SELECT event FROM run_events WHERE job_id = ? ORDER BY number DESC LIMIT 1", (job_id,))
        return any(isinstance(codec.from_json(Event, json.loads(text)), TERMINAL_EVENTS) for (text,) in rows)

    def run_event_count(self, job_id: str) -> int:
        """Return how many events of a job's run are stored."""
        ((count,),) = self._execute("SELECT COUNT(*) FROM run_events WHERE job_id = ?", (job_id,))
        return int(count)

    def add_run_event(
        self, job_id: str, number: int, event: Event, records: Iterable[JobEvent | Checkpoint | TunedModel]
    ) -> bool:
        """Write the backend's event with the records that follow from it.

        Return False, and write nothing, if the job has an event with this number already.
        """
        with self.transaction():
            is_new = self._execute(
                "INSERT INTO run_events VALUES (?, ?, ?) ON CONFLICT DO NOTHING RETURNING 1",
                (job_id, number, json.dumps(codec.to_json(event))),
            )
            if is_new:
                for record in records:
                    self._insert(record)
            return bool(is_new)

    # ----------------------------------------------------------------------------------- deliveries
    def add_delivery(self, delivery_id: str, body: str) -> None:
        """Note a webhook to deliver now."""
        self._execute("INSERT INTO deliveries (id, body, due_at) VALUES (?, ?, ?)", (delivery_id, body, time.time()))

    def due_deliveries(self, now: float) -> list[Delivery]:
        """Return the webhooks that are due at the Unix time `now`, the longest overdue first."""
        rows = self._execute(
            "SELECT id, body, attempts FROM deliveries WHERE due_at <= ? OR due_at > ? ORDER BY due_at",
            (now, now + LONGEST_POSTPONEMENT_S),
        )
        return [Delivery(str(id_), str(body), int(attempts)) for id_, body, attempts in rows]

    def delete_delivery(self, delivery_id: str) -> None:
        """Forget a webhook."""
        self._execute("DELETE FROM deliveries WHERE id = ?", (delivery_id,))

    def postpone_delivery(self, delivery_id: str, due_at: float) -> None:
        """Count a failed attempt, and try the webhook again at the Unix time `due_at`."""
        self._execute("UPDATE deliveries SET attempts = attempts + 1, due_at = ? WHERE id = ?", (due_at, delivery_id))

    # ------------------------------------------------------------------------------------------ SQL
    def transaction(self) -> _Transaction:
        """Return a context manager in which all writes happen or none, without other writers.

        It raises sqlite3.Error, and nothing has happened, if the database cannot be written.
        """
        return _Transaction(self._connection, self._lock)

    def _execute(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(statement, tuple(values)).fetchall()

    def _insert(self, record: AnyRecord) -> None:
        row = to_row(record)
        placeholders = ", ".join("?" * len(row))
        statement = f"INSERT INTO {TABLES[type(record)]} ({', '.join(row)}) VALUES ({placeholders})"
        self._execute(statement, [*row.values()])

    def _select(self, record_type: type[Record], clause: str, values: Sequence[Any]) -> list[Record]:
        return self._records(record_type, self._rows(record_type, clause, values))

    def _rows(self, record_type: type[Record], clause: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Return rows: the position, then the columns of the record."""
        names = ", ".join(columns(record_type))
        return self._execute(f"SELECT seq, {names} FROM {TABLES[record_type]} {clause}", values)

    def _records(self, record_type: type[Record], rows: Iterable[tuple[Any, ...]]) -> list[Record]:
        """Return the records of rows. Those that are damaged are left out, and logged once."""
        names = columns(record_type)
        records = []
        for position, *row in rows:
            try:
                records.append(from_row(record_type, dict(zip(names, row, strict=True))))
            except (ValueError, TypeError) as error:
                table = TABLES[record_type]
                if (table, position) not in self._reported:
                    self._reported.add((table, position))
                    _LOG.warning("the record %s of the table %s is damaged, and left out: %s", row[0], table, error)
        return records


class _Transaction:
    """The context manager of `Store.transaction`.

    Inside another transaction it becomes a part of that one.
    """

    def __init__(self, connection: sqlite3.Connection, lock: threading.RLock) -> None:
        self._connection, self._lock = connection, lock
        self._is_outermost = False

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            self._is_outermost = not self._connection.in_transaction
            if self._is_outermost:
                self._connection.execute("BEGIN IMMEDIATE")
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, error_type: object, *_: object) -> None:
        try:
            if not self._is_outermost:
                return
            try:
                if error_type is None:
                    self._connection.execute("COMMIT")
            finally:
                # also after a COMMIT that failed, or no later transaction would be written
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
        finally:
            self._lock.release()
