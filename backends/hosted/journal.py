"""What must survive the process, in one SQLite file of the workspace: uploads, runs, numbered events, answers.

What is about to be done is written before it is done. All of it survives the death of every process; that a job is
about to be created, which may cost money twice if it is forgotten, also survives a power failure. Processes share the
file; who acts for a run holds its lock, which the operating system lets go when the process dies.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends import codec
from backends.contract import (
    BackendError,
    Event,
    Failure,
    FailureKind,
    TrainingRequest,
)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, key TEXT NOT NULL, request TEXT NOT NULL, submitted_at REAL NOT NULL,
    job TEXT,                        -- the host's name for it, once it is known
    created_at REAL,                 -- when the job was created or adopted
    attempted_at REAL,               -- when its creation was last tried, while nobody knows how that ended
    not_before REAL NOT NULL DEFAULT 0,  -- the host is left alone until then
    failures INTEGER NOT NULL DEFAULT 0, -- in a row
    failing_since REAL,
    stop INTEGER NOT NULL DEFAULT 0,     -- 1: asked for, 2: the host has taken it
    alive TEXT NOT NULL DEFAULT '',      -- the last sign of life, to notice when there is none
    alive_at REAL, ended_at REAL,        -- `ended_at`: when the host was first seen to have ended it
    discarded INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    run TEXT NOT NULL, number INTEGER NOT NULL, event TEXT NOT NULL, PRIMARY KEY (run, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS heard (   -- the host's own events, as they came
    run TEXT NOT NULL, id TEXT NOT NULL, at REAL NOT NULL, event TEXT NOT NULL, PRIMARY KEY (run, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS given_up (  -- jobs that failed for a limit before they trained: the run gets another one
    job TEXT PRIMARY KEY, run TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS models (  -- a model may serve several runs
    name TEXT NOT NULL, run TEXT NOT NULL, step INTEGER NOT NULL, PRIMARY KEY (name, run)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS waits (  -- what a run, or an account, waits for, for people
    who TEXT PRIMARY KEY, reason TEXT NOT NULL, until REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gone (model TEXT PRIMARY KEY) WITHOUT ROWID;  -- deleted at the host from here
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


@dataclass(frozen=True)
class HostedRun:
    """A run; the columns of the table say what the fields mean."""

    id: str
    key: str
    request: str
    submitted_at: float
    job: str | None
    created_at: float | None
    attempted_at: float | None
    not_before: float
    failures: int
    failing_since: float | None
    stop: int
    alive: str
    alive_at: float | None
    ended_at: float | None
    discarded: bool

    def training_request(self) -> TrainingRequest:
        """Return what was asked for."""
        return codec.from_json(TrainingRequest, json.loads(self.request))


class Journal:
    """A connection to the file. Every method is one transaction; threads may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        folder.mkdir(parents=True, exist_ok=True)
        with _translated():
            self._connection = sqlite3.connect(
                folder / "journal.sqlite", timeout=30, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    # ------------------------------------------------------------------------------------------------------------ locks
    @contextmanager
    def acting_for(self, name: str, wait_s: float = 0.0, sleep: Callable[[float], None] = time.sleep) -> Iterator[bool]:
        """Hold a lock while the block runs; the value says whether it was had within `wait_s`."""
        locks = self.folder / "locks"
        locks.mkdir(exist_ok=True)
        digest = hashlib.sha256(name.encode()).hexdigest()[:32]
        deadline = time.monotonic() + wait_s
        with (locks / digest).open("ab") as stream:
            while True:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        yield False
                        return
                    sleep(0.05)
            yield True

    # ------------------------------------------------------------------------------------------------------------- runs
    def intend(self, id_: str, request: TrainingRequest, now: float, first: Event) -> None:
        """Write down that a run is to be, unless it is there."""
        values = {"id": id_, "key": request.key, "request": json.dumps(codec.to_json(request)), "now": now}
        with self._transaction():
            self._execute(
                "INSERT INTO runs (id, key, request, submitted_at) VALUES (:id, :key, :request, :now) "
                "ON CONFLICT DO NOTHING",
                values,
            )
            self._execute(
                "INSERT INTO events VALUES (:id, 0, :event) ON CONFLICT DO NOTHING",
                {"id": id_, "event": json.dumps(codec.to_json(first))},
            )

    def run(self, id_: str) -> HostedRun | None:
        """Return a run."""
        rows = self._execute("SELECT * FROM runs WHERE id = :id", {"id": id_})
        return _run(rows[0]) if rows else None

    def runs(self) -> list[HostedRun]:
        """Return all runs, the oldest first."""
        return [_run(row) for row in self._execute("SELECT * FROM runs ORDER BY submitted_at, id", {})]

    def note(self, id_: str, **columns: Any) -> None:
        """Change columns of a run."""
        names = ", ".join(f"{name} = :{name}" for name in columns)
        self._execute(f"UPDATE runs SET {names} WHERE id = :id", {"id": id_, **columns})

    def note_for_good(self, id_: str, **columns: Any) -> None:
        """Change columns of a run, and wait until the disk has it."""
        with self._lock, _translated():
            self._connection.execute("PRAGMA synchronous = FULL")
            try:
                self.note(id_, **columns)
            finally:
                self._connection.execute("PRAGMA synchronous = NORMAL")

    def forget(self, id_: str) -> None:
        """Forget a run that the host refused."""
        with self._transaction():
            self._execute("DELETE FROM events WHERE run = :id", {"id": id_})
            self._execute("DELETE FROM runs WHERE id = :id", {"id": id_})

    # ----------------------------------------------------------------------------------------------------------- events
    def events(self, run: str, after: int = 0) -> list[Event]:
        """Return a run's events from number `after` on."""
        rows = self._execute(
            "SELECT event FROM events WHERE run = :run AND number >= :after ORDER BY number",
            {"run": run, "after": after},
        )
        return [codec.from_json(Event, json.loads(text)) for (text,) in rows]

    def append(self, run: str, number: int, events: Sequence[Event]) -> None:
        """Give events their numbers for good, the first one `number`."""
        with self._transaction():
            for n, event in enumerate(events, start=number):
                self._execute(
                    "INSERT INTO events VALUES (:run, :number, :event)",
                    {"run": run, "number": n, "event": json.dumps(codec.to_json(event))},
                )

    def hear(self, run: str, heard: Iterable[tuple[str, Mapping[str, Any]]], now: float) -> None:
        """Keep events of the host, each id once, with the time at which it was first heard."""
        with self._transaction():
            for id_, event in heard:
                self._execute(
                    "INSERT INTO heard VALUES (:run, :id, :at, :event) ON CONFLICT DO NOTHING",
                    {"run": run, "id": id_, "at": now, "event": json.dumps(event)},
                )

    def heard(self, run: str) -> list[tuple[float, dict[str, Any]]]:
        """Return the host's events of a run and when each was first heard."""
        rows = self._execute("SELECT at, event FROM heard WHERE run = :run", {"run": run})
        return [(at, json.loads(text)) for at, text in rows]

    def heard_ids(self, run: str) -> set[str]:
        """Return the ids of the host's events that are known."""
        return {id_ for (id_,) in self._execute("SELECT id FROM heard WHERE run = :run", {"run": run})}

    def give_up(self, run: str, job: str) -> None:
        """Let a run be without a job again: this one failed, and what was heard of it is no part of the run."""
        with self._transaction():
            self._execute("INSERT INTO given_up VALUES (:job, :run) ON CONFLICT DO NOTHING", {"job": job, "run": run})
            self._execute("DELETE FROM heard WHERE run = :run", {"run": run})
            self._execute(
                "UPDATE runs SET job = NULL, attempted_at = NULL, alive = '', alive_at = NULL, ended_at = NULL "
                "WHERE id = :run",
                {"run": run},
            )

    def given_up(self, run: str) -> set[str]:
        """Return the jobs of a run that were given up."""
        return {job for (job,) in self._execute("SELECT job FROM given_up WHERE run = :run", {"run": run})}

    # ----------------------------------------------------------------------------------------------------------- models
    def keep_models(self, run: str, models: Mapping[str, int]) -> None:
        """Note the models that a run has left at the host, with their steps."""
        with self._transaction():
            for name, step in models.items():
                self._execute(
                    "INSERT INTO models VALUES (:name, :run, :step) ON CONFLICT DO NOTHING",
                    {"name": name, "run": run, "step": step},
                )

    def models(self, run: str) -> list[str]:
        """Return the models that a run has left, in the order of their steps."""
        rows = self._execute("SELECT name FROM models WHERE run = :run ORDER BY step, name", {"run": run})
        return [name for (name,) in rows]

    def users_of_model(self, name: str) -> list[HostedRun]:
        """Return the runs whose model this is: the one that made it, and those that it serves; discarded ones last."""
        rows = self._execute(
            "SELECT runs.* FROM models JOIN runs ON runs.id = models.run WHERE models.name = :name "
            "ORDER BY discarded, submitted_at",
            {"name": name},
        )
        return [_run(row) for row in rows]

    def note_gone(self, model: str) -> None:
        """Note that a model was deleted at the host."""
        self._execute("INSERT INTO gone VALUES (:model) ON CONFLICT DO NOTHING", {"model": model})

    def is_gone(self, model: str) -> bool:
        """Return whether a model was deleted at the host from here."""
        return bool(self._execute("SELECT 1 FROM gone WHERE model = :model", {"model": model}))

    # ----------------------------------------------------------------------------------------------------------- limits
    def leave_alone(self, account: str, until: float) -> None:
        """Note that an account has reached a limit: nothing is created there before `until`."""
        self._execute(
            "INSERT INTO limits VALUES (:account, :until) ON CONFLICT DO UPDATE SET until = max(until, :until)",
            {"account": account, "until": until},
        )

    def left_alone_until(self, account: str) -> float:
        """Return until when nothing is created for an account."""
        rows = self._execute("SELECT until FROM limits WHERE account = :account", {"account": account})
        return rows[0][0] if rows else 0.0

    def note_wait(self, who: str, reason: str, until: float) -> None:
        """Note what a run or an account waits for, and until when."""
        self._execute(
            "INSERT INTO waits VALUES (:who, :reason, :until) "
            "ON CONFLICT DO UPDATE SET reason = :reason, until = :until",
            {"who": who, "reason": reason, "until": until},
        )

    def wait_of(self, who: str, now: float) -> tuple[str, float] | None:
        """Return what a run or an account waits for at this moment, and until when."""
        rows = self._execute(
            "SELECT reason, until FROM waits WHERE who = :who AND until > :now", {"who": who, "now": now}
        )
        return rows[0] if rows else None

    def creations_since(self, moment: float) -> list[float]:
        """Return when jobs were created after a moment, in order."""
        rows = self._execute(
            "SELECT created_at FROM runs WHERE created_at > :moment ORDER BY created_at", {"moment": moment}
        )
        return [at for (at,) in rows]

    # --------------------------------------------------------------------------------------------- uploads and counting
    def uploaded(self, account: str, purpose: str, sha256: str) -> str | None:
        """Return the host's id of what was uploaded."""
        rows = self._execute(
            "SELECT file FROM uploads WHERE account = :account AND purpose = :purpose AND sha256 = :sha256",
            {"account": account, "purpose": purpose, "sha256": sha256},
        )
        return rows[0][0] if rows else None

    def keep_upload(self, account: str, purpose: str, sha256: str, file: str | None) -> None:
        """Note the host's id of an upload; None where it is gone."""
        self._execute(
            "INSERT INTO uploads VALUES (:account, :purpose, :sha256, :file) ON CONFLICT DO UPDATE SET file = :file",
            {"account": account, "purpose": purpose, "sha256": sha256, "file": file},
        )

    def forget_upload(self, file: str) -> None:
        """Forget a file at the host: it is gone, or no concern of this workspace any more."""
        self._execute("UPDATE uploads SET file = NULL WHERE file = :file", {"file": file})

    def files(self, account: str) -> list[str]:
        """Return the host's ids of all uploads of this workspace."""
        rows = self._execute(
            "SELECT file FROM uploads WHERE account = :account AND file IS NOT NULL", {"account": account}
        )
        return [file for (file,) in rows]

    def keep_tokens(self, model: str, sha256: str, per_epoch: float) -> None:
        """Note how many tokens the host counted in a training file."""
        self._execute(
            "INSERT INTO tokens VALUES (:model, :sha256, :count) ON CONFLICT DO UPDATE SET per_epoch = :count",
            {"model": model, "sha256": sha256, "count": per_epoch},
        )

    def tokens(self, model: str, sha256: str) -> float | None:
        """Return how many tokens the host counted in a training file."""
        rows = self._execute(
            "SELECT per_epoch FROM tokens WHERE model = :model AND sha256 = :sha256", {"model": model, "sha256": sha256}
        )
        return rows[0][0] if rows else None

    # ---------------------------------------------------------------------------------------------------------- answers
    def answer(self, question: str) -> Any:
        """Return the answer to a question, or None."""
        rows = self._execute("SELECT answer FROM answers WHERE question = :question", {"question": question})
        return json.loads(rows[0][0]) if rows else None

    def keep_answer(self, question: str, model: str, answer: Any) -> None:
        """Keep an answer."""
        self._execute(
            "INSERT INTO answers VALUES (:question, :model, :answer) ON CONFLICT DO NOTHING",
            {"question": question, "model": model, "answer": json.dumps(answer)},
        )

    def keep_deployment(self, model: str, name: str | None) -> None:
        """Note a model's deployment; None where there is none any more."""
        if name is None:
            self._execute("DELETE FROM deployments WHERE model = :model", {"model": model})
            return
        self._execute(
            "INSERT INTO deployments VALUES (:model, :name) ON CONFLICT DO UPDATE SET name = :name",
            {"model": model, "name": name},
        )

    def deployments(self) -> dict[str, str]:
        """Return which models are deployed under which names."""
        return dict(self._execute("SELECT model, name FROM deployments", {}))

    # -------------------------------------------------------------------------------------------------------------- SQL
    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, _translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _execute(self, statement: str, values: Mapping[str, Any]) -> list[Any]:
        with self._lock, _translated():
            return self._connection.execute(statement, values).fetchall()


def uploads_of(folder: Path, account: str) -> set[str]:
    """Return the host's ids of what another workspace has uploaded, none where it has no journal. Changes nothing."""
    path = folder / "journal.sqlite"
    if not path.is_file():
        return set()
    with _translated(), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as other:
        rows = other.execute("SELECT file FROM uploads WHERE account = ? AND file IS NOT NULL", (account,))
        return {file for (file,) in rows}


def _run(row: Sequence[Any]) -> HostedRun:
    run = HostedRun(*row)
    return dataclasses.replace(run, discarded=bool(run.discarded))


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        failure = Failure(FailureKind.TRANSIENT, f"the journal of hosted runs cannot be used: {error}")
        raise BackendError(failure) from error
