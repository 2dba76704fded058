"""`JobPoller`: read a job's status, log, checkpoints and result files, and notice a stalled job."""

from __future__ import annotations

import dataclasses

from backends.contract import BackendError, Failure, FailureKind
from backends.hosted import result_files
from backends.hosted.failures import HostError
from backends.hosted.host_client import PAGE_ITEMS
from backends.hosted.host_connection import HostConnection
from backends.hosted.job_events import JobSnapshot
from backends.hosted.journal import HostedRun
from backends.hosted.profile import JobStatus
from backends.hosted.remote_objects import RemoteJob
from backends.hosted.result_files import Row


class JobPoller:
    """Polls the jobs of runs. The caller holds the run's lock."""

    def __init__(self, host: HostConnection) -> None:
        self._host, self._rules = host, host.profile.jobs
        self._client, self._journal = host.client, host.journal
        self._polled_runs: set[str] = set()

    def poll(self, run: HostedRun, job_id: str) -> JobSnapshot:
        """Return everything that is known of a run's job now, and record it in the journal.

        Raises HostError, and BackendError (lost) if the job does not exist.
        """
        job = self._client.job(job_id)
        if job is None:
            raise _missing_job(job_id)
        status = self._host.job_status(job)
        ended = status.is_final or (status is JobStatus.PAUSED and run.stop > 0)
        try:
            new_entries = self._read_log(run, job_id, whole=ended)
        except HostError as error:
            if error.status == 404:  # deleted since the first request; the next poll shows whether it is back
                raise _missing_job(job_id) from None
            raise
        log = self._journal.runs.log(run.id)
        checkpoints = []
        if ended or (self._rules.checkpoints_while_training and new_entries):
            checkpoints = self._client.checkpoints(job_id)
        steps = {checkpoint.model: checkpoint.step for checkpoint in checkpoints if checkpoint.model}
        if job.model is not None:
            steps[job.model] = max(steps.values(), default=0) + 1  # after all its checkpoints
        self._journal.models.add(run.id, steps)
        now = self._host.clock()
        snapshot = JobSnapshot(job, status, log, checkpoints, now=now)
        if not ended:
            self._journal.runs.update(run.id, ended_at=None)
            return dataclasses.replace(snapshot, lost=self._stall(run, snapshot))
        ended_at = now if run.ended_at is None else run.ended_at
        self._journal.runs.update(run.id, ended_at=ended_at)
        # The name of the model may appear a moment after the job has succeeded.
        awaits_model = (
            status is JobStatus.SUCCEEDED and job.model is None and now < ended_at + self._rules.model_grace_s
        )
        complete = now >= ended_at + self._rules.settle_s and not awaits_model
        measured_in_log = any(entry.event.data.get("step") is not None for entry in log)
        rows = self._result_rows(job) if complete and not measured_in_log else ()
        return dataclasses.replace(snapshot, rows=rows, complete=complete)

    def _read_log(self, run: HostedRun, job_id: str, *, whole: bool) -> int:
        """Record the new entries of the job's log. Returns their number."""
        known_ids = self._journal.runs.log_ids(run.id)
        new_events, known_in_a_row = [], 0
        for event in self._client.events(job_id):
            if event.id not in known_ids:
                new_events.append(event)
                known_in_a_row = 0
                continue
            known_in_a_row += 1
            # With the newest first, everything behind a full page of known entries is known too.
            if known_in_a_row >= PAGE_ITEMS and self._rules.events_newest_first and not whole:
                break
        if new_events:
            self._journal.runs.add_log(run.id, new_events, self._host.clock())
        return len(new_events)

    def _result_rows(self, job: RemoteJob) -> list[Row]:
        rows: list[Row] = []
        for file in job.result_files:
            content = self._client.content(file)
            rows += result_files.read(content, self._host.profile.metrics.aliases) if content else []
        return rows

    def _stall(self, run: HostedRun, snapshot: JobSnapshot) -> Failure | None:
        """Return why a job is lost that has made no progress for too long, and cancel it."""
        job, status, now = snapshot.job, snapshot.status, snapshot.now
        progress = f"{job.status} {len(snapshot.log)} {job.trained_tokens}"
        # Time without any poll does not count as a stall.
        if progress != run.alive or run.alive_at is None or run.id not in self._polled_runs:
            self._polled_runs.add(run.id)
            self._journal.runs.update(run.id, alive=progress, alive_at=now)
            return None
        if status is JobStatus.PAUSED:
            return None
        queued = status is JobStatus.QUEUED
        stall_s = self._rules.queue_stall_s if queued else self._host.options.stall_s or self._rules.stall_s
        if now - run.alive_at < stall_s:
            return None
        try:
            self._client.cancel(job.id)
        except HostError as error:
            if error.failure.kind.retryable:
                raise  # The job may go on and cost money, so it is not lost before it is cancelled.
        hours = (now - run.alive_at) / 3600
        message = f"job {job.id} has made no progress for {hours:.1f} h (status {job.status})"
        return Failure(FailureKind.LOST, message, "The backend cancelled it.")


def _missing_job(job_id: str) -> BackendError:
    message = f"the host has no job {job_id}"
    return BackendError(Failure(FailureKind.LOST, message, "Somebody may have deleted it."))
