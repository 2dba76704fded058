"""What a run has logged, read back: the metrics of any MLflow run, whoever wrote it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sweeps.errors import Problem, SweepError, UserInputError
from sweeps.tracking import mlflow_client, reachability
from sweeps.tracking.outbox import RejectedError, UnreachableError

LARGEST = 1.797e308
"""MLflow's databases hold an infinity as the largest number there is."""


@dataclass(frozen=True)
class MetricHistory:
    """A run's name, its status as MLflow has it, and by metric (step, value) in the order in which they were logged."""

    name: str
    status: str
    metrics: Mapping[str, tuple[tuple[int, float], ...]]


def metric_history(uri: str, run_id: str) -> MetricHistory:
    """Read a run. Changes nothing. Raises UserInputError for a run that is not there, SweepError without MLflow."""
    path = reachability.sqlite_path(uri)
    if path is None:
        reachability.check(uri)
    elif not path.is_file():
        hint = "give the place by MLFLOW_TRACKING_URI, or the folder of the sweeps by --root"
        raise SweepError(f"there is no MLflow database at {reachability.without_secrets(uri)}", hint)
    mlflow_client.load()
    try:
        with mlflow_client.translated_errors():
            client = mlflow_client.new_client(uri)
            run = client.get_run(run_id)
            metrics = {
                key: tuple(
                    (int(each.step), _value(each.value))
                    for each in sorted(
                        client.get_metric_history(run_id, key), key=lambda each: (each.timestamp, each.step)
                    )
                )
                for key in run.data.metrics
            }
    except RejectedError as error:
        hint = "the run's id stands in its address in the MLflow UI; MLFLOW_TRACKING_URI says which MLflow"
        raise UserInputError([Problem(f"mlflow:{run_id}", f"MLflow refuses: {error}", hint)]) from error
    except UnreachableError as error:
        raise SweepError(str(error), "give another place by MLFLOW_TRACKING_URI") from error
    return MetricHistory(run.info.run_name or "", str(run.info.status), metrics)


def _value(value: float) -> float:
    return math.copysign(math.inf, value) if abs(value) > LARGEST else float(value)
