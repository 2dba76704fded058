"""The execution of one job: drive its run, here or in a worker process, and update the job."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import assert_never

from backends.contract import TERMINAL_EVENTS, BackendError, EvaluationSettings, TrainingRequest
from sweeps.server.folder import ServerFolder
from sweeps.server.job_updates import JobUpdater
from sweeps.server.records import Job, JobFailure, JobStatus, log_line
from sweeps.server.run_loop import (
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

    def __init__(self, store: Store, backend: TrainingBackend, updater: JobUpdater, folder: ServerFolder) -> None:
        self._store, self._backend, self._updater, self._folder = store, backend, updater, folder
        self._workers = WorkerPool(backend, folder.worker_log)
        self._crashes: dict[str, int] = {}

    def execute(self, job_id: str, register: Register) -> None:
        """Execute a job until its run ends or is detached.

        Raises nothing: any error fails the job.
        """
        try:
            job = self._store.find(Job, job_id)
            if job is None or job.status not in (JobStatus.QUEUED, JobStatus.RUNNING):
                return
            events = self._store.run_events(job_id)
            # the previous server died before it ended the job
            if events and isinstance(events[-1], TERMINAL_EVENTS):
                self._updater.end_job(job, events)
            elif self._backend.capabilities.in_process:
                self._execute_in_worker(job, len(events), register)
            else:
                self._execute_here(job, len(events), register)
        except Exception as error:  # noqa: BLE001  the job must report what happened; its thread has no caller
            _LOG.exception("job %s", job_id)
            if job := self._store.find(Job, job_id):
                self._updater.fail(job, JobFailure("internal_error", f"{type(error).__name__}: {error}"))

    def stop_run(self, job: Job) -> None:
        """Stop the run of a cancelled job that no thread drives, and record its last events."""
        assert job.handle is not None
        with contextlib.closing(self._backend.open()) as backend:
            try:
                backend.stop(job.handle)
                if not backend.capabilities.in_process:
                    first = len(self._store.run_events(job.id))
                    for number, event in enumerate(backend.events(job.handle, first), first):
                        self._updater.record_event(job.id, number, event, {})
            except BackendError as error:
                _LOG.warning("cannot stop the run of the cancelled job %s: %s", job.id, error)

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
                self._store.update(Job, job_id, handle=report.handle)
                if job.resolved:
                    resumed = log_line(job_id, "Fine-tuning job resumed")
                    self._store.change_status(job_id, JobStatus.RUNNING, [resumed])
                return False
            case EventsReported():
                for number, event in enumerate(report.events, report.first):
                    self._updater.record_event(job_id, number, event, report.checkpoint_copies)
                return isinstance(report.events[-1], TERMINAL_EVENTS)
            case RunRefused():
                self._updater.refuse(job, report.failures)
                return True
            case RunBroken():
                self._updater.refuse(job, [report.failure])
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
