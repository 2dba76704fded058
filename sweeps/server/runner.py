"""Runs the jobs: examines their files, starts them in their order, follows them, and goes on after a restart."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from backends import codec
from backends.contract import (
    TERMINAL_EVENTS,
    BackendError,
    DataFile,
    Dataset,
    EvaluationSettings,
    Event,
    Failure,
    Handle,
    TrainingRequest,
)
from sweeps.server import datasets
from sweeps.server.faults import Faults
from sweeps.server.job_updates import Teller
from sweeps.server.records import ENDED, Job, Status
from sweeps.server.run_loop import Control, Message, follow
from sweeps.server.settings import Trainer
from sweeps.server.storage import Store, log
from sweeps.server.worker_pool import WorkerProcess, Workers

_LOG = logging.getLogger("sweeps.server")

RESTARTS = 2
"""How often a job is started again whose worker process died."""


class _RemoteControl(Control):
    """The control of a run in a worker process."""

    def __init__(self, worker: WorkerProcess, key: str) -> None:
        super().__init__()
        self._worker, self._key = worker, key

    def ask_stop(self) -> None:
        super().ask_stop()
        self._worker.tell({"kind": "stop", "key": self._key})

    def ask_leave(self) -> None:
        super().ask_leave()
        self._worker.dismiss()


class Runner:
    """Brings each job to its end. Everything that it must know after a restart is in the store."""

    def __init__(self, store: Store, trainer: Trainer, teller: Teller, folder: Path, min_examples: int) -> None:
        self._store, self._trainer, self._teller, self._folder = store, trainer, teller, folder
        self._min_examples = min_examples
        self._active: dict[str, Control | None] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._crashes: dict[str, int] = {}
        self._lock = threading.RLock()
        self._workers = Workers(trainer, folder / "worker.log")
        self._closing = threading.Event()
        self._to_validate, self._to_start = threading.Event(), threading.Event()
        self._loops = [
            threading.Thread(target=self._loop, args=(self._to_validate, self._validate_all), name="validator"),
            threading.Thread(target=self._dispatch, name="dispatcher"),
        ]
        self.faults: Faults = Faults.none()

    # ------------------------------------------------------------------------------------------------------- begin, end
    def start(self) -> None:
        """Go on with all jobs that have not ended."""
        for loop in self._loops:
            loop.start()

    def close(self) -> None:
        """Leave all runs where they are. The next server goes on with them."""
        self._closing.set()
        with self._lock:
            controls, threads = list(self._active.values()), list(self._threads.values())
        for control in controls:
            if control is not None:
                control.ask_leave()
        self.wake()
        for each in [*threads, *(loop for loop in self._loops if loop.is_alive())]:
            each.join()
        self._workers.close()

    def at_work(self) -> int:
        """Return how many jobs are being trained."""
        with self._lock:
            return len(self._active)

    def wake(self) -> None:
        """Look for work now."""
        self._to_validate.set()
        self._to_start.set()

    def _dispatch(self) -> None:
        self._end_cancelled()
        self._loop(self._to_start, self._start_ready)

    def _loop(self, due: threading.Event, work: Callable[[], None]) -> None:
        while not self._closing.is_set():
            work()
            self._workers.dismiss_idle()
            due.wait(1.0)
            due.clear()

    # ------------------------------------------------------------------------------------------------------- validation
    def _validate_all(self) -> None:
        for job in self._store.all(Job, "status = ?", Status.VALIDATING.value):
            if self._closing.is_set():
                return
            if not self.faults.holds_validation(job):
                self._validate(job)

    def _validate(self, job: Job) -> None:
        files = self._folder / "files"
        validation = None if job.validation_file is None else files / job.validation_file
        try:
            if broken := self.faults.job_failure(job):
                raise datasets.DataError(*broken)
            data, notes = datasets.prepare(
                files / job.training_file, validation, job.task, self.folder_of(job), self._min_examples
            )
        except datasets.DataError as error:
            self._teller.fail(job, error.code, error.message, error.param)
            return
        except OSError as error:
            message = f"The file cannot be read: {error.strerror or error}"
            self._teller.fail(job, "invalid_training_file", message, "training_file")
            return
        lines = [log(job.id, note, level="warn") for note in notes]
        if self.faults.concerns("moderation", job.id) is not None:
            checks = log(job.id, "Moderation checks passed", data={"blocked": False, "results": []})
            lines.append(dataclasses.replace(checks, type="moderation_checks"))
        lines.append(log(job.id, "Files validated, moving job to queued state"))
        self._store.move(job.id, Status.QUEUED, lines, data=_data_json(data))
        self._to_start.set()

    def folder_of(self, job: Job) -> Path:
        """Return where a job's own files are."""
        return self._folder / "jobs" / job.id

    # --------------------------------------------------------------------------------------------------------- dispatch
    def _start_ready(self) -> None:
        waiting = [
            *self._store.all(Job, "status = ?", Status.RUNNING.value),  # from before a restart
            *self._store.all(Job, "status = ?", Status.QUEUED.value),
        ]
        for job in waiting:
            with self._lock:
                if self._closing.is_set() or len(self._active) >= self._trainer.max_jobs:
                    return
                if job.id in self._active:
                    continue
                self._active[job.id] = None
                thread = threading.Thread(target=self._run, args=(job.id,), name=job.id)
                self._threads[job.id] = thread
            thread.start()

    def _run(self, job_id: str) -> None:
        try:
            job = self._store.find(Job, job_id)
            if job is None or job.status not in (Status.QUEUED, Status.RUNNING):
                return
            heard = self._store.heard(job_id)
            if heard and isinstance(heard[-1], TERMINAL_EVENTS):  # the server died before it drew the conclusion
                self._teller.settle(job, heard)
                return
            if self._trainer.capabilities.in_process:
                self._follow_worker(job, len(heard))
            else:
                self._follow_here(job, len(heard))
        except Exception as error:  # noqa: BLE001  a job's thread must not die silently: the job says what happened
            _LOG.exception("job %s", job_id)
            if found := self._store.find(Job, job_id):
                self._teller.fail(found, "internal_error", f"{type(error).__name__}: {error}")
        finally:
            with self._lock:
                self._active.pop(job_id, None)
                self._threads.pop(job_id, None)
            self._to_start.set()

    def _follow_here(self, job: Job, after: int) -> None:
        control = Control()
        if not self._take(job, control):
            return
        backend = self._trainer.open()
        try:
            follow(backend, _request(job), after, control, partial(self._on, job.id), self._copies(job))
        finally:
            backend.close()

    def _follow_worker(self, job: Job, after: int) -> None:
        worker = self._workers.take()
        control = _RemoteControl(worker, job.id)
        kind, usable = "", False
        try:
            if not self._take(job, control):
                return
            request, keep = codec.to_json(_request(job)), str(self._copies(job))
            worker.tell({"kind": "train", "request": request, "after": after, "keep": keep})
            for told in worker.answers():
                kind = told["kind"]
                if self._on(job.id, told):
                    usable = kind == "heard" and not control.leave.is_set()
                    break
            else:
                kind = "died"
        finally:
            if usable:
                self._workers.give_back(worker)
            else:
                worker.end()
        if kind == "died" and not control.leave.is_set():
            self._crashed(job, worker.exit_code)

    def _take(self, job: Job, control: Control) -> bool:
        """Make a run reachable for `pause`, `cancel` and `close`; False where one of them was faster."""
        with self._lock:
            self._active[job.id] = control
            found = self._store.find(Job, job.id)
            if found is None or found.status not in (Status.QUEUED, Status.RUNNING) or self._closing.is_set():
                control.ask_leave()
                return False
            return True

    def _crashed(self, job: Job, code: int | None) -> None:
        count = self._crashes[job.id] = self._crashes.get(job.id, 0) + 1
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
        if count <= RESTARTS:
            with contextlib.suppress(KeyError):
                self._store.add(log(job.id, f"The training process {how}; it is started again", level="warn"))
            return
        message = f"The training process {how}, {count} times. The server's worker.log may say why."
        self._teller.fail(job, "worker_died", message)

    def _copies(self, job: Job) -> Path:
        return self._folder / "models" / job.id

    # --------------------------------------------------------------------------------------------------------- messages
    def _on(self, job_id: str, told: Message) -> bool:
        """Write down what a run tells; return whether the run needs nobody any more."""
        job = self._store.find(Job, job_id)
        assert job is not None, "jobs are never deleted"
        match told["kind"]:
            case "submitted":
                self._store.change(Job, job_id, handle=told["handle"])
                if job.resolved:
                    self._store.move(job_id, Status.RUNNING, [log(job_id, "Fine-tuning job resumed")])
            case "heard":
                events = codec.from_json(list[Event], told["events"])
                for offset, event in enumerate(events):
                    self._teller.hear(job_id, told["after"] + offset, event, told["copies"])
                return isinstance(events[-1], TERMINAL_EVENTS)
            case "refused":
                failures = codec.from_json(list[Failure], told["failures"])
                self._teller.refuse(job, failures)
                return True
            case "broken":
                self._teller.refuse(job, [codec.from_json(Failure, told["failure"])])
                return True
            case "left":
                return True
        return False

    # --------------------------------------------------------------------------------------------------------- commands
    def cancel(self, job: Job) -> bool:
        """Cancel a job; False where it has ended. Its run is stopped in the background."""
        if not self._teller.cancel(job):
            return False
        with self._lock:
            control = self._active.get(job.id)
            if control is not None:
                control.ask_stop()
                return True
            if job.id in self._active:  # its thread has not got hold of it yet, and will see the state
                return True
        if job.handle is not None:
            threading.Thread(target=self._end_run, args=(job,), daemon=True).start()
        return True

    def pause(self, job: Job) -> bool:
        """Pause a job; False where its state does not allow it. A run in this server's workers is suspended."""
        if not self._store.move(job.id, Status.PAUSED, [log(job.id, "Fine-tuning job paused")]):
            return False
        with self._lock:
            control = self._active.get(job.id)
            if control is not None:
                control.ask_leave()
        return True

    def resume(self, job: Job) -> bool:
        """Put a paused job back into the queue; False where it is not paused."""
        moved = self._store.move(job.id, Status.QUEUED, [log(job.id, "Fine-tuning job queued again")])
        self._to_start.set()
        return moved

    def can_pause_running(self) -> bool:
        """Whether a run can be left and gone on with: where it lives in this server's processes."""
        return self._trainer.capabilities.in_process

    def _end_cancelled(self) -> None:
        """Stop the runs of jobs that were cancelled just before the last server ended."""
        for job in self._store.all(Job, "status = ? AND handle != 'null'", Status.CANCELLED.value):
            heard = self._store.heard(job.id)
            if not heard or not isinstance(heard[-1], TERMINAL_EVENTS):
                self._end_run(job)

    def _end_run(self, job: Job) -> None:
        assert job.handle is not None
        handle, backend = codec.from_json(Handle, job.handle), self._trainer.open()
        try:
            backend.stop(handle)
            if not backend.capabilities.in_process:
                heard = self._store.heard(job.id)
                for number, event in enumerate(backend.events(handle, len(heard)), len(heard)):
                    self._teller.hear(job.id, number, event, {})
        except BackendError as error:
            _LOG.warning("the run of the cancelled job %s cannot be stopped: %s", job.id, error)
        finally:
            backend.close()

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until no job is at work; for tests."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            open_jobs = [each for each in self._store.all(Job) if each.status not in ENDED | {Status.PAUSED}]
            if not open_jobs and not self._active:
                return True
            time.sleep(0.02)
        return False


def _request(job: Job) -> TrainingRequest:
    """Return the run of a job. The job's id is the key: after a restart it is the same run."""
    assert job.data is not None
    task = job.task
    return TrainingRequest(
        key=job.id,
        base_model=job.base_model,
        dataset=_data(job.data),
        hyperparameters=dict(job.hyperparameters),
        seed=job.seed,
        evaluation=EvaluationSettings(task.per_epoch, task.train_examples, task.keep_metric, task.keep_maximum),
        resume_from=job.resume_from,
    )


def _data_json(data: Dataset) -> dict[str, object]:
    return {
        "train": vars(data.train),
        "valid": vars(data.valid),
        "layout": data.layout,
        "labels": list(data.labels),
        "stop": data.stop,
    }


def _data(value: Mapping[str, object]) -> Dataset:
    written = json.loads(json.dumps(value))
    return Dataset(
        DataFile(**written["train"]),
        DataFile(**written["valid"]),
        written["layout"],
        tuple(written["labels"]),
        written["stop"],
    )
