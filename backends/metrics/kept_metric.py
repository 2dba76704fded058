"""Whether a run keeps its state by a task metric, and whether that was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backends.contract import EvaluationSettings, Failure, FailureKind, MetricRequest


def evaluation_names(requests: Sequence[MetricRequest]) -> list[str]:
    """Return the names by which evaluations report the metrics."""
    return [f"valid_{requested.name}" for requested in requests]


def may_be_measured(metric: str, requests: Sequence[MetricRequest]) -> bool:
    """Whether `metric` is the value of a requested task metric, or can be a further value.

    Only a measurement shows which further values a metric has.
    """
    return any(metric == name or metric.startswith(f"{name}_") for name in evaluation_names(requests))


def missing_kept_metric(evaluation: EvaluationSettings, values: Mapping[str, float]) -> Failure | None:
    """Return the failure (user) if the task metrics lack the value by which to keep a state.

    None if another metric decides. `values` are by the names of evaluations.
    """
    metric = evaluation.keep_metric
    if metric in values or not may_be_measured(metric, evaluation.metrics):
        return None
    message = f"the evaluations do not measure {metric}, so it cannot choose the kept state"
    return Failure(FailureKind.USER, message, f"choose one of: {', '.join(sorted(values))}")
