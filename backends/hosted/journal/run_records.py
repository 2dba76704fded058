"""Records of runs: their requests, their numbered events, and the log entries of their jobs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from backends import codec
from backends.contract import Event, TrainingRequest
from backends.hosted.journal.database import Database
from backends.hosted.remote_objects import RemoteEvent


def run_id(key: str) -> str:
    """Return the id of the run with this key, in the journal and at the host."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class HostedRun:
    """A row of the table `runs`; the schema explains the columns. `request` is JSON."""

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

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> HostedRun:
        """Return the run of a row of `SELECT runs.*`."""
        run = cls(*row)
        return dataclasses.replace(run, discarded=bool(run.discarded))

    def training_request(self) -> TrainingRequest:
        """Return the submitted request."""
        return codec.from_json(TrainingRequest, json.loads(self.request))


class LogEntry(NamedTuple):
    """An event of the host, and the time at which this workspace first received it."""

    received_at: float
    event: RemoteEvent


class RunRecords:
    """The runs of a workspace. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # ----------------------------------------------------------------------------------------- runs
    def add(self, id_: str, request: TrainingRequest, now: float, first_event: Event) -> None:
        """Record a new run with its event number 0. Does nothing if the run exists."""
        with self._database.transaction():
            self._database.execute(
                "INSERT INTO runs (id, key, request, submitted_at) VALUES (:id, :key, :request, :now) "
                "ON CONFLICT DO NOTHING",
                {"id": id_, "key": request.key, "request": json.dumps(codec.to_json(request)), "now": now},
            )
            self._database.execute(
                "INSERT INTO events VALUES (:id, 0, :event) ON CONFLICT DO NOTHING",
                {"id": id_, "event": json.dumps(codec.to_json(first_event))},
            )

    def get(self, id_: str) -> HostedRun | None:
        """Return a run, or None if this workspace has no such run."""
        rows = self._database.execute("SELECT * FROM runs WHERE id = :id", {"id": id_})
        return HostedRun.from_row(rows[0]) if rows else None

    def all(self) -> list[HostedRun]:
        """Return all runs, the oldest first."""
        rows = self._database.execute("SELECT * FROM runs ORDER BY submitted_at, id", {})
        return [HostedRun.from_row(row) for row in rows]

    def update(self, id_: str, **columns: Any) -> None:
        """Change columns of a run."""
        assignments = ", ".join(f"{name} = :{name}" for name in columns)
        self._database.execute(f"UPDATE runs SET {assignments} WHERE id = :id", {"id": id_, **columns})

    def update_durably(self, id_: str, **columns: Any) -> None:
        """Change columns of a run, and wait until the disk holds the change."""
        with self._database.durable():
            self.update(id_, **columns)

    def delete(self, id_: str) -> None:
        """Delete a run and its events."""
        with self._database.transaction():
            self._database.execute("DELETE FROM events WHERE run = :id", {"id": id_})
            self._database.execute("DELETE FROM runs WHERE id = :id", {"id": id_})

    def created_since(self, time_s: float) -> list[float]:
        """Return the creation times, in order, of the jobs that were created after `time_s`."""
        rows = self._database.execute(
            "SELECT created_at FROM runs WHERE created_at > :time ORDER BY created_at", {"time": time_s}
        )
        return [created_at for (created_at,) in rows]

    # --------------------------------------------------------------------------------------- events
    def events(self, id_: str, after: int = 0) -> list[Event]:
        """Return a run's events from number `after` on."""
        rows = self._database.execute(
            "SELECT event FROM events WHERE run = :run AND number >= :after ORDER BY number",
            {"run": id_, "after": after},
        )
        return [codec.from_json(Event, json.loads(text)) for (text,) in rows]

    def append_events(self, id_: str, first_number: int, events: Sequence[Event]) -> None:
        """Append events; the first one gets the number `first_number`. A number never changes."""
        with self._database.transaction():
            for number, event in enumerate(events, start=first_number):
                self._database.execute(
                    "INSERT INTO events VALUES (:run, :number, :event)",
                    {"run": id_, "number": number, "event": json.dumps(codec.to_json(event))},
                )

    # ------------------------------------------------------------------------------- the host's log
    def add_log(self, id_: str, events: Iterable[RemoteEvent], now: float) -> None:
        """Record events of the host, each id once, as received at `now`."""
        with self._database.transaction():
            for event in events:
                # The codec would turn a non-finite number inside `data` into null.
                text = json.dumps(dataclasses.asdict(event))
                self._database.execute(
                    "INSERT INTO heard VALUES (:run, :id, :at, :event) ON CONFLICT DO NOTHING",
                    {"run": id_, "id": event.id, "at": now, "event": text},
                )

    def log(self, id_: str) -> list[LogEntry]:
        """Return the recorded events of the host for a run."""
        rows = self._database.execute("SELECT at, event FROM heard WHERE run = :run", {"run": id_})
        return [LogEntry(at, codec.from_json(RemoteEvent, json.loads(text))) for at, text in rows]

    def log_ids(self, id_: str) -> set[str]:
        """Return the ids of the recorded events of the host."""
        rows = self._database.execute("SELECT id FROM heard WHERE run = :run", {"run": id_})
        return {event_id for (event_id,) in rows}

    # ------------------------------------------------------------------------------- abandoned jobs
    def abandon_job(self, id_: str, job: str) -> None:
        """Detach a failed job from its run, with its log: the run has no job again."""
        with self._database.transaction():
            self._database.execute(
                "INSERT INTO given_up VALUES (:job, :run) ON CONFLICT DO NOTHING", {"job": job, "run": id_}
            )
            self._database.execute("DELETE FROM heard WHERE run = :run", {"run": id_})
            self._database.execute(
                "UPDATE runs SET job = NULL, attempted_at = NULL, alive = '', alive_at = NULL, ended_at = NULL "
                "WHERE id = :run",
                {"run": id_},
            )

    def abandoned_jobs(self, id_: str) -> set[str]:
        """Return the jobs that were detached from a run."""
        rows = self._database.execute("SELECT job FROM given_up WHERE run = :run", {"run": id_})
        return {job for (job,) in rows}
