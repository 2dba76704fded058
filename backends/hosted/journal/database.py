"""The SQLite file behind the journal: its name and schema."""

from __future__ import annotations

from pathlib import Path

from backends.sqlite_file import SqliteFile

FILE_NAME = "journal.sqlite"

NOUN = "the journal of hosted runs"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, key TEXT NOT NULL, request TEXT NOT NULL, submitted_at REAL NOT NULL,
    job TEXT,                        -- the host's id of the job, once it is known
    created_at REAL,                 -- when this workspace created or adopted the job
    attempted_at REAL,               -- the last attempt to create the job, while its outcome is unknown
    not_before REAL NOT NULL DEFAULT 0,  -- send nothing to the host before this time
    failures INTEGER NOT NULL DEFAULT 0, -- consecutive
    failing_since REAL,
    stop INTEGER NOT NULL DEFAULT 0,     -- 1: requested, 2: the host has accepted it
    alive TEXT NOT NULL DEFAULT '',      -- the last progress of the job, to notice a stalled one
    alive_at REAL, ended_at REAL,        -- `ended_at`: when the job was first seen to have ended
    discarded INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    run TEXT NOT NULL, number INTEGER NOT NULL, event TEXT NOT NULL, PRIMARY KEY (run, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS heard (   -- the host's own events, as it sent them
    run TEXT NOT NULL, id TEXT NOT NULL, at REAL NOT NULL, event TEXT NOT NULL, PRIMARY KEY (run, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS given_up (  -- jobs that failed for a limit before training: their run gets another job
    job TEXT PRIMARY KEY, run TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS models (  -- a model may be the result of several runs
    name TEXT NOT NULL, run TEXT NOT NULL, step INTEGER NOT NULL, PRIMARY KEY (name, run)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS waits (  -- why a run, or an account, waits; for people to read
    who TEXT PRIMARY KEY, reason TEXT NOT NULL, until REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gone (model TEXT PRIMARY KEY) WITHOUT ROWID;  -- models that this workspace deleted
CREATE TABLE IF NOT EXISTS uploads (
    account TEXT NOT NULL, purpose TEXT NOT NULL, sha256 TEXT NOT NULL, file TEXT,
    PRIMARY KEY (account, purpose, sha256)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS limits (account TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tokens (
    model TEXT NOT NULL, sha256 TEXT NOT NULL, per_epoch REAL NOT NULL, PRIMARY KEY (model, sha256)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS answers (question TEXT PRIMARY KEY, model TEXT NOT NULL, answer TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deployments (model TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID;
"""


class Database(SqliteFile):
    """A connection to the journal's file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / FILE_NAME, _SCHEMA, NOUN)
