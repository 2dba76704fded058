"""The jobs at work: start them in their order, and cancel, pause and resume them."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time

from sweeps.server.background_loop import BackgroundLoop
from sweeps.server.file_storage import FileStorage
from sweeps.server.job_execution import JobExecutor
from sweeps.server.job_updates import JobUpdater
from sweeps.server.records import Job, JobStatus, log_line
from sweeps.server.run_loop import RunControl
from sweeps.server.storage import Store
from sweeps.server.training_backend import TrainingBackend

_LOG = logging.getLogger("sweeps.server")


class JobRunner:
    """Brings each queued job to its end, in a thread of its own.

    At most `max_jobs` of the backend run at the same time. The database holds all that a restart
    needs.
    """

    def __init__(
        self,
        store: Store,
        backend: TrainingBackend,
        updater: JobUpdater,
        files: FileStorage,
        executor: JobExecutor,
    ) -> None:
        self._store, self._backend, self._updater, self._executor = store, backend, updater, executor
        self._files = files
        self._active: dict[str, RunControl | None] = {}
        """The jobs that have a thread. Each is None until the thread has registered its control."""
        self._threads: dict[str, threading.Thread] = {}
        self._not_before: dict[str, float] = {}
        """The monotonic time before which a job is not executed again."""
        self._stops = RunControl()
        """Controls the threads that stop the runs of ended jobs."""
        self._lock = threading.RLock()
        self._dispatcher = BackgroundLoop("dispatcher", self._dispatch, pause_s=1.0, first=self._complete_intents)

    # -------------------------------------------------------------------------------- begin and end
    def start(self) -> None:
        """Begin, with the jobs that the previous server left."""
        self._dispatcher.start()

    def close(self) -> None:
        """Detach from all runs, and end. The next server resumes them."""
        self._dispatcher.closing.set()
        self._stops.request_detach()
        with self._lock:
            controls, threads = list(self._active.values()), list(self._threads.values())
        for control in controls:
            if control is not None:
                control.request_detach()
        for thread in threads:
            thread.join()
        self._dispatcher.close()
        self._executor.close()

    def active_count(self) -> int:
        """Return the number of jobs that have a thread."""
        with self._lock:
            return len(self._active)

    def wake(self) -> None:
        """Look for queued jobs now."""
        self._dispatcher.wake()

    # ------------------------------------------------------------------------------------- dispatch
    def _dispatch(self) -> None:
        self._start_waiting_jobs()
        self._executor.stop_idle_workers()

    def _start_waiting_jobs(self) -> None:
        waiting = [
            # those that the previous server left
            *self._store.all(Job, "status = ?", JobStatus.RUNNING.value),
            *self._store.all(Job, "status = ?", JobStatus.QUEUED.value),
        ]
        for job in waiting:
            with self._lock:
                if self._dispatcher.closing.is_set() or len(self._active) >= self._backend.max_jobs:
                    return
                if job.id in self._active or time.monotonic() < self._not_before.get(job.id, 0.0):
                    continue
                thread = threading.Thread(target=self._run, args=(job.id,), name=job.id)
                thread.start()  # it waits for the lock before it registers the run or ends
                self._active[job.id] = None
                self._threads[job.id] = thread

    def _run(self, job_id: str) -> None:
        pause_s = 0.0
        try:
            pause_s = self._executor.execute(job_id, lambda control: self._register(job_id, control))
            job = self._store.find(Job, job_id)
            if job is not None:
                self._clean_up(job)
        except sqlite3.Error as error:
            _LOG.warning("job %s: cannot read the database: %s", job_id, error)
        finally:
            with self._lock:
                self._active.pop(job_id, None)
                self._threads.pop(job_id, None)
                self._not_before.pop(job_id, None)
                if pause_s:
                    self._not_before[job_id] = time.monotonic() + pause_s
            self._dispatcher.wake()

    def _register(self, job_id: str, control: RunControl) -> bool:
        """Let `pause`, `cancel` and `close` reach a run. Return False if one of them came first."""
        with self._lock:
            self._active[job_id] = control
            job = self._store.find(Job, job_id)
            may_run = job is not None and job.status in (JobStatus.QUEUED, JobStatus.RUNNING)
            if not may_run or self._dispatcher.closing.is_set():
                control.request_detach()
                return False
            return True

    # ------------------------------------------------------------------------------------- commands
    def cancel(self, job: Job) -> bool:
        """Cancel a job, and stop its run in the background.

        Return False if the job has ended already.
        """
        if not self._updater.cancel(job):
            return False
        with self._lock:
            control = self._active.get(job.id)
            if control is not None:
                control.request_stop()
                return True
            # its thread has not registered yet, and sees the status when it does
            if job.id in self._active:
                return True
            name = f"stop {job.id}"
            thread = threading.Thread(target=self._stop, args=(job.id,), name=name)
            thread.start()  # it waits for the lock before it ends
            self._threads[name] = thread
        return True

    def pause(self, job: Job) -> bool:
        """Pause a job and suspend its run. Return False if its status does not allow it."""
        if not self._store.change_status(job.id, JobStatus.PAUSED, [log_line(job.id, "Fine-tuning job paused")]):
            return False
        with self._lock:
            control = self._active.get(job.id)
            if control is not None:
                control.request_detach()
        return True

    def resume(self, job: Job) -> bool:
        """Put a paused job back into the queue. Return False if it is not paused."""
        queued = log_line(job.id, "Fine-tuning job queued again")
        is_changed = self._store.change_status(job.id, JobStatus.QUEUED, [queued])
        self._dispatcher.wake()
        return is_changed

    def can_pause_running(self) -> bool:
        """Return whether running jobs can be paused: their runs must be in worker processes."""
        return self._backend.capabilities.in_process

    # ----------------------------------------------------------------------------------- ended jobs
    def _stop(self, job_id: str) -> None:
        try:
            if (job := self._store.find(Job, job_id)) is not None:
                self._clean_up(job)
        except sqlite3.Error as error:
            _LOG.warning("job %s: cannot read the database: %s", job_id, error)
        finally:
            with self._lock:
                self._threads.pop(threading.current_thread().name, None)

    def _clean_up(self, job: Job) -> None:
        """Stop the run of a cancelled or failed job if it may be training; delete its files."""
        if job.status not in (JobStatus.CANCELLED, JobStatus.FAILED):
            return
        if self._executor.may_be_training(job, self._store.intended("submit")):
            self._executor.stop_run(job, self._stops)
        else:
            self._files.delete_working_files(job.id)

    def _complete_intents(self) -> None:
        """Complete what the previous server began: to stop runs, and to delete models."""
        for job in self._executor.jobs_with_lost_runs():
            self._executor.stop_run(job, self._stops)
        for job_id in self._store.intended("discard"):
            self._executor.discard_run(job_id)
