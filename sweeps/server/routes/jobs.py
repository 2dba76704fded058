"""/v1/fine_tuning/jobs: create, list, retrieve, cancel, pause and resume jobs.

Each job also has lists of its events and checkpoints.
"""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from sweeps.server.errors import ApiError
from sweeps.server.records import Checkpoint, Job, JobEvent, JobStatus, log_line
from sweeps.server.routes import job_creation, job_objects
from sweeps.server.routes.job_filter import METADATA_PARAMETER, metadata_conditions
from sweeps.server.routes.responses import ERROR_RESPONSES, After, ObjectId, json_response, page_response
from sweeps.server.routes.strict_routes import StrictRoute
from sweeps.server.schemas.jobs import CheckpointList, CreateJob, EventList, JobList, JobObject
from sweeps.server.service import Service
from sweeps.server.storage import Condition

Limit = Annotated[int, Query(ge=1, le=1000)]


def router(service: Service) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(
        route_class=StrictRoute, prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"], responses=ERROR_RESPONSES
    )
    store, faults = service.store, service.faults

    @routes.post("", response_model=JobObject)
    def create_job(body: CreateJob) -> Response:
        """Accept a job.

        As with the real services, the job itself reports later what is wrong with its files.
        """
        job = job_creation.new_job(service, body)
        files = f"training file: {job.training_file}"
        if job.validation_file is not None:
            files += f" and validation file: {job.validation_file}"
        created = log_line(job.id, f"Created fine-tuning job: {job.id}")
        store.add_job(job, [created, log_line(job.id, f"Validating {files}")])
        service.validator.wake()
        return json_response(job_objects.job_body(service, job))

    @routes.get("", response_model=JobList, openapi_extra=METADATA_PARAMETER)
    def list_jobs(request: Request, after: After = None, limit: Limit = 20) -> Response:
        """List the jobs, the newest first."""
        where = metadata_conditions(request)
        return page_response(
            lambda: store.page(Job, after=after, limit=limit, where=where),
            lambda job: job_objects.job_body(service, job),
            with_end_ids=False,
        )

    @routes.get("/{job_id}", response_model=JobObject)
    def retrieve_job(job_id: ObjectId) -> Response:
        """Return a job."""
        return json_response(job_objects.job_body(service, _find(service, job_id)))

    @routes.post("/{job_id}/cancel", response_model=JobObject)
    def cancel_job(job_id: ObjectId) -> Response:
        """Cancel a job. Its run stops soon afterwards."""
        if not service.runner.cancel(_find(service, job_id)):
            raise _wrong_status(service, job_id, "cancelled")
        return json_response(job_objects.job_body(service, _find(service, job_id)))

    @routes.post("/{job_id}/pause", response_model=JobObject)
    def pause_job(job_id: ObjectId) -> Response:
        """Pause a job: a queued one waits, a running one is suspended if the backend allows it."""
        job = _find(service, job_id)
        if job.status is JobStatus.RUNNING and not service.runner.can_pause_running():
            message = "A running job cannot be paused on this server; a queued one can."
            raise ApiError(400, message, code="pause_not_supported", param="job_id")
        if not service.runner.pause(job):
            raise _wrong_status(service, job_id, "paused")
        return json_response(job_objects.job_body(service, _find(service, job_id)))

    @routes.post("/{job_id}/resume", response_model=JobObject)
    def resume_job(job_id: ObjectId) -> Response:
        """Resume a paused job."""
        if not service.runner.resume(_find(service, job_id)):
            raise _wrong_status(service, job_id, "resumed")
        return json_response(job_objects.job_body(service, _find(service, job_id)))

    @routes.get("/{job_id}/events", response_model=EventList)
    def list_events(job_id: ObjectId, after: After = None, limit: Limit = 20) -> Response:
        """List the job's log, the newest line first."""
        job = _find(service, job_id)
        where = [Condition("job_id = ?", (job.id,))]
        if (delay := faults.affects("late_events", job.id)) is not None:
            latest = time.time() - float(delay)
            # created_at is in whole seconds
            where.append(Condition("created_at + 1 <= ?", (latest,)))
        return page_response(
            lambda: store.page(JobEvent, after=after, limit=limit, where=where),
            job_objects.event_body,
            with_end_ids=False,
        )

    @routes.get("/{job_id}/checkpoints", response_model=CheckpointList)
    def list_checkpoints(job_id: ObjectId, after: After = None, limit: Limit = 10) -> Response:
        """List the checkpoints of the job that the server keeps, the newest first."""
        job = _find(service, job_id)
        where = [Condition("job_id = ?", (job.id,))]
        if job.status is not JobStatus.SUCCEEDED and faults.affects("late_checkpoints", job.id) is not None:
            where.append(Condition("1 = 0"))
        return page_response(
            lambda: store.page(Checkpoint, after=after, limit=limit, where=where), job_objects.checkpoint_body
        )

    return routes


def _find(service: Service, job_id: str) -> Job:
    """Return a job. Raises ApiError (404) if there is none."""
    job = service.store.find(Job, job_id)
    if job is None:
        message = f"Could not find fine tune: {job_id[:64]}"
        raise ApiError(404, message, param="fine_tune_id", code="fine_tune_not_found")
    return job


def _wrong_status(service: Service, job_id: str, action: str) -> ApiError:
    status = _find(service, job_id).status.value
    return ApiError(400, f"The job is {status} and cannot be {action}.", code="invalid_job_state", param="job_id")
