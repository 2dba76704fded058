"""The execution of one job: drive its run, here or in a worker process, and update the job."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Set
from typing import assert_never

from backends.contract import TERMINAL_EVENTS, BackendError, EvaluationSettings, Failure, FailureKind, TrainingRequest
from sweeps.server.file_storage import FileStorage
from sweeps.server.folder import ServerFolder
from sweeps.server.job_updates import JobUpdater
from sweeps.server.records import Job, JobFailure, JobStatus, log_line
from sweeps.server.resource_faults import resource_fault
from sweeps.server.run_loop import (
    RETRY_FOR_S,
    EventsReported,
    RunBroken,
    RunControl,
    RunDetached,
    RunRefused,
    RunReport,
    RunSubmitted,
    drive_run,
)
from sweeps.server.storage import Store
from sweeps.server.training_backend import TrainingBackend
from sweeps.server.worker_messages import PredictionFailed, PredictionsMade, StopCommand, TrainCommand
from sweeps.server.worker_pool import WorkerPool, WorkerProcess

_LOG = logging.getLogger("sweeps.server")

MAX_RESTARTS = 2
"""How often the server starts a job again whose worker process died."""

RESOURCE_PAUSE_S = 5.0
"""How long a job waits after an execution that failed because the disk is full, for example."""

Register = Callable[[RunControl], bool]
"""Makes a run's control known to the other threads.

