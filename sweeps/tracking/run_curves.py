"""The history of an MLflow run, ours or anybody's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.training_logs import ImportedCurve, RunDetails, TrainingLogError
from backends.training_logs.curve_assembly import assemble_curve
from backends.training_logs.learning_curve import RunEnd
from backends.training_logs.log_table import LogRow, LogTable

PREFIX = "mlflow:"
"""In place of a file's name: `mlflow:RUN_ID`."""

_ENDED: Mapping[str, RunEnd] = {"FINISHED": "complete", "FAILED": "failed", "KILLED": "stopped", "RUNNING": "stopped"}


def read(run_id: str, uri: str, context: RunDetails) -> ImportedCurve:
    """Read a run's metrics. Raises SweepError where MLflow does not answer, UserInputError where it has no such run."""
    from sweeps.tracking import metric_history

    history = metric_history(uri, run_id)
    rows: dict[int, dict[str, Any]] = {}
    for key, values in history.metrics.items():
        if not key.startswith("untrained/"):  # the base model's own scores once more; they stand at step 0 anyway
            for step, value in values:
                rows.setdefault(step, {})[key] = value
    name = f"{PREFIX}{run_id}"
    if not rows:
        raise TrainingLogError(name, "the run has no metrics", "a sweep's trials are its child runs: give one of these")
    table = LogTable(
        name=f"{name} ({history.name})" if history.name else name,
        format="MLflow run",
        rows=tuple(LogRow(f"{name}, step {step}", {"step": step, **rows[step]}) for step in sorted(rows)),
        ended=_ENDED.get(history.status, "stopped"),
    )
    return assemble_curve(table, context)
