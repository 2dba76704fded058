"""The server's memory: one folder with an SQLite file beside the files' contents. Every method is one transaction."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from backends import codec
from backends.contract import Event
from sweeps.server.records import (
    COMES_FROM,
    Checkpoint,
    Job,
    JobEvent,
    Part,
    Status,
    StoredFile,
    Task,
    TunedModel,
    Upload,
    new_id,
)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, filename TEXT NOT NULL, purpose TEXT NOT NULL,
    bytes INTEGER NOT NULL, created_at INTEGER NOT NULL, sha256 TEXT NOT NULL, expires_at INTEGER
);
CREATE TABLE IF NOT EXISTS uploads (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, filename TEXT NOT NULL, purpose TEXT NOT NULL,
    bytes INTEGER NOT NULL, mime_type TEXT NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL,
    status TEXT NOT NULL, file_id TEXT, file_expires_after_s INTEGER
);
CREATE TABLE IF NOT EXISTS parts (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, upload_id TEXT NOT NULL, bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, created_at INTEGER NOT NULL, model TEXT NOT NULL,
    base_model TEXT NOT NULL, training_file TEXT NOT NULL, validation_file TEXT, seed INTEGER NOT NULL, suffix TEXT,
    metadata TEXT NOT NULL, hyperparameters TEXT NOT NULL, task TEXT NOT NULL, resume_from TEXT, status TEXT NOT NULL,
    resolved TEXT NOT NULL, finished_at INTEGER, fine_tuned_model TEXT, trained_tokens INTEGER, error TEXT NOT NULL,
    result_files TEXT NOT NULL, data TEXT NOT NULL, handle TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS job_metadata (job_id TEXT, name TEXT, value TEXT, PRIMARY KEY (job_id, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, job_id TEXT NOT NULL, created_at INTEGER NOT NULL,
    level TEXT NOT NULL, message TEXT NOT NULL, type TEXT NOT NULL, data TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS events_of_job ON events (job_id, seq);
CREATE TABLE IF NOT EXISTS run_events (
    job_id TEXT NOT NULL, number INTEGER NOT NULL, event TEXT NOT NULL, PRIMARY KEY (job_id, number)
) WITHOUT ROWID;                     -- what the backend said, word for word
CREATE TABLE IF NOT EXISTS checkpoints (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, job_id TEXT NOT NULL, created_at INTEGER NOT NULL,
    step INTEGER NOT NULL, model TEXT NOT NULL, metrics TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS models (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, job_id TEXT NOT NULL, base TEXT NOT NULL,
    target TEXT NOT NULL, created_at INTEGER NOT NULL, copied INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS deliveries (
    id TEXT PRIMARY KEY, body TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, due_at REAL NOT NULL
) WITHOUT ROWID;                     -- webhooks that nobody has taken yet
"""


@dataclass(frozen=True)
class Condition:
    """An SQL condition with the values of its places."""

    sql: str
    values: tuple[Any, ...] = ()


_JSON = frozenset(
    {"metadata", "hyperparameters", "task", "resolved", "error", "result_files", "data", "handle", "metrics"}
)
"""Columns that hold JSON."""

_Row = TypeVar("_Row", StoredFile, Upload, Part, Job, JobEvent, Checkpoint, TunedModel)

_TABLES: Mapping[type[Any], str] = {
    StoredFile: "files",
    Upload: "uploads",
    Part: "parts",
    Job: "jobs",
    JobEvent: "events",
    Checkpoint: "checkpoints",
    TunedModel: "models",
}


