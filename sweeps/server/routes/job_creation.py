"""From the request for a job to its record, with all checks that do not read the files."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

from sweeps.server import hyperparameters
from sweeps.server.errors import ApiError
from sweeps.server.records import Job, Task, TunedModel, base_name, new_id
from sweeps.server.routes import files
from sweeps.server.schemas.jobs import MAX_SEED, CreateJob, TaskSettings
from sweeps.server.service import Service


@dataclass(frozen=True)
class _ModelChoice:
    """The model that a job fine-tunes.

    `base_name` is the public name of its base model, and `base_model` what the backend calls that.
    `resume_from` is what the backend calls the fine-tuned model to fine-tune further, or None.
    """

    base_name: str
    base_model: str
    resume_from: str | None


def new_job(service: Service, body: CreateJob) -> Job:
    """Return the record of a requested job. Raises ApiError if the server cannot accept it."""
    model = _choose_model(service, body.model)
    capabilities = service.backend.capabilities_for(model.base_name)
    if model.resume_from is not None and not capabilities.can_resume:
        message = "This server cannot fine-tune a fine-tuned model further; name a base model."
        raise ApiError(400, message, code="model_not_available", param="model")
    given = body.model_dump(include={"method", "hyperparameters"}, exclude_none=True)
    values = hyperparameters.requested_values(given.get("method"), given.get("hyperparameters"), capabilities)
    _check_file(service, body.training_file, "training_file")
    if body.validation_file is not None:
        _check_file(service, body.validation_file, "validation_file")
    return Job(
        id=new_id("ftjob-"),
        created_at=int(time.time()),
        model=body.model,
        base_model=model.base_model,
        training_file=body.training_file,
        validation_file=body.validation_file,
        seed=secrets.randbelow(MAX_SEED) if body.seed is None else body.seed,
        suffix=body.suffix,
        metadata=body.metadata,
        hyperparameters=values,
        task=_task(body.task or TaskSettings()),
        resume_from=model.resume_from,
    )


def _choose_model(service: Service, name: str) -> _ModelChoice:
    base_models = service.settings.models
    if name in base_models:
        return _ModelChoice(name, base_models[name], None)
    tuned_model = service.store.find(TunedModel, name)
    job = None if tuned_model is None else service.store.find(Job, tuned_model.job_id)
    if tuned_model is None or job is None:
        message = f"The model {name[:128]!r} does not exist. Base models: {', '.join(base_models) or 'none'}."
        raise ApiError(400, message, code="model_not_found", param="model")
    return _ModelChoice(base_name(name), job.base_model, tuned_model.target)


def _check_file(service: Service, file_id: str, param: str) -> None:
    """Raise ApiError (400) if a job cannot use the file."""
    file = files.find_file(service, file_id, param, 400)
    if file.purpose != files.PURPOSE:
        message = f"The file {file.id} has the purpose {file.purpose!r}, not {files.PURPOSE!r}."
        raise ApiError(400, message, code="invalid_file_purpose", param=param)
    if files.is_processing(service, file):
        raise ApiError(400, f"The file {file.id} is not ready yet.", code="file_not_ready", param=param)


def _task(settings: TaskSettings) -> Task:
    labels = settings.labels
    return Task(
        labels=labels if isinstance(labels, str) else tuple(dict.fromkeys(labels)),
        stop=settings.stop,
        per_epoch=settings.per_epoch,
        train_examples=settings.train_examples,
        keep_metric=settings.keep_metric,
        keep_maximum=settings.keep_maximum,
    )
