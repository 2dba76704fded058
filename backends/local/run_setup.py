"""From a request to what is trained: everything looked up, checked and loaded, before the first step."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from backends.contract import Evaluation, Placement, Scalar, TrainingRequest
from backends.local import device as devices
from backends.local import model_source, training
from backends.local.encoding import CausalData
from backends.local.model_cache import BENCH, fixed_sample
from backends.local.model_source import ModelSource, user_error
from backends.local.options import LocalOptions
from backends.local.request_resolution import Resolved, metrics_of
from backends.local.trainable_weights import TrainableWeights


def assemble(
    request: TrainingRequest, resolved: Resolved, options: LocalOptions, placement: Placement
) -> tuple[training.Plan, TrainableWeights]:
    """Load and encode what is not in memory yet. The trainee must be released. Raises BackendError."""
    settings = resolved.settings
    devices.set_threads(placement)
    devices.keep_freed_memory()
    device = devices.resolve_device(options.device)
    dtype = devices.resolve_dtype(options.dtype, device)
    weights, adapter = _initial_weights(request, resolved)
    model = BENCH.model(
        weights,
        resolved.task,
        device,
        dtype,
        # Weights that are trained stay in float32: steps of a small rate vanish in bfloat16.
        torch.float32 if settings.lora is None else dtype,
        request.dataset.labels,
        new_head=request.resume_from is None or adapter is not None,
    )
    train, valid = (
        BENCH.data(resolved.base, resolved.task, request.dataset, part, resolved.max_length)
        for part in ("train", "valid")
    )
    metrics = metrics_of(resolved.task, request.dataset)
    wanted = request.evaluation.keep_metric
    plan = training.Plan(
        train=train,
        valid=valid,
        sample=fixed_sample(train, request.evaluation.train_examples),
        settings=settings,
        peak_rate=resolved.peak_rate,
        evaluation=request.evaluation if wanted in metrics else _by_loss(request),
        keep_metric=wanted if wanted in metrics else "valid_loss",
        seed=request.seed,
        micro_batch_size=min(settings.batch_size, options.micro_batch_size)
        if options.micro_batch_size
        else training.first_micro_batch(train, settings.batch_size, model),
    )
    return plan, TrainableWeights(model, settings.lora, request.seed, adapter)


def values_in_use(
    request: TrainingRequest, resolved: Resolved, plan: training.Plan, trainee: TrainableWeights
) -> dict[str, Scalar]:
    """Return the values that a run really uses, those of the request unchanged among them."""
    settings, model = resolved.settings, trainee.model
    values: dict[str, Scalar] = {
        "task": resolved.task,
        "base_model": resolved.base.name,
        "n_epochs": settings.n_epochs,
        "batch_size": settings.batch_size,
        "micro_batch_size": plan.micro_batch_size,
        "learning_rate": resolved.peak_rate,
        "schedule": settings.schedule,
        "warmup_ratio": settings.warmup_ratio,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "method": "lora" if settings.lora else "full",
        "keep_metric": plan.keep_metric,
        "steps_per_epoch": plan.steps_per_epoch,
        "total_steps": plan.total_steps,
        "training_examples": len(plan.train.ids),
        "validation_examples": len(plan.valid.ids),
        "training_tokens": int(plan.train.lengths.sum()) * settings.n_epochs,
        "truncated_examples": plan.train.truncated + plan.valid.truncated,
        "max_length": resolved.max_length,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "parameters": sum(each.numel() for each in model.module.parameters()),
        "trainable_parameters": trainee.count,
    }
    if isinstance(plan.train, CausalData):
        values["prompt_loss_weight"] = settings.prompt_loss_weight
    if settings.lora:
        values |= {f"lora_{name}": value for name, value in asdict(settings.lora).items()}
    if resolved.pretraining is not None:
        values["pretraining_learning_rate"], values["pretraining_learning_rate_source"] = resolved.pretraining
    if settings.learning_rate_multiplier is not None:
        values["learning_rate_multiplier"] = settings.learning_rate_multiplier
    if plan.keep_metric != request.evaluation.keep_metric:
        asked = request.evaluation.keep_metric
        values["keep_metric_note"] = f"{asked} is not measured here; the lowest valid_loss is kept"
    return {**values, **request.hyperparameters}


def _by_loss(request: TrainingRequest) -> Evaluation:
    evaluation = request.evaluation
    return Evaluation(evaluation.per_epoch, evaluation.train_examples, "valid_loss", keep_maximum=False)


def _initial_weights(request: TrainingRequest, resolved: Resolved) -> tuple[ModelSource, Path | None]:
    """Return whose weights the run starts from, and the adapter that it goes on with where it resumes one."""
    if request.resume_from is None:
        return resolved.base, None
    directory = Path(request.resume_from)
    if (directory / "adapter_config.json").is_file():
        if resolved.settings.lora is None:
            raise user_error(f"{directory} is an adapter", "resume it with method: lora")
        return resolved.base, directory
    return model_source.find(request.resume_from), None
