"""Checks of the task metrics that a request wants. Sends no request."""

from __future__ import annotations

from collections.abc import Iterator

from backends.contract import Capabilities, EvaluationSettings, Failure, FailureKind
from backends.metrics import requested_metric


def failures(evaluation: EvaluationSettings, capabilities: Capabilities) -> Iterator[Failure]:
    """Yield the reasons why the task metrics cannot be measured."""
    if not evaluation.metrics:
        return
    if not capabilities.task_metrics:
        message = "models of this host answer only while they are deployed, so task metrics cannot be measured"
        yield Failure(FailureKind.USER, message, "Say where to deploy them: `backend: {deployment: {...}}`.")
    yield from requested_metric.failures(evaluation.metrics)
    if evaluation.generation_in_use.per_epoch != 1:
        message = "generate.per_epoch: a hosted model is asked once, when its job is complete"
        yield Failure(FailureKind.USER, message, "Set generate.per_epoch to 1.")
