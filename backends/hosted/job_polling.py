"""Reading what a host says of a job: its state, its log, its checkpoints, its result file, and noticing its silence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from backends.contract import BackendError, Failure, FailureKind
from backends.hosted import result_files
from backends.hosted.failures import ServiceError
from backends.hosted.job_events import Seen
from backends.hosted.journal import HostedRun, Journal
from backends.hosted.options import HostedOptions
from backends.hosted.profile import JobStatus
from backends.hosted.result_files import Row
from backends.hosted.service import PAGE, RemoteJob, Service


class Watch:
    """Follows the jobs of runs. The caller holds the run's lock."""

    def __init__(self, options: HostedOptions, service: Service, journal: Journal, clock: Callable[[], float]) -> None:
        self._options, self._service, self._journal, self._clock = options, service, journal, clock
        self._host = options.profile
        self._watched: set[str] = set()

    def look(self, run: HostedRun, job_id: str) -> Seen:
        """Return all that is known of a run's job now. Raises ServiceError, BackendError (lost) where it is gone."""
        job = self._service.job(job_id)
        if job is None:
            raise _unknown(job_id)
        standing = self._host.standing(job.status)
        ended = standing.is_end or (standing is JobStatus.PAUSED and run.stop > 0)
        try:
            fresh = self._listen(run, job_id, everything=ended)
        except ServiceError as error:
            if error.status == 404:  # deleted since it was asked for; whether it is back is seen next time
                raise _unknown(job_id) from None
            raise
        heard = self._journal.heard(run.id)
        checkpoints = []
        if ended or (self._host.jobs.checkpoints_while_training and fresh):
            checkpoints = self._service.checkpoints(job_id)
        models = {each.model: each.step for each in checkpoints if each.model}
        if job.model is not None:
            models[job.model] = max(models.values(), default=0) + 1  # after all its checkpoints
        self._journal.keep_models(run.id, models)
        now = self._clock()
        seen = Seen(job, standing, heard, checkpoints, now=now)
        if not ended:
            self._journal.note(run.id, ended_at=None)
            return dataclasses.replace(seen, lost=self._silence(run, job, standing, len(heard), now))
        since = now if run.ended_at is None else run.ended_at
        self._journal.note(run.id, ended_at=since)
        # a model's name may come a moment after the success that made it
        nameless = standing is JobStatus.SUCCEEDED and job.model is None and now < since + self._host.jobs.model_grace_s
        whole = now >= since + self._host.jobs.settle_s and not nameless
        measured = any((event.get("data") or {}).get("step") is not None for _, event in heard)
        return dataclasses.replace(seen, rows=self._rows(job) if whole and not measured else (), whole=whole)

    def _listen(self, run: HostedRun, job: str, *, everything: bool) -> int:
        """Take in the new lines of the log; return how many there are."""
        known = self._journal.heard_ids(run.id)
        fresh, familiar = [], 0
        for event in self._service.events(job):
            if event.id not in known:
                fresh.append((event.id, dataclasses.asdict(event)))
                familiar = 0
                continue
            familiar += 1
            # newest first: behind a whole page that is known, everything is
            if familiar >= PAGE and self._host.jobs.events_newest_first and not everything:
                break
        if fresh:
            self._journal.hear(run.id, fresh, self._clock())
        return len(fresh)

    def _rows(self, job: RemoteJob) -> list[Row]:
        found: list[Row] = []
        for file in job.result_files:
            content = self._service.content(file)
            found += result_files.read(content, self._host.metrics.aliases) if content else []
        return found

    def _silence(self, run: HostedRun, job: RemoteJob, standing: JobStatus, heard: int, now: float) -> Failure | None:
        """Return why a job is given up that has shown no sign of life for too long; it is cancelled."""
        alive = f"{job.status} {heard} {job.trained_tokens}"
        # time in which nobody looked does not count as silence
        if alive != run.alive or run.alive_at is None or run.id not in self._watched:
            self._watched.add(run.id)
            self._journal.note(run.id, alive=alive, alive_at=now)
            return None
        if standing is JobStatus.PAUSED:
            return None
        waits = standing is JobStatus.QUEUED
        patience_s = self._host.jobs.queue_s if waits else self._options.stall_s or self._host.jobs.stall_s
        if now - run.alive_at < patience_s:
            return None
        try:
            self._service.cancel(job.id)
        except ServiceError as error:
            if error.failure.kind.retryable:
                raise  # it may go on and cost money: it is not given up before it is cancelled
        message = f"job {job.id} has shown no sign of life for {(now - run.alive_at) / 3600:.1f} h ({job.status})"
        return Failure(FailureKind.LOST, message, "it was cancelled")


def _unknown(job: str) -> BackendError:
    return BackendError(Failure(FailureKind.LOST, f"the host knows no job {job}", "it may have been deleted"))
