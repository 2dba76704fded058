"""Checks of the task metrics that a request wants. Sends no request."""

from __future__ import annotations

from collections.abc import Iterator

from backends.contract import BackendError, Capabilities, EvaluationSettings, Failure, FailureKind
from backends.metrics.failures import about_metric
from backends.metrics.requested_metric import resolve


def failures(evaluation: EvaluationSettings, capabilities: Capabilities) -> Iterator[Failure]:
    """Yield the reasons why the task metrics cannot be measured."""
    if not evaluation.metrics:
        return
    if not capabilities.task_metrics:
        message = "models of this host answer only while they are deployed, so task metrics cannot be measured"
        yield Failure(FailureKind.USER, message, "Say where to deploy them: `backend: {deployment: {...}}`.")
    for metric in evaluation.metrics:
        try:
            resolve(metric)
        except BackendError as error:
            yield about_metric(metric.name, error.failure)
    if evaluation.generation is not None and evaluation.generation.per_epoch != 1:
        message = "generate.per_epoch: a hosted model is asked once, when its job is complete"
        yield Failure(FailureKind.USER, message, "Set generate.per_epoch to 1.")
