"""Checks of the task metrics that a request wants at its evaluations. Loads no torch."""

from __future__ import annotations

from backends.contract import Failure, FailureKind, TrainingRequest
from backends.local.options import Task
from backends.metrics import requested_metric


def failures(request: TrainingRequest, task: Task, max_length: int) -> list[Failure]:
    """Return the reasons why the task metrics of a request cannot be measured."""
    evaluation = request.evaluation
    if not evaluation.metrics:
        return []
    if task != "causal-lm":
        message = "an encoder classifier generates no text, so task metrics cannot be measured"
        return [_user(message, "remove evaluation.metrics, or choose a causal language model")]
    result = requested_metric.failures(evaluation.metrics)
    settings = evaluation.generation_in_use
    if settings.per_epoch < 1 or evaluation.per_epoch % settings.per_epoch:
        message = (
            f"evaluations can generate {settings.per_epoch} times per epoch only if that number divides their own, "
            f"which is {evaluation.per_epoch}"
        )
        result.append(_user(message, "change evaluation.generate.per_epoch or evaluation.per_epoch"))
    if settings.decoding.max_tokens >= max_length:
        message = (
            f"texts of up to {settings.decoding.max_tokens} tokens leave no room for a prompt: "
            f"both together may have at most {max_length} tokens"
        )
        remedy = "lower evaluation.generate.max_tokens, or raise backend.max_length if the model allows it"
        result.append(_user(message, remedy))
    return result


def _user(message: str, remedy: str) -> Failure:
    return Failure(FailureKind.USER, message, remedy)
