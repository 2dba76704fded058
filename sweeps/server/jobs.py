"""/v1/fine_tuning/jobs: create, list, retrieve, cancel, pause, resume, events, checkpoints."""

from __future__ import annotations

import re
import secrets
import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from sweeps.server import files, hyperparameters
from sweeps.server.errors import ApiError, not_found
from sweeps.server.records import ENDED, Checkpoint, Job, JobEvent, Status, Task, TunedModel, new_id
from sweeps.server.responses import ERRORS, After, Id, answer, listing
from sweeps.server.schemas import (
    MAX_SEED,
    CheckpointList,
    CheckpointObject,
    CreateJob,
    EventList,
    EventObject,
    JobList,
    JobObject,
    TaskSettings,
)
from sweeps.server.service import Service
from sweeps.server.storage import Condition, log

_METADATA = {
    "parameters": [
        {
            "name": "metadata",
            "in": "query",
            "required": False,
            "style": "deepObject",
            "explode": True,
            "description": "metadata[k]=v: only jobs with this pair; the literal metadata=null: only jobs without any",
            "schema": {"type": "object", "additionalProperties": {"type": "string"}},
        }
    ]
}
_OF_JOB = "SELECT 1 FROM job_metadata WHERE job_id = jobs.id"
_KEY = re.compile(r"metadata\[(.+)\]")

EventLimit = Annotated[int, Query(ge=1, le=1000)]


def router(service: Service) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"], responses=ERRORS)
    store, faults = service.store, service.faults

    @routes.post("", response_model=JobObject)
    def create_job(order: CreateJob) -> Response:
        """Accept a job. What is wrong with its files shows on the job afterwards, as with the real services."""
        job = _ordered(service, order)
        lines = [
            log(job.id, f"Created fine-tuning job: {job.id}"),
            log(job.id, f"Validating training file: {job.training_file}"),
        ]
        if job.validation_file is not None:
            lines[-1] = log(job.id, f"{lines[-1].message} and validation file: {job.validation_file}")
        store.add_job(job, lines)
        service.runner.wake()
        return answer(shown(service, job))

    @routes.get("", response_model=JobList, openapi_extra=_METADATA)
    def list_jobs(request: Request, after: After = None, limit: Annotated[int, Query(ge=1, le=1000)] = 20) -> Response:
        """List the jobs, the newest first."""
        where = _filter(request)
        return answer(
            listing(
                lambda: store.page(Job, after=after, limit=limit, where=where),
                lambda job: shown(service, job),
                ends=False,
            )
        )

    @routes.get("/{job_id}", response_model=JobObject)
    def retrieve_job(job_id: Id) -> Response:
        """Return a job."""
        return answer(shown(service, known(service, job_id)))

    @routes.post("/{job_id}/cancel", response_model=JobObject)
    def cancel_job(job_id: Id) -> Response:
        """Cancel a job; its run ends soon."""
        job = known(service, job_id)
        if not service.runner.cancel(job):
            raise _wrong_state(service, job_id, "cancelled")
        return answer(shown(service, known(service, job_id)))

    @routes.post("/{job_id}/pause", response_model=JobObject)
    def pause_job(job_id: Id) -> Response:
        """Pause a job: a queued one waits, a running one is suspended where the backend's runs can be."""
        job = known(service, job_id)
        if job.status is Status.RUNNING and not service.runner.can_pause_running():
            message = "A running job cannot be paused on this server; a queued one can."
            raise ApiError(400, message, code="pause_not_supported", param="job_id")
        if not service.runner.pause(job):
            raise _wrong_state(service, job_id, "paused")
        return answer(shown(service, known(service, job_id)))

    @routes.post("/{job_id}/resume", response_model=JobObject)
    def resume_job(job_id: Id) -> Response:
        """Go on with a paused job."""
        job = known(service, job_id)
        if not service.runner.resume(job):
            raise _wrong_state(service, job_id, "resumed")
        return answer(shown(service, known(service, job_id)))

    @routes.get("/{job_id}/events", response_model=EventList)
    def list_events(job_id: Id, after: After = None, limit: EventLimit = 20) -> Response:
        """Return the job's log, the newest line first."""
        job = known(service, job_id)
        where = [Condition("job_id = ?", (job.id,))]
        if (delay := faults.concerns("late_events", job.id)) is not None:
            where.append(Condition("created_at + 1 <= ?", (time.time() - float(delay),)))  # it is in whole seconds
        return answer(listing(lambda: store.page(JobEvent, after=after, limit=limit, where=where), _event, ends=False))

    @routes.get("/{job_id}/checkpoints", response_model=CheckpointList)
    def list_checkpoints(job_id: Id, after: After = None, limit: EventLimit = 10) -> Response:
        """Return the checkpoints that are kept, the newest first."""
        job = known(service, job_id)
        where = [Condition("job_id = ?", (job.id,))]
        if job.status is not Status.SUCCEEDED and faults.concerns("late_checkpoints", job.id) is not None:
            where.append(Condition("1 = 0"))
        return answer(listing(lambda: store.page(Checkpoint, after=after, limit=limit, where=where), _checkpoint))

    return routes


def known(service: Service, job_id: str) -> Job:
    """Return a job. Raises ApiError (404) where there is none."""
    job = service.store.find(Job, job_id)
    if job is None:
        message = f"Could not find fine tune: {job_id[:64]}"
        error = not_found("job", job_id[:64], param="fine_tune_id", code="fine_tune_not_found")
        error.message = message
        raise error
    return job


def _wrong_state(service: Service, job_id: str, wanted: str) -> ApiError:
    status = known(service, job_id).status.value
    return ApiError(400, f"The job is {status} and cannot be {wanted}.", code="invalid_job_state", param="job_id")


