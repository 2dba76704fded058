"""Writes the changes of many runs into the local MLflow database in one transaction.

MLflow's client writes one run at a time: a new run with its values takes four calls, nine
transactions and 20 ms of CPU time (`docs/log.md`), at any number of runs, and no method of the
client or of the store takes several runs. This module takes 1 ms. So it writes into MLflow's tables
itself, within these limits:

- only into a local SQLite file, and only if its tables have exactly the columns known here;
- only runs that this process created, so that no two processes write the same one;
- everything that it cannot write is left to the client, which stays the reference: a test compares
  both, run by run.
"""

from __future__ import annotations

import math
import sqlite3
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeps.tracking.projection import Point, Projection
from sweeps.tracking.run_writer import PARAM_CHARS, RunRecord, cut, cut_tags
from sweeps.tracking.sqlite_files import connected

BUSY_TIMEOUT_MS = 2000
"""How long to wait for another writer. After that the client writes, which has its own patience."""

_COLUMNS = {
    "runs": (
        "run_uuid name source_type source_name entry_point_name user_id status start_time end_time source_version "
        "lifecycle_stage artifact_uri experiment_id deleted_time"
    ),
    "tags": "key value run_uuid",
    "params": "key value run_uuid",
    "metrics": "key value timestamp run_uuid step is_nan",
    "latest_metrics": "key value timestamp step is_nan run_uuid",
    "inputs": "input_uuid source_type source_id destination_type destination_id step",
    "input_tags": "input_uuid name value",
}
"""The columns of MLflow's tables in their order."""

_INSERT = {
    table: f"INSERT OR IGNORE INTO {table} ({', '.join(columns.split())}) "
    f"VALUES ({', '.join('?' for _ in columns.split())})"
    for table, columns in _COLUMNS.items()
}
_SET_TAG = (
    "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?) "
    "ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value"
)
_SET_LATEST = (
    f"{_INSERT['latest_metrics'].replace(' OR IGNORE', '')} ON CONFLICT (key, run_uuid) DO UPDATE SET "
    "value = excluded.value, timestamp = excluded.timestamp, step = excluded.step, is_nan = excluded.is_nan "
    "WHERE (excluded.step, excluded.timestamp, excluded.value) > (step, timestamp, value)"
)
"""The latest value of a metric is the greatest by step, then time, then value, as in MLflow."""


@dataclass(frozen=True)
class _Parent:
    """What a new run takes over from the run of the sweep."""

    run_id: str
    artifact_uri: str
    inputs: Sequence[tuple[str, Mapping[str, str]]]


