"""Resolving a request without loading weights: its model, task, settings and learning rate.

Loads no torch.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from backends.contract import BackendError, Dataset, TrainingRequest
from backends.hyperparameter_checks import check_hyperparameters
from backends.local import hyperparameters, model_source
from backends.local.model_source import ModelSource, user_error
from backends.local.options import LocalOptions, Task
from backends.local.pretraining_rates import PretrainingRate, pretraining_rate
from backends.local.truncation import LengthRule


@dataclass(frozen=True)
class ResolvedRequest:
    """Everything about a request that can be determined without loading weights."""

    base: ModelSource
    task: Task
    settings: hyperparameters.Settings
    peak_learning_rate: float
    pretraining_rate: PretrainingRate | None
    length_rule: LengthRule

    @property
    def max_length(self) -> int:
        """The most tokens of one example."""
        return self.length_rule.max_length


def base_model_of(request: TrainingRequest, options: LocalOptions) -> str:
    """Return the model to train: that of the hyperparameters, else of the request, else of the
    options.
    """
    return str(request.hyperparameters.get("base_model") or request.base_model or options.model)


def resolve(request: TrainingRequest, options: LocalOptions, *, weights: bool = True) -> ResolvedRequest:
    """Resolve a request. Download a hub model's weights only if `weights` is true.

    Raises BackendError (user) for a model or learning rate that cannot be determined, and for
    hyperparameters that the task does not allow.
    """
    base = model_source.find(base_model_of(request, options), options.revision, weights=weights)
    task = options.task if options.task != "auto" else model_source.task_of_config(base.config)
    if task is None:
        architecture = ", ".join(base.config.get("architectures") or ["unknown architecture"])
        raise user_error(
            f"{base.name} ({architecture}) is neither a causal language model nor a known encoder",
            "set backend.task, or choose another model",
        )
    if task == "sequence-classification" and not request.dataset.labels:
        raise user_error(
            "sequence classification needs labels", "give the data set labels, or use a causal language model"
        )
    if failures := check_hyperparameters(request.hyperparameters, hyperparameters.capabilities(task)):
        raise BackendError(failures[0])
    settings = hyperparameters.settings(request.hyperparameters)
    rate = pretraining_rate(base, options.pretraining_learning_rate)
    if rate is None and settings.learning_rate is None:
        raise user_error(
            f"the pre-training learning rate of {base.name} is unknown, and learning_rate_multiplier multiplies it",
            "set backend.pretraining_learning_rate, or search learning_rate instead",
        )
    return ResolvedRequest(
        base,
        task,
        settings,
        settings.peak_learning_rate(rate.value if rate else None),
        rate,
        _length_rule(base, options),
    )


def _length_rule(base: ModelSource, options: LocalOptions) -> LengthRule:
    limit = base.max_length(options.max_length)
    return LengthRule(limit, options.long_prompts, options.long_completions, base.max_length(sys.maxsize) > limit)


def metrics_of(task: Task, dataset: Dataset) -> tuple[str, ...]:
    """Return the names of the metrics that evaluations report, without those of generated texts."""
    declared = hyperparameters.capabilities(task)
    return tuple(metric for metric in declared.metrics if dataset.labels or metric not in declared.label_metrics)