class Store:
    """A connection to the file. Its methods may be called from any thread; a restart finds what was written."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        # an answered request must survive a power failure, too
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    # ---------------------------------------------------------------------------------------------------------- any row
    def add(self, row: StoredFile | Upload | Part | Job | JobEvent | Checkpoint | TunedModel) -> None:
        """Write a new row."""
        with self.transaction():
            self._insert(row)

    def find(self, kind: type[_Row], id_: str) -> _Row | None:
        """Return a row by its id (a model by its name)."""
        rows = self._select(kind, f"WHERE {_key(kind)} = ?", (id_,))
        return rows[0] if rows else None

    def page(
        self,
        kind: type[_Row],
        *,
        after: str | None,
        limit: int,
        newest_first: bool = True,
        where: Sequence[Condition] = (),
    ) -> tuple[list[_Row], bool]:
        """Return the rows after the one with the id `after`, and whether there are more. An unknown `after`: KeyError.

        `where` holds SQL conditions with their values, all of which must hold.
        """
        table, key = _TABLES[kind], _key(kind)
        conditions = [each.sql for each in where]
        values: list[Any] = [value for each in where for value in each.values]
        if after is not None:
            found = self._execute(f"SELECT seq FROM {table} WHERE {key} = ?", (after,))
            if not found:
                raise KeyError(after)
            conditions.append("seq < ?" if newest_first else "seq > ?")
            values.append(found[0][0])
        clause = f"WHERE {' AND '.join(conditions)} " if conditions else ""
        order = "DESC" if newest_first else "ASC"
        rows = self._select(kind, f"{clause}ORDER BY seq {order} LIMIT ?", (*values, limit + 1))
        return rows[:limit], len(rows) > limit

    def all(self, kind: type[_Row], condition: str = "1", *values: Any) -> list[_Row]:
        """Return all rows that fulfil a condition, the oldest first."""
        return self._select(kind, f"WHERE {condition} ORDER BY seq", values)

    def delete(self, kind: type[_Row], id_: str) -> bool:
        """Delete a row; return whether it was there."""
        table, key = _TABLES[kind], _key(kind)
        return bool(self._execute(f"DELETE FROM {table} WHERE {key} = ? RETURNING 1", (id_,)))

    def change(self, kind: type[_Row], id_: str, *, condition: str = "1", **columns: Any) -> bool:
        """Change columns of a row, where the condition holds; return whether it did."""
        table, key = _TABLES[kind], _key(kind)
        names = ", ".join(f"{name} = ?" for name in columns)
        written: list[Any] = [_written(name, value) for name, value in columns.items()]
        statement = f"UPDATE {table} SET {names} WHERE {key} = ? AND {condition} RETURNING 1"
        return bool(self._execute(statement, (*written, id_)))

    # ------------------------------------------------------------------------------------------------------------- jobs
    def add_job(self, job: Job, events: Iterable[JobEvent]) -> None:
        """Write a new job with its first events."""
        with self.transaction():
            self._insert(job)
            for name, value in (job.metadata or {}).items():
                self._execute("INSERT INTO job_metadata VALUES (?, ?, ?)", (job.id, name, value))
            for event in events:
                self._insert(event)

    def move(self, id_: str, to: Status, events: Iterable[JobEvent] = (), **columns: Any) -> bool:
        """Bring a job into another state, and log it. Return False where it cannot go there from where it is."""
        sources = ", ".join(f"'{each.value}'" for each in sorted(COMES_FROM[to]))
        with self.transaction():
            if not self.change(Job, id_, condition=f"status IN ({sources})", status=to.value, **columns):
                return False
            for event in events:
                self._insert(event)
            return True

    def counts(self) -> dict[str, int]:
        """Return how many jobs are in each state."""
        found = dict(self._execute("SELECT status, COUNT(*) FROM jobs GROUP BY status", ()))
        return {each.value: int(found.get(each.value, 0)) for each in Status}

    # ------------------------------------------------------------------------------------------------------- run events
    def heard(self, job_id: str) -> list[Event]:
        """Return what the backend has said about a job so far."""
        rows = self._execute("SELECT event FROM run_events WHERE job_id = ? ORDER BY number", (job_id,))
        return [codec.from_json(Event, json.loads(text)) for (text,) in rows]

    def hear(self, job_id: str, number: int, event: Event, rows: Iterable[JobEvent | Checkpoint | TunedModel]) -> bool:
        """Write down an event with all that follows from it, once: False where it was there already."""
        with self.transaction():
            taken = self._execute(
                "INSERT INTO run_events VALUES (?, ?, ?) ON CONFLICT DO NOTHING RETURNING 1",
                (job_id, number, json.dumps(codec.to_json(event))),
            )
            if taken:
                for row in rows:
                    self._insert(row)
            return bool(taken)

    # ------------------------------------------------------------------------------------------------------- deliveries
    def post(self, id_: str, body: str) -> None:
        """Note a webhook that is to be delivered."""
        self._execute("INSERT INTO deliveries (id, body, due_at) VALUES (?, ?, ?)", (id_, body, time.time()))

    def due(self, now: float) -> list[tuple[str, str, int]]:
        """Return the webhooks that are due: id, body, and how often it was tried."""
        rows = self._execute("SELECT id, body, attempts FROM deliveries WHERE due_at <= ? ORDER BY due_at", (now,))
        return [(str(id_), str(body), int(attempts)) for id_, body, attempts in rows]

    def delivered(self, id_: str) -> None:
        """Forget a webhook."""
        self._execute("DELETE FROM deliveries WHERE id = ?", (id_,))

    def postpone(self, id_: str, until: float) -> None:
        """Try a webhook again later."""
        self._execute("UPDATE deliveries SET attempts = attempts + 1, due_at = ? WHERE id = ?", (until, id_))

    # -------------------------------------------------------------------------------------------------------------- SQL
    def transaction(self) -> _Transaction:
        """Return a context in which all or nothing is written, and nobody else writes."""
        return _Transaction(self._connection, self._lock)

    def _execute(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(statement, tuple(values)).fetchall()

    def _insert(self, row: Any) -> None:
        values = {
            field.name: _written(field.name, getattr(row, field.name)) for field in dataclasses.fields(row)
        }  # not asdict: nested values are written as JSON
        places = ", ".join("?" * len(values))
        self._execute(f"INSERT INTO {_TABLES[type(row)]} ({', '.join(values)}) VALUES ({places})", [*values.values()])

    def _select(self, kind: type[_Row], clause: str, values: Sequence[Any]) -> list[_Row]:
        names = [field.name for field in dataclasses.fields(kind)]
        rows = self._execute(f"SELECT {', '.join(names)} FROM {_TABLES[kind]} {clause}", values)
        return [_row(kind, dict(zip(names, row, strict=True))) for row in rows]


class _Transaction:
    """All or nothing, and nobody in between. Inside another one it is a part of that."""

    def __init__(self, connection: sqlite3.Connection, lock: threading.RLock) -> None:
        self._connection, self._lock = connection, lock
        self._outer = False

    def __enter__(self) -> None:
        self._lock.acquire()
        self._outer = not self._connection.in_transaction
        if self._outer:
            self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if self._outer:
                self._connection.execute("COMMIT" if kind is None else "ROLLBACK")
        finally:
            self._lock.release()


def log(job_id: str, message: str, *, level: str = "info", data: Mapping[str, Any] | None = None) -> JobEvent:
    """Return a new line of a job's log; with `data` it is a metrics event."""
    type_ = "message" if data is None else "metrics"
    return JobEvent(new_id("ftevent-"), job_id, int(time.time()), level, message, type_, data)


def _key(kind: type[Any]) -> str:
    return "name" if kind is TunedModel else "id"


def _written(name: str, value: Any) -> Any:
    if name in _JSON:
        return json.dumps(dataclasses.asdict(value) if isinstance(value, Task) else value)
    return value


def _row(kind: type[_Row], values: dict[str, Any]) -> _Row:
    for name in _JSON & values.keys():
        values[name] = json.loads(values[name])
    if kind is Job:
        labels = values["task"]["labels"]
        values["task"] = Task(**{**values["task"], "labels": labels if isinstance(labels, str) else tuple(labels)})
        values["status"] = Status(values["status"])
        values["result_files"] = tuple(values["result_files"])
    if kind is TunedModel:
        values["copied"] = bool(values["copied"])
    return kind(**values)
