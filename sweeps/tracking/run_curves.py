"""Reads the learning curve of any MLflow run, whoever wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.training_logs import ImportedCurve, RunDetails, TrainingLogError, curves_of
from backends.training_logs.learning_curve import RunEnd
from backends.training_logs.log_table import LogRow, LogTable
from sweeps.tracking.projection import UNTRAINED
from sweeps.tracking.run_metrics import metric_history

PREFIX = "mlflow:"
"""Marks a run where a file name is expected: `mlflow:RUN_ID`."""

_RUN_ENDS: Mapping[str, RunEnd] = {
    "FINISHED": "complete",
    "FAILED": "failed",
    "KILLED": "stopped",
    "RUNNING": "stopped",
}


def read(run_id: str, uri: str, details: RunDetails) -> tuple[ImportedCurve, ...]:
    """Read the metrics of a run as learning curves: one for each validation set.

    Raises SweepError if MLflow does not answer, UserInputError if it has no such run, and
    TrainingLogError if the run has metrics at one step at most.
    """
    history = metric_history(uri, run_id)
    rows: dict[int, dict[str, Any]] = {}
    for name, points in history.metrics.items():
        # a copy of the base model's scores, which also stand at step 0
        if name.startswith(UNTRAINED):
            continue
        for step, value in points:
            rows.setdefault(step, {})[name] = value
    source = f"{PREFIX}{run_id}"
    if len(rows) < 2:
        hint = "if it is the run of a sweep, give one of its child runs: these are the trials"
        message = "the run has only one evaluation" if rows else "the run has no metrics"
        raise TrainingLogError(source, message, hint)
    table = LogTable(
        name=f"{source} ({history.name})" if history.name else source,
        format="MLflow run",
        rows=tuple(LogRow(f"{source}, step {step}", {"step": step, **rows[step]}) for step in sorted(rows)),
        ended="stopped" if history.state == "stopped" else _RUN_ENDS.get(history.status, "stopped"),
    )
    return curves_of(table, details)