Returns False if the job must not run any more.
"""


class _WorkerRunControl(RunControl):
    """Controls a run in a worker process."""

    def __init__(self, worker: WorkerProcess, key: str) -> None:
        super().__init__()
        self._worker, self._key = worker, key

    def request_stop(self) -> None:
        super().request_stop()
        self._worker.send(StopCommand(self._key))

    def request_detach(self) -> None:
        super().request_detach()
        self._worker.request_exit()


class JobExecutor:
    """Executes jobs, each in the thread of its caller.

    The database holds all that a restart needs.
    """

    def __init__(
        self, store: Store, backend: TrainingBackend, updater: JobUpdater, files: FileStorage, folder: ServerFolder
    ) -> None:
        self._store, self._backend, self._updater = store, backend, updater
        self._files, self._folder = files, folder
        self._workers = WorkerPool(backend, folder.worker_log)
        self._crashes: dict[str, int] = {}
        self._waiting_since: dict[str, float] = {}
        """The monotonic time since which a job waits for its backend."""

    def execute(self, job_id: str, register: Register) -> float:
        """Execute a job until its run ends or is detached.

        Raises nothing: an error fails the job, unless it will pass, like a full disk. Returns after
        how many seconds a job that has not ended may be executed again.
        """
        try:
            self._execute(job_id, register)
        except Exception as error:  # noqa: BLE001  the job must report what happened; its thread has no caller
            return self._handle_error(job_id, error)
        self._waiting_since.pop(job_id, None)
        return 0.0

    def _execute(self, job_id: str, register: Register) -> None:
        job = self._store.find(Job, job_id)
        if job is None or job.status not in (JobStatus.QUEUED, JobStatus.RUNNING):
            return
        events = self._store.run_events(job_id)
        # the previous server died before it ended the job
        if events and isinstance(events[-1], TERMINAL_EVENTS):
            self._updater.end_job(job, events)
            return
        if self._backend.capabilities.in_process:
            self._execute_in_worker(job, len(events), register)
        else:
            self._execute_here(job, len(events), register)

    def _handle_error(self, job_id: str, error: Exception) -> float:
        """Fail a job because of an error, or let it wait. Return how long it waits."""
        fault = resource_fault(error, self._folder.root)
        if fault is not None and fault.passes:
            _LOG.warning("job %s waits: %s (%s)", job_id, fault.message, error)
            return RESOURCE_PAUSE_S
        if isinstance(error, BackendError) and self._may_wait(job_id, error.failure):
            _LOG.warning("job %s waits for the backend: %s", job_id, error)
            return RESOURCE_PAUSE_S
        try:
            if (job := self._store.find(Job, job_id)) is None:
                return 0.0
            if isinstance(error, BackendError):
                self._updater.refuse(job, [error.failure])
            else:
                _LOG.error("job %s", job_id, exc_info=error)
                self._updater.fail(job, JobFailure("internal_error", f"{type(error).__name__}: {error}"))
        except sqlite3.Error as database_error:
            _LOG.warning("cannot write that job %s has failed: %s", job_id, database_error)
            return RESOURCE_PAUSE_S
        return 0.0

    def _may_wait(self, job_id: str, failure: Failure) -> bool:
        """Return whether a job waits longer for a backend that cannot be opened.

        Its log says so once.
        """
        if failure.kind is FailureKind.TRANSIENT and job_id not in self._waiting_since:
            self._store.add(log_line(job_id, f"The job waits for the backend: {failure.message}", level="warn"))
        since = self._waiting_since.setdefault(job_id, time.monotonic())
        return failure.kind is FailureKind.TRANSIENT and time.monotonic() - since < RETRY_FOR_S

    # ----------------------------------------------------------------------------- runs to clean up
    def jobs_with_lost_runs(self) -> list[Job]:
        """Return the jobs that have ended although their runs may still be training.

        They were cancelled, or failed, just before the previous server ended.
        """
        submitted = self._store.intended("submit")
        jobs = self._store.all(Job, "status IN (?, ?)", JobStatus.CANCELLED.value, JobStatus.FAILED.value)
        return [job for job in jobs if self.may_be_training(job, submitted)]

    def may_be_training(self, job: Job, submitted: Set[str]) -> bool:
        """Return whether the run of a job may still be training.

        `submitted` are the jobs whose submission was begun and never answered.
        """
        if job.handle is None:
            return job.id in submitted
        return not self._store.run_has_ended(job.id)

    def stop_run(self, job: Job) -> bool:
        """Stop the run of a job that has ended, record its last events, and delete its files.

        Nobody drives the run. If its submission was never answered, the run is adopted by its key
        first. Return False if the backend fails temporarily, so that the caller tries again.
        Idempotent.
        """
        try:
            was_submitted = job.data is not None and not self._backend.capabilities.in_process
            if job.handle is not None or was_submitted:
                self._stop_run(job)
        except BackendError as error:
            _LOG.warning("cannot stop the run of the job %s: %s", job.id, error)
            if error.failure.kind is FailureKind.TRANSIENT:
                return False
        self._store.delete_intent("submit", job.id)
        self._files.delete_working_files(job.id)
        return True

    def _stop_run(self, job: Job) -> None:
        with contextlib.closing(self._backend.open()) as backend:
            handle = job.handle or backend.submit(_training_request(job))
            self._store.update(Job, job.id, handle=handle)
            backend.stop(handle)
            if backend.capabilities.in_process:
                return  # to ask for its events would train it
            first = self._store.run_event_count(job.id)
            for number, event in enumerate(backend.events(handle, first), first):
                self._updater.record_event(job.id, number, event, {})

    def discard_run(self, job_id: str) -> None:
        """Delete what the backend keeps of a job's run, as the intent "discard" says. Idempotent.

        If the backend fails, the intent remains, and the caller tries again later.
        """
        job = self._store.find(Job, job_id)
        if job is not None and job.handle is not None:
            try:
                with contextlib.closing(self._backend.open()) as backend:
                    backend.discard(job.handle)
            except BackendError as error:
                _LOG.warning("cannot delete the model of the job %s at the backend: %s", job_id, error)
                return
        self._store.delete_intent("discard", job_id)

    def stop_idle_workers(self) -> None:
        """Stop the worker processes that have been idle for long."""
        self._workers.stop_idle()

    def close(self) -> None:
        """Stop the idle worker processes."""
        self._workers.close()

    # -------------------------------------------------------------------------------------- driving
    def _execute_here(self, job: Job, first_event: int, register: Register) -> None:
        control = RunControl()
        if not register(control):
            return
        self._note_submission(job)
        with contextlib.closing(self._backend.open()) as backend:
            drive_run(
                backend,
                _training_request(job),
                first_event,
                control,
                lambda report: self._apply(job.id, report),
                self._folder.checkpoint_copies(job.id),
            )

    def _execute_in_worker(self, job: Job, first_event: int, register: Register) -> None:
        worker = self._workers.take()
        control = _WorkerRunControl(worker, job.id)
        has_died = is_reusable = False
        try:
            if not register(control):
                return
            self._note_submission(job)
            folder = str(self._folder.checkpoint_copies(job.id))
            worker.send(TrainCommand(_training_request(job), first_event, folder))
            for report in worker.reports():
                assert not isinstance(report, PredictionsMade | PredictionFailed)
                if self._apply(job.id, report):
                    is_reusable = isinstance(report, EventsReported) and not control.detach.is_set()
                    break
            else:
                has_died = True
        finally:
            if is_reusable:
                self._workers.give_back(worker)
            else:
                worker.stop()
        if has_died and not control.detach.is_set():
            self._count_crash(job, worker.exit_code)

    def _note_submission(self, job: Job) -> None:
        if job.handle is None:
            self._store.add_intent("submit", job.id)

    def _count_crash(self, job: Job, exit_code: int | None) -> None:
        count = self._crashes[job.id] = self._crashes.get(job.id, 0) + 1
        is_killed = exit_code is not None and exit_code < 0
        cause = f"was killed by signal {-(exit_code or 0)}" if is_killed else f"ended with code {exit_code}"
        if count <= MAX_RESTARTS:
            self._store.add(log_line(job.id, f"The training process {cause}; it is started again", level="warn"))
            return
        message = f"The training process {cause}, {count} times. See worker.log in the server's folder."
        self._updater.fail(job, JobFailure("worker_died", message))

    # -------------------------------------------------------------------------------------- reports
    def _apply(self, job_id: str, report: RunReport) -> bool:
        """Apply a report to the job. Return whether it is the run's last report."""
        job = self._store.find(Job, job_id)
        assert job is not None, "jobs are never deleted"
        match report:
            case RunSubmitted():
                with self._store.transaction():
                    self._store.update(Job, job_id, handle=report.handle)
                    self._store.delete_intent("submit", job_id)
                    if job.resolved:
                        resumed = log_line(job_id, "Fine-tuning job resumed")
                        self._store.change_status(job_id, JobStatus.RUNNING, [resumed])
                return False
            case EventsReported():
                for number, event in enumerate(report.events, report.first):
                    self._updater.record_event(job_id, number, event, report.checkpoint_copies)
                return isinstance(report.events[-1], TERMINAL_EVENTS)
            case RunRefused():
                with self._store.transaction():
                    self._updater.refuse(job, report.failures)
                    self._store.delete_intent("submit", job_id)
                return True
            case RunBroken():
                with self._store.transaction():
                    self._updater.refuse(job, [report.failure])
                    if report.failure.kind is not FailureKind.TRANSIENT:
                        self._store.delete_intent("submit", job_id)  # it was refused, not lost
                return True
            case RunDetached():
                return True
            case _:
                assert_never(report)


def _training_request(job: Job) -> TrainingRequest:
    """Return the run of a job.

    Its key is the job's id, so that the backend adopts the run after a restart.
    """
    assert job.data is not None
    task = job.task
    return TrainingRequest(
        key=job.id,
        base_model=job.base_model,
        dataset=job.data,
        hyperparameters=dict(job.hyperparameters),
        seed=job.seed,
        evaluation=EvaluationSettings(task.per_epoch, task.train_examples, task.keep_metric, task.keep_maximum),
        resume_from=job.resume_from,
    )
