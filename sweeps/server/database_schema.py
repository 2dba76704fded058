"""The tables of the server's database, and how a record becomes a row.

Databases of version 0.1 have the same tables, except `intents`. Each field of a record is a column
of the same name. A column that holds a nested value holds it as JSON.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

from backends import codec
from sweeps.server.records import Checkpoint, Job, JobEvent, StoredFile, StoredPart, TunedModel, Upload

SCHEMA = """
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
) WITHOUT ROWID;                     -- the backend's events, unchanged
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
) WITHOUT ROWID;                     -- webhooks that the receiver has not accepted yet
CREATE TABLE IF NOT EXISTS intents (
    intent TEXT NOT NULL, job_id TEXT NOT NULL, PRIMARY KEY (intent, job_id)
) WITHOUT ROWID;                     -- what the server is about to do with a run; not in version 0.1
"""

AnyRecord: TypeAlias = StoredFile | Upload | StoredPart | Job | JobEvent | Checkpoint | TunedModel
Record = TypeVar("Record", StoredFile, Upload, StoredPart, Job, JobEvent, Checkpoint, TunedModel)

TABLES: Mapping[type[Any], str] = {
    StoredFile: "files",
    Upload: "uploads",
    StoredPart: "parts",
    Job: "jobs",
    JobEvent: "events",
    Checkpoint: "checkpoints",
    TunedModel: "models",
}

_JSON_COLUMNS = frozenset(
    {"metadata", "hyperparameters", "task", "resolved", "error", "result_files", "data", "handle", "metrics"}
)


def key_column(record_type: type[Any]) -> str:
    """Return the column that identifies a record: a model's name, otherwise the id."""
    return "name" if record_type is TunedModel else "id"


def columns(record_type: type[Any]) -> list[str]:
    """Return the columns of a record, in the order of its fields."""
    return [field.name for field in dataclasses.fields(record_type)]


def column_value(column: str, value: Any) -> Any:
    """Return a field's value as its column holds it."""
    return json.dumps(codec.to_json(value)) if column in _JSON_COLUMNS else value


def to_row(record: AnyRecord) -> dict[str, Any]:
    """Return a record as columns with their values."""
    return {column: column_value(column, getattr(record, column)) for column in columns(type(record))}


def from_row(record_type: type[Record], row: Mapping[str, Any]) -> Record:
    """Rebuild a record from `to_row`'s columns."""
    values = {column: json.loads(value) if column in _JSON_COLUMNS else value for column, value in row.items()}
    return codec.from_json(record_type, values)
