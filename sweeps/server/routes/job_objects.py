"""Jobs, events and checkpoints as clients see them."""

from __future__ import annotations

from typing import Any

from backends import codec
from sweeps.server import hyperparameters
from sweeps.server.records import ENDED_STATUSES, Checkpoint, Job, JobEvent, JobStatus
from sweeps.server.schemas.jobs import CheckpointObject, EventObject, JobError, JobObject, TaskSettings
from sweeps.server.service import Service


def job_body(service: Service, job: Job) -> dict[str, Any]:
    """Return a job, changed by the faults that affect it."""
    values = hyperparameters.shown_values(job, service.backend.capabilities_for(job.base_name))
    body = JobObject(
        id=job.id,
        created_at=job.created_at,
        finished_at=job.finished_at,
        model=job.model,
        fine_tuned_model=job.fine_tuned_model,
        organization_id=service.settings.organization,
        status=job.status.value,
        hyperparameters=values,
        method={"type": "supervised", "supervised": {"hyperparameters": values}},
        training_file=job.training_file,
        validation_file=job.validation_file,
        result_files=list(job.result_files),
        trained_tokens=job.trained_tokens,
        seed=job.seed,
        error=None if job.error is None else JobError(**codec.to_json(job.error)),
        integrations=[],
        metadata=None if job.metadata is None else dict(job.metadata),
        user_provided_suffix=job.suffix,
        # not checked again: an earlier version accepted more
        task=TaskSettings.model_construct(**codec.to_json(job.task)),
    ).model_dump()
    if service.faults:
        _apply_faults(service, job, body)
    return body


def _apply_faults(service: Service, job: Job, body: dict[str, Any]) -> None:
    faults = service.faults
    if job.error is None and faults.affects("empty_error", job.id) is not None:
        body["error"] = {}
    is_waiting = job.status in (JobStatus.VALIDATING, JobStatus.QUEUED)
    if is_waiting and faults.affects("pending", job.id) is not None:
        body["status"] = "pending"
    if job.status is JobStatus.RUNNING and (odd_status := faults.affects("odd_status", job.id)) is not None:
        body["status"] = odd_status
    if faults.affects("null_fields", job.id) is not None:
        body["organization_id"] = None
        if job.status not in ENDED_STATUSES:
            body["result_files"] = None
    if job.fine_tuned_model is not None and faults.delays("late_model", job.id):
        body["fine_tuned_model"] = None


def event_body(event: JobEvent) -> dict[str, Any]:
    """Return a line of a job's log."""
    return EventObject(
        id=event.id,
        created_at=event.created_at,
        level=event.level,
        message=event.message,
        type=event.type,
        data=None if event.data is None else dict(event.data),
    ).model_dump()


def checkpoint_body(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return a checkpoint."""
    return CheckpointObject(
        id=checkpoint.id,
        created_at=checkpoint.created_at,
        fine_tuned_model_checkpoint=checkpoint.model,
        fine_tuning_job_id=checkpoint.job_id,
        metrics=dict(checkpoint.metrics),
        step_number=checkpoint.step,
    ).model_dump()