class GroupWriter:
    """Writes groups of runs below the run of a sweep. Call it from one thread."""

    def __init__(self, file: Path, experiment_id: str) -> None:
        self._file = file
        self._experiment_id = int(experiment_id)
        self._parent: _Parent | None = None
        self._fits: bool | None = None

    def write(self, parent: RunRecord, group: Sequence[tuple[RunRecord, Projection]]) -> None:
        """Write what is possible of a group, and remove it from the projections.

        All or nothing: after an error nothing is written and nothing removed, and the client is
        left to find out. Leaves out files and adopted runs.
        """
        if parent.run_id is None or not parent.has_inputs or self._fits is False:
            return
        own = [(run, change) for run, change in group if _is_writable(run, change)]
        if not own:
            return
        new_ids = {id(run): uuid.uuid4().hex for run, _ in own if run.run_id is None}
        try:
            with connected(self._file) as database:
                database.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
                if self._fits is None:
                    self._fits = _tables_fit(database)
                if not self._fits:
                    return
                self._parent = self._parent or _read_parent(database, parent.run_id)
                database.execute("BEGIN IMMEDIATE")
                for run, change in own:
                    self._write_run(database, run, change, new_ids.get(id(run)))
                database.execute("COMMIT")
        except sqlite3.Error:
            return
        for run, change in own:
            run.run_id = new_ids.get(id(run), run.run_id)
            run.has_inputs = run.may_exist = True
            run.params |= change.params.keys()
            run.latest |= {point.key: point.value for point in change.points if point.once}
            change.points, change.params, change.tags, change.status = [], {}, {}, None

    def _write_run(self, database: sqlite3.Connection, run: RunRecord, change: Projection, new_id: str | None) -> None:
        parent = self._parent
        assert parent is not None
        run_id = new_id or run.run_id or ""
        tags = cut_tags(change.tags)
        if new_id is not None:
            self._insert_run(database, run, new_id, parent)
            tags = {
                "mlflow.source.name": "sweep run",
                "mlflow.source.type": "LOCAL",
                "mlflow.runName": run.name,
                "mlflow.parentRunId": parent.run_id,
                **cut_tags(run.tags),
                **tags,
            }
        database.executemany(_SET_TAG, [(key, value, run_id) for key, value in tags.items()])
        params = [(key, cut(value, PARAM_CHARS), run_id) for key, value in change.params.items()]
        database.executemany(_INSERT["params"], params)
        rows = [_metric_row(point) for point in change.points]
        database.executemany(
            _INSERT["metrics"], [(key, value, at_ms, run_id, step, nan) for key, value, at_ms, step, nan in rows]
        )
        database.executemany(_SET_LATEST, [(*row, run_id) for row in rows])
        if change.status is not None:
            database.execute(
                "UPDATE runs SET status = ?, end_time = coalesce(?, end_time) WHERE run_uuid = ?",
                (change.status, change.ended_at_ms if change.ends else None, run_id),
            )

    def _insert_run(self, database: sqlite3.Connection, run: RunRecord, run_id: str, parent: _Parent) -> None:
        started_at_ms = round(time.time() * 1000) if run.started_at_ms is None else run.started_at_ms
        database.execute(
            _INSERT["runs"],
            (
                *(run_id, run.name, "UNKNOWN", "", "", "unknown", "RUNNING", started_at_ms, None, "", "active"),
                *(parent.artifact_uri.replace(parent.run_id, run_id), self._experiment_id, None),
            ),
        )
        for source_id, input_tags in parent.inputs:
            input_id = uuid.uuid4().hex
            database.execute(_INSERT["inputs"], (input_id, "DATASET", source_id, "RUN", run_id, 0))
            database.executemany(_INSERT["input_tags"], [(input_id, name, value) for name, value in input_tags.items()])


def _is_writable(run: RunRecord, change: Projection) -> bool:
    """Return whether only this process has written the run, and nothing of the change."""
    if run.adopted or (run.run_id is None and run.may_exist):
        return False
    return run.run_id is None or not change.is_whole


def _tables_fit(database: sqlite3.Connection) -> bool:
    """Return whether the tables have the columns that this module knows, in their order."""
    return all(
        [name for _, name, *_ in database.execute(f"PRAGMA table_xinfo({table})")] == columns.split()
        for table, columns in _COLUMNS.items()
    )


def _read_parent(database: sqlite3.Connection, run_id: str) -> _Parent:
    [(artifact_uri,)] = database.execute("SELECT artifact_uri FROM runs WHERE run_uuid = ?", (run_id,))
    inputs = database.execute(
        "SELECT source_id, input_uuid FROM inputs WHERE source_type = 'DATASET' AND destination_type = 'RUN' "
        "AND destination_id = ?",
        (run_id,),
    ).fetchall()
    tags = [
        dict(database.execute("SELECT name, value FROM input_tags WHERE input_uuid = ?", (input_id,)).fetchall())
        for _, input_id in inputs
    ]
    return _Parent(run_id, artifact_uri, [(source_id, tag) for (source_id, _), tag in zip(inputs, tags, strict=True)])


def _metric_row(point: Point) -> tuple[str, float, int, int, int]:
    """Return key, value, time, step and whether the value is NaN, which MLflow stores as 0."""
    if math.isnan(point.value):
        return point.key, 0.0, point.timestamp_ms, point.step, 1
    largest = sys.float_info.max
    return point.key, max(-largest, min(largest, point.value)), point.timestamp_ms, point.step, 0
