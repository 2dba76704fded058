"""Reads the logged metrics of any MLflow run back, whoever wrote them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sweeps.errors import Problem, SweepError, UserInputError
from sweeps.tracking import mlflow_client, reachability
from sweeps.tracking.mlflow_errors import translated_errors
from sweeps.tracking.outbox import RejectedError, UnreachableError

MAX_STORED = 1.797e308
"""A larger value is an infinity: MLflow's databases store it as the largest number."""


@dataclass(frozen=True)
class MetricHistory:
    """The metrics of a run: for each name, the pairs (step, value) in the order of logging.

    `name` is the name of the run. `status` is MLflow's word for its state, and `state` ours if the
    run is a trial of a sweep, empty for any other run.
    """

    name: str
    status: str
    state: str
    metrics: Mapping[str, tuple[tuple[int, float], ...]]


def metric_history(uri: str, run_id: str) -> MetricHistory:
    """Read the metrics of a run. Changes nothing.

    Raises UserInputError if the run does not exist, and SweepError if MLflow cannot be reached.
    """
    path = reachability.sqlite_path(uri)
    if path is None:
        reachability.check(uri)
    elif not path.is_file():
        hint = "Set MLFLOW_TRACKING_URI, or give the workspace of the sweeps by --root."
        raise SweepError(f"there is no MLflow database at {reachability.without_secrets(uri)}", hint)
    mlflow_client.load()
    try:
        with translated_errors():
            client = mlflow_client.new_client(uri)
            run = client.get_run(run_id)
            metrics = {}
            for name in run.data.metrics:
                points = sorted(
                    client.get_metric_history(run_id, name), key=lambda point: (point.timestamp, point.step)
                )
                metrics[name] = tuple((int(point.step), _value(point.value)) for point in points)
    except RejectedError as error:
        hint = "Copy the run's id from its address in the MLflow UI. MLFLOW_TRACKING_URI selects the MLflow."
        raise UserInputError([Problem(f"mlflow:{run_id}", f"MLflow refused the request: {error}", hint)]) from error
    except UnreachableError as error:
        raise SweepError(str(error), "Set MLFLOW_TRACKING_URI to another place.") from error
    return MetricHistory(run.info.run_name or "", str(run.info.status), run.data.tags.get("state", ""), metrics)


def _value(value: float) -> float:
    return math.copysign(math.inf, value) if abs(value) > MAX_STORED else float(value)
