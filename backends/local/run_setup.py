"""Setting up a run: from a resolved request to loaded data, model and trainable weights."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import torch

from backends.contract import BackendError, Placement, Scalar, TrainingRequest
from backends.local import device as devices
from backends.local import metric_checks, model_source, training
from backends.local.encoded_data import CausalData, EncodedData
from backends.local.memory import RunShape, forecast
from backends.local.model import LoadedModel, ModelSpec
from backends.local.model_cache import MODEL_CACHE, fixed_sample
from backends.local.model_source import ModelSource, user_error
from backends.local.optimizers import optimizer_problem
from backends.local.options import LocalOptions
from backends.local.request_resolution import ResolvedRequest, metrics_of
from backends.local.trainable_weights import TrainableWeights
from backends.metrics.kept_metric import may_be_measured


def set_up_run(
    request: TrainingRequest, resolved: ResolvedRequest, options: LocalOptions, placement: Placement
) -> tuple[training.TrainingPlan, TrainableWeights]:
    """Load and encode everything that is not in the cache yet. Raises BackendError.

    The caller must release the returned weights.
    """
    settings, task = resolved.settings, resolved.task
    if failures := metric_checks.failures(request, task, resolved.max_length):
        raise BackendError(failures[0])
    devices.set_threads(placement)
    devices.keep_freed_memory()
    device = devices.resolve_device(options.device)
    dtype = devices.resolve_dtype(options.dtype, device)
    if (problem := optimizer_problem(settings.optimizer, device.type)) is not None:
        raise user_error(*problem)
    train, valid = (
        MODEL_CACHE.encoded_data(resolved.base, task, request.dataset, part, resolved.length_rule)
        for part in ("train", "valid")
    )
    shape = RunShape.of(resolved, options, device, dtype, train)
    if shape is not None and (failure := forecast(shape, options, placement).failure) is not None:
        raise BackendError(failure)
    source, adapter_directory = _initial_weights(request, resolved)
    model = MODEL_CACHE.model(
        ModelSpec(
            source,
            task,
            device,
            dtype,
            # Trained weights stay in float32, because the steps of a small learning rate vanish in
            # bfloat16.
            weights_dtype=torch.float32 if settings.lora is None else dtype,
            labels=request.dataset.labels if task == "sequence-classification" else (),
            new_head=request.resume_from is None or adapter_directory is not None,
        )
    )
    requested_metric = request.evaluation.keep_metric
    is_measured = requested_metric in metrics_of(task, request.dataset) or may_be_measured(
        requested_metric, request.evaluation.metrics
    )
    plan = training.TrainingPlan(
        train=train,
        valid=valid,
        train_sample=fixed_sample(train, request.evaluation.train_examples),
        settings=settings,
        peak_learning_rate=resolved.peak_learning_rate,
        evaluation=request.evaluation
        if is_measured
        else replace(request.evaluation, keep_metric="valid_loss", keep_maximum=False),
        keep_metric=requested_metric if is_measured else "valid_loss",
        seed=request.seed,
        micro_batch_size=_micro_batch_size(options, placement, settings.batch_size, train, model, shape),
    )
    trainable = TrainableWeights(
        model,
        settings.lora,
        request.seed,
        adapter_directory,
        gradient_checkpointing=options.gradient_checkpointing,
        noise_alpha=settings.neftune_noise_alpha,
    )
    return plan, trainable


def _micro_batch_size(
    options: LocalOptions,
    placement: Placement,
    batch_size: int,
    train: EncodedData,
    model: LoadedModel,
    shape: RunShape | None,
) -> int:
    """Return how many examples to compute at once: the requested number, or as many as are fast and
    are expected to fit. The result of a run does not depend on it.
    """
    if options.micro_batch_size:
        return min(batch_size, options.micro_batch_size)
    size = training.initial_micro_batch_size(train, batch_size, model)
    return size if shape is None else shape.fitting(size, placement)


def values_in_use(
    request: TrainingRequest,
    resolved: ResolvedRequest,
    plan: training.TrainingPlan,
    trainable: TrainableWeights,
) -> dict[str, Scalar]:
    """Return the values that a run really uses.

    They include the request's hyperparameters unchanged.
    """
    settings, model = resolved.settings, trainable.model
    values: dict[str, Scalar] = {
        "task": resolved.task,
        "base_model": resolved.base.name,
        "n_epochs": settings.n_epochs,
        "batch_size": settings.batch_size,
        "micro_batch_size": plan.micro_batch_size,
        "learning_rate": resolved.peak_learning_rate,
        "schedule": settings.schedule,
        "warmup_ratio": settings.warmup_ratio,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "optimizer": settings.optimizer,
        "neftune_noise_alpha": settings.neftune_noise_alpha,
        "method": "lora" if settings.lora else "full",
        "keep_metric": plan.keep_metric,
        "steps_per_epoch": plan.steps_per_epoch,
        "total_steps": plan.total_steps,
        "training_examples": len(plan.train.ids),
        "validation_examples": len(plan.valid.ids),
        "training_tokens": int(plan.train.lengths.sum()) * settings.n_epochs,
        "truncated_examples": len(plan.train.truncation.cut_prompts) + len(plan.valid.truncation.cut_prompts),
        "max_length": resolved.max_length,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "parameters": sum(parameter.numel() for parameter in model.module.parameters()),
        "trainable_parameters": trainable.count,
    }
    values |= _lost_values(plan)
    if isinstance(plan.train, CausalData):
        values["prompt_loss_weight"] = settings.prompt_loss_weight
        if request.dataset.layout == "chat":
            values |= {"trained_answers": plan.train.answers.trained, "lost_answers": plan.train.answers.lost}
    if plan.evaluation.metrics:
        generated = plan.evaluation.generation_in_use
        values["generated_examples"] = min(generated.examples, request.dataset.valid.examples)
        values["generated_max_tokens"] = generated.decoding.max_tokens
    if settings.lora:
        lora = asdict(settings.lora)
        values |= {name if name.startswith("use_") else f"lora_{name}": value for name, value in lora.items()}
    if resolved.pretraining_rate is not None:
        values["pretraining_learning_rate"] = resolved.pretraining_rate.value
        values["pretraining_learning_rate_source"] = resolved.pretraining_rate.source
    if settings.learning_rate_multiplier is not None:
        values["learning_rate_multiplier"] = settings.learning_rate_multiplier
    if plan.keep_metric != request.evaluation.keep_metric:
        requested = request.evaluation.keep_metric
        values["keep_metric_note"] = (
            f"this run does not measure {requested}; it keeps the state with the lowest valid_loss"
        )
    return {**values, **request.hyperparameters}


def _lost_values(plan: training.TrainingPlan) -> dict[str, Scalar]:
    """Return what the limit of tokens takes from the data, where it takes anything."""
    both = (plan.train.truncation, plan.valid.truncation)
    counts = {
        "lost_tokens": sum(part.lost_tokens for part in both),
        "cut_completions": sum(len(part.cut_completions) for part in both),
        "dropped_examples": sum(len(part.dropped) for part in both),
    }
    return {name: count for name, count in counts.items() if count}


def _initial_weights(request: TrainingRequest, resolved: ResolvedRequest) -> tuple[ModelSource, Path | None]:
    """Return the source of the run's first weights, and the directory of the adapter that it
    continues, or None.
    """
    if request.resume_from is None:
        return resolved.base, None
    directory = Path(request.resume_from)
    if (directory / "adapter_config.json").is_file():
        if resolved.settings.lora is None:
            raise user_error(f"{directory} is an adapter", "resume it with method: lora")
        return resolved.base, directory
    return model_source.find(request.resume_from), None
