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

CLEAN_UP_PAUSE_S = 5.0
"""After how long the server tries again to stop a run that the backend could not stop."""


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
        self._to_clean_up: set[str] = set()
        """The ended jobs whose runs may still be training, or whose working files may be there."""
        self._lock = threading.RLock()
        self._dispatcher = BackgroundLoop("dispatcher", self._dispatch, pause_s=1.0)
        self._cleaner = BackgroundLoop("cleaner", self._clean_up, pause_s=CLEAN_UP_PAUSE_S, first=self._find_lost_runs)

    # -------------------------------------------------------------------------------- begin and end
    def start(self) -> None:
        """Begin, with the jobs that the previous server left."""
        self._dispatcher.start()
        self._cleaner.start()

    def close(self) -> None:
        """Detach from all runs, and end. The next server resumes them."""
        self._dispatcher.closing.set()
        self._cleaner.closing.set()
        with self._lock:
            controls, threads = list(self._active.values()), list(self._threads.values())
        for control in controls:
            if control is not None:
                control.request_detach()
        for thread in threads:
            thread.join()
        self._dispatcher.close()
        self._cleaner.close()
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
        finally:
            with self._lock:
                self._active.pop(job_id, None)
                self._threads.pop(job_id, None)
                self._not_before.pop(job_id, None)
                if pause_s:
                    self._not_before[job_id] = time.monotonic() + pause_s
                self._to_clean_up.add(job_id)
            self._dispatcher.wake()
            self._cleaner.wake()

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
            # otherwise its thread has not registered yet and sees the status, or there is none
            self._to_clean_up.add(job.id)
        self._cleaner.wake()
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
        is_changed = self._store.change_status(job.id, JobStatus.QUEUED, [queued], only_from=JobStatus.PAUSED)
        self._dispatcher.wake()
        return is_changed

    def can_pause_running(self) -> bool:
        """Return whether running jobs can be paused: their runs must be in worker processes."""
        return self._backend.capabilities.in_process

    # ----------------------------------------------------------------------------------- ended jobs
    def clean_up_soon(self) -> None:
        """Delete what the backend keeps of deleted models, now or as soon as it can."""
        self._cleaner.wake()

    def _find_lost_runs(self) -> None:
        with self._lock:
            self._to_clean_up |= {job.id for job in self._executor.jobs_with_lost_runs()}

    def _clean_up(self) -> None:
        """Stop the runs of cancelled and failed jobs, and delete what no job or model needs.

        What the backend cannot do now is tried again after the pause.
        """
        with self._lock:
            # a job that has a thread is looked at once the thread has ended
            job_ids = sorted(self._to_clean_up - self._active.keys())
        for job_id in job_ids:
            if self._cleaner.closing.is_set():
                return
            try:
                is_done = self._is_cleaned_up(job_id)
            except (OSError, sqlite3.Error) as error:
                _LOG.warning("cannot clean up after the job %s now: %s", job_id, error)
                continue
            except Exception:  # noqa: BLE001  one job must not keep the others from being cleaned up
                _LOG.exception("cannot clean up after the job %s", job_id)
                is_done = True
            if is_done:
                with self._lock:
                    self._to_clean_up.discard(job_id)
        for job_id in self._store.intended("discard"):
            self._executor.discard_run(job_id)

    def _is_cleaned_up(self, job_id: str) -> bool:
        """Clean up after a job if it has ended. Return whether there is nothing left to do."""
        job = self._store.find(Job, job_id)
        if job is None or job.status not in (JobStatus.CANCELLED, JobStatus.FAILED):
            return True
        if self._executor.may_be_training(job, self._store.intended("submit")):
            return self._executor.stop_run(job)
        self._files.delete_working_files(job.id)
        return True