# --------------------------------------------------------------------------------------------------------------- create
def _ordered(service: Service, order: CreateJob) -> Job:
    base, target, resume_from = _model(service, order.model)
    capabilities = service.trainer.capabilities_for(base)
    if resume_from is not None and not capabilities.can_resume:
        message = "This server cannot go on from a fine-tuned model; name a base model."
        raise ApiError(400, message, code="model_not_available", param="model")
    method = None if order.method is None else order.method.model_dump(exclude_none=True)
    deprecated = None if order.hyperparameters is None else order.hyperparameters.model_dump(exclude_none=True)
    values = hyperparameters.requested(method, deprecated, capabilities)
    for param in ("training_file", "validation_file"):
        if (file_id := getattr(order, param)) is not None:
            _usable(service, file_id, param)
    return Job(
        id=new_id("ftjob-"),
        created_at=int(time.time()),
        model=order.model,
        base_model=target,
        training_file=order.training_file,
        validation_file=order.validation_file,
        seed=secrets.randbelow(MAX_SEED) if order.seed is None else order.seed,
        suffix=order.suffix,
        metadata=order.metadata,
        hyperparameters=values,
        task=_task(order.task or TaskSettings()),
        resume_from=resume_from,
    )


def _model(service: Service, name: str) -> tuple[str, str, str | None]:
    """Return a model's base model, what the backend calls that, and the fine-tuned model to go on from."""
    models = service.settings.models
    if name in models:
        return name, models[name], None
    tuned = service.store.find(TunedModel, name)
    job = None if tuned is None else service.store.find(Job, tuned.job_id)
    if tuned is None or job is None:
        message = f"The model {name[:128]!r} does not exist. Base models: {', '.join(models) or 'none'}."
        raise ApiError(400, message, code="model_not_found", param="model")
    base = name.split(":")[1]
    return base, job.base_model, tuned.target


def _usable(service: Service, file_id: str, param: str) -> None:
    file = files.known(service, file_id, param, 400)
    if file.purpose != files.PURPOSE:
        message = f"The file {file.id} has the purpose {file.purpose!r}, not {files.PURPOSE!r}."
        raise ApiError(400, message, code="invalid_file_purpose", param=param)
    if files.is_processing(service, file):
        raise ApiError(400, f"The file {file.id} is not ready yet.", code="file_not_ready", param=param)


def _task(settings: TaskSettings) -> Task:
    values = settings.model_dump()
    if not isinstance(values["labels"], str):
        values["labels"] = tuple(dict.fromkeys(values["labels"]))
    return Task(**values)


def _filter(request: Request) -> list[Condition]:
    where: list[Condition] = []
    for name, value in request.query_params.multi_items():
        if name == "metadata" and value == "null":
            where.append(Condition(f"NOT EXISTS ({_OF_JOB})"))
        elif found := _KEY.fullmatch(name):
            where.append(Condition(f"EXISTS ({_OF_JOB} AND name = ? AND value = ?)", (found[1], value)))
        elif name.startswith("metadata"):
            message = "Filter by metadata[key]=value, or by the literal metadata=null."
            raise ApiError(400, message, param="metadata")
    return where


# ---------------------------------------------------------------------------------------------------------------- shown
def shown(service: Service, job: Job) -> dict[str, Any]:
    """Return a job as clients see it."""
    base = job.model.split(":")[1] if job.model.startswith("ft:") else job.model
    values = hyperparameters.shown(job, service.trainer.capabilities_for(base))
    body = JobObject.model_validate(
        {
            "id": job.id,
            "created_at": job.created_at,
            "finished_at": job.finished_at,
            "model": job.model,
            "fine_tuned_model": job.fine_tuned_model,
            "organization_id": service.settings.organization,
            "status": job.status.value,
            "hyperparameters": values,
            "method": {"type": "supervised", "supervised": {"hyperparameters": values}},
            "training_file": job.training_file,
            "validation_file": job.validation_file,
            "result_files": list(job.result_files),
            "trained_tokens": job.trained_tokens,
            "seed": job.seed,
            "error": job.error,
            "integrations": [],
            "metadata": job.metadata,
            "user_provided_suffix": job.suffix,
            "task": {**vars(job.task), "labels": _listed(job.task.labels)},
        }
    ).model_dump(mode="json")
    return _misreported(service, job, body) if service.faults else body


def _listed(labels: tuple[str, ...] | str) -> list[str] | str:
    return labels if isinstance(labels, str) else list(labels)


def _misreported(service: Service, job: Job, body: dict[str, Any]) -> dict[str, Any]:
    faults = service.faults
    if job.error is None and faults.concerns("empty_error", job.id) is not None:
        body["error"] = {}
    if job.status in (Status.VALIDATING, Status.QUEUED) and faults.concerns("pending", job.id) is not None:
        body["status"] = "pending"
    if job.status is Status.RUNNING and (word := faults.concerns("odd_status", job.id)) is not None:
        body["status"] = word
    if faults.concerns("null_fields", job.id) is not None:
        body["organization_id"] = None
        if job.status not in ENDED:
            body["result_files"] = None
    if job.fine_tuned_model is not None and faults.delays("late_model", job.id):
        body["fine_tuned_model"] = None
    return body


def _event(event: JobEvent) -> dict[str, Any]:
    return EventObject.model_validate(
        {name: value for name, value in vars(event).items() if name != "job_id"}
    ).model_dump(mode="json")


def _checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    return CheckpointObject.model_validate(
        {
            "id": checkpoint.id,
            "created_at": checkpoint.created_at,
            "fine_tuned_model_checkpoint": checkpoint.model,
            "fine_tuning_job_id": checkpoint.job_id,
            "metrics": dict(checkpoint.metrics),
            "step_number": checkpoint.step,
        }
    ).model_dump(mode="json")
