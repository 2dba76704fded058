"""The jobs at work: start them in their order, and cancel, pause and resume them."""

from __future__ import annotations

import threading

from backends.contract import TERMINAL_EVENTS
from sweeps.server.background_loop import BackgroundLoop
from sweeps.server.job_execution import JobExecutor
from sweeps.server.job_updates import JobUpdater
from sweeps.server.records import Job, JobStatus, log_line
from sweeps.server.run_loop import RunControl
from sweeps.server.storage import Store
from sweeps.server.training_backend import TrainingBackend


class JobRunner:
    """Brings each queued job to its end, in a thread of its own.

    At most `max_jobs` of the backend run at the same time. The database holds all that a restart
    needs.
    """

    def __init__(self, store: Store, backend: TrainingBackend, updater: JobUpdater, executor: JobExecutor) -> None:
        self._store, self._backend, self._updater, self._executor = store, backend, updater, executor
        self._active: dict[str, RunControl | None] = {}
        """The jobs that have a thread. Each is None until the thread has registered its control."""
        self._threads: dict[str, threading.Thread] = {}
        self._lock = threading.RLock()
        self._dispatcher = BackgroundLoop("dispatcher", self._dispatch, pause_s=1.0, first=self._stop_cancelled_runs)

    # -------------------------------------------------------------------------------- begin and end
    def start(self) -> None:
        """Begin, with the jobs that the previous server left."""
        self._dispatcher.start()

    def close(self) -> None:
        """Detach from all runs, and end. The next server resumes them."""
        self._dispatcher.closing.set()
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
                if job.id in self._active:
                    continue
                self._active[job.id] = None
                thread = threading.Thread(target=self._run, args=(job.id,), name=job.id)
                self._threads[job.id] = thread
            thread.start()

    def _run(self, job_id: str) -> None:
        try:
            self._executor.execute(job_id, lambda control: self._register(job_id, control))
        finally:
            with self._lock:
                self._active.pop(job_id, None)
                self._threads.pop(job_id, None)
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
        if job.handle is not None:
            threading.Thread(target=self._executor.stop_run, args=(job,), daemon=True).start()
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

    def _stop_cancelled_runs(self) -> None:
        """Stop the runs of jobs that were cancelled just before the previous server ended."""
        for job in self._store.all(Job, "status = ? AND handle != 'null'", JobStatus.CANCELLED.value):
            events = self._store.run_events(job.id)
            if not events or not isinstance(events[-1], TERMINAL_EVENTS):
                self._executor.stop_run(job)
