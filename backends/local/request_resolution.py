"""Looking up what a request means, without loading weights: model, task, settings, learning rate. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass

from backends.contract import BackendError, Dataset, TrainingRequest
from backends.hyperparameter_checks import contradictions
from backends.local import hyperparameters, model_source
from backends.local.model_source import ModelSource, user_error
from backends.local.options import LocalOptions, Task
from backends.local.pretraining_rates import pretraining_rate


@dataclass(frozen=True)
class Resolved:
    """A request with everything looked up that can be looked up without loading weights."""

    base: ModelSource
    task: Task
    settings: hyperparameters.Settings
    peak_rate: float
    pretraining: tuple[float, str] | None
    max_length: int


def base_model_of(request: TrainingRequest, options: LocalOptions) -> str:
    """Return the model to train: the hyperparameter, else the request's, else that of the options."""
    return str(request.hyperparameters.get("base_model") or request.base_model or options.model)


def resolve(request: TrainingRequest, options: LocalOptions, *, weights: bool = True) -> Resolved:
    """Look everything up. Raises BackendError (user) for what is missing; hyperparameters have been validated."""
    base = model_source.find(base_model_of(request, options), options.revision, weights=weights)
    task = options.task if options.task != "auto" else model_source.task_of_config(base.config)
    if task is None:
        architecture = ", ".join(base.config.get("architectures") or ["an unknown architecture"])
        raise user_error(
            f"{base.name} ({architecture}) is neither a causal language model nor a known encoder",
            "set backend.task, or choose another model",
        )
    if task == "sequence-classification" and not request.dataset.labels:
        raise user_error("sequence classification needs labels", "give the data set labels, or a causal language model")
    if found := contradictions(request.hyperparameters, hyperparameters.capabilities(task)):
        raise BackendError(found[0])
    chosen = hyperparameters.settings(request.hyperparameters)
    rate = pretraining_rate(base, options.pretraining_learning_rate)
    if rate is None and chosen.learning_rate is None:
        raise user_error(
            f"the pre-training learning rate of {base.name} is not known, so learning_rate_multiplier has no meaning",
            "give backend.pretraining_learning_rate, or search learning_rate instead",
        )
    return Resolved(
        base,
        task,
        chosen,
        chosen.peak_rate(rate.value if rate else None),
        (rate.value, rate.source) if rate else None,
        base.max_length(options.max_length),
    )


def metrics_of(task: Task, dataset: Dataset) -> tuple[str, ...]:
    """Return the metrics that evaluations carry."""
    declared = hyperparameters.capabilities(task)
    return tuple(each for each in declared.metrics if dataset.labels or each not in declared.label_metrics)
