"""From the backend's events to the job: status, log, checkpoints, models, result file."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, assert_never

from backends.contract import (
    Charged,
    Checkpointed,
    Event,
    Failed,
    Failure,
    Finished,
    Generated,
    Measured,
    Queued,
    Started,
    Stopped,
)
from sweeps.server import event_rendering
from sweeps.server.errors import job_failure
from sweeps.server.file_storage import FileStorage, make_durable
from sweeps.server.folder import ServerFolder
from sweeps.server.records import (
    ENDED_STATUSES,
    Checkpoint,
    Job,
    JobEvent,
    JobFailure,
    JobStatus,
    StoredFile,
    TunedModel,
    log_line,
    new_id,
)
from sweeps.server.storage import Store

Notify = Callable[[str, str], None]
"""Called in the transaction in which a job ends, with the webhook's event type and the job's id."""


class JobUpdater:
    """Updates jobs by the backend's events. Each event takes effect once, however often it arrives.

    An event is written in one transaction with what follows from it.
    """

    def __init__(
        self,
        store: Store,
        files: FileStorage,
        folder: ServerFolder,
        notify: Notify,
        *,
        organization: str,
        kept_checkpoints: int,
    ) -> None:
        self._store, self._files, self._folder, self._notify = store, files, folder, notify
        self._organization, self._kept_checkpoints = organization, kept_checkpoints
        self._events: dict[str, list[Event]] = {}
        """The events of the running jobs, as they are in the database."""

    # ----------------------------------------------------------------------------------- run events
    def record_event(self, job_id: str, number: int, event: Event, checkpoint_copies: Mapping[str, str]) -> None:
        """Write event `number` of a job's run with all that follows from it. Idempotent.

        `checkpoint_copies` maps the step of each copied checkpoint (as text) to the path of its
        copy.
        """
        job = self._store.find(Job, job_id)
        assert job is not None, "jobs are never deleted"
        if job_id not in self._events:
            self._events[job_id] = self._store.run_events(job_id)
        earlier = self._events[job_id]
        if number < len(earlier):
            return
        records = [] if job.status in ENDED_STATUSES else self._records_of(job, event, earlier, checkpoint_copies)
        events = [*earlier, event]
        replaced_models: list[TunedModel] = []
        with self._store.transaction():
            if not self._store.add_run_event(job_id, number, event, records):
                return
            if isinstance(event, Started):
                self._store.update(Job, job_id, resolved=dict(event.resolved))
                started = log_line(job_id, "Fine-tuning job started")
                self._store.change_status(job_id, JobStatus.RUNNING, [started])
            if isinstance(event, Charged) and job.status in ENDED_STATUSES:
                self._store.update(Job, job_id, trained_tokens=event_rendering.trained_tokens(events))
            if isinstance(event, Checkpointed):
                replaced_models = self._forget_old_checkpoints(job_id)
        self._events[job_id] = events
        for model in replaced_models:
            delete_checkpoint_copy(model)
        if isinstance(event, Finished | Failed | Stopped):
            del self._events[job_id]
            self.end_job(self._store.find(Job, job_id) or job, events)

    def _records_of(
        self, job: Job, event: Event, earlier: Sequence[Event], checkpoint_copies: Mapping[str, str]
    ) -> list[JobEvent | Checkpoint | TunedModel]:
        """Return what clients see of an event."""
        match event:
            case Measured():
                return [_metrics_line(job, event, earlier)]
            case Checkpointed():
                return self._checkpoint_records(job, event, earlier, checkpoint_copies)
            case Queued() | Started() | Generated() | Charged() | Finished() | Failed() | Stopped():
                return []
            case _:
                assert_never(event)

    def _checkpoint_records(
        self, job: Job, event: Checkpointed, earlier: Sequence[Event], checkpoint_copies: Mapping[str, str]
    ) -> list[JobEvent | Checkpoint | TunedModel]:
        """Return the records of a checkpoint.

        There are none if it is a folder without a copy: by now the folder holds a later state, not
        the checkpoint of this step.
        """
        copy = checkpoint_copies.get(str(event.step))
        if copy is None and Path(event.model).is_absolute():
            return []
        name = f"{self.model_name(job)}:ckpt-step-{event.step}"
        has_validation = job.validation_file is not None
        metrics: dict[str, float] = {}
        for number, previous in enumerate(earlier):
            if isinstance(previous, Measured) and previous.step == event.step:
                metrics |= event_rendering.protocol_metrics(previous, earlier[:number], has_validation=has_validation)
        now = int(time.time())
        shown_metrics = {"step": event.step, **event_rendering.finite_or_null(metrics)}
        return [
            TunedModel(name, job.id, job.model, copy or event.model, now, copied=copy is not None),
            Checkpoint(new_id("ftckpt_"), job.id, now, event.step, name, shown_metrics),
            log_line(job.id, f"Checkpoint created at step {event.step}"),
        ]

    def _forget_old_checkpoints(self, job_id: str) -> list[TunedModel]:
        """Delete the records of all but the last checkpoints. Return their models."""
        models = []
        for checkpoint in self._store.all(Checkpoint, "job_id = ?", job_id)[: -self._kept_checkpoints]:
            model = self._store.find(TunedModel, checkpoint.model)
            self._store.delete(Checkpoint, checkpoint.id)
            if model is not None:
                self._store.delete(TunedModel, model.name)
                models.append(model)
        return models

    # ------------------------------------------------------------------------------------------ end
    def end_job(self, job: Job, events: Sequence[Event]) -> None:
        """End a job by the last of its run's events, and delete its working files.

        A job that has ended already keeps its status, but its token count becomes final.
        """
        if job.status in ENDED_STATUSES:
            self._store.update(Job, job.id, trained_tokens=event_rendering.trained_tokens(events))
        else:
            match events[-1]:
                case Finished() as last:
                    self._succeed(job, last, events)
                case Failed() as last:
                    self.refuse(job, [last.failure])
                case Stopped():
                    self.cancel(job)
                case _:
                    raise ValueError("the run has not ended")
        self._files.delete_working_files(job.id)

    def _succeed(self, job: Job, finished: Finished, events: Sequence[Event]) -> None:
        name, now = self.model_name(job), int(time.time())
        content = event_rendering.result_csv(events, has_validation=job.validation_file is not None)
        file = StoredFile(
            id=f"file-{hashlib.sha256(f'result of {job.id}'.encode()).hexdigest()[:24]}",
            filename="step_metrics.csv",
            purpose="fine-tune-results",
            bytes=len(content),
            created_at=now,
            sha256=hashlib.sha256(content).hexdigest(),
        )
        path = self._folder.content(file.id)
        is_changed = False
        try:
            path.write_bytes(content)
            make_durable(path)
            make_durable(path.parent)
            is_changed = self._write_success(job, finished, events, file, name)
        finally:
            if not is_changed and self._store.find(StoredFile, file.id) is None:
                path.unlink(missing_ok=True)

    def _write_success(
        self, job: Job, finished: Finished, events: Sequence[Event], file: StoredFile, name: str
    ) -> bool:
        """Write the success of a job with its file, its model and its webhook: all, or nothing.

        Return False if the job has ended otherwise.
        """
        with self._store.transaction():
            is_changed = self._store.change_status(
                job.id,
                JobStatus.SUCCEEDED,
                [
                    log_line(job.id, f"New fine-tuned model created: {name}"),
                    log_line(job.id, "The job has successfully completed"),
                ],
                finished_at=file.created_at,
                fine_tuned_model=name,
                trained_tokens=event_rendering.trained_tokens(events),
                result_files=(file.id,),
            )
            if is_changed:
                self._store.add(file)
                self._store.add(TunedModel(name, job.id, job.model, finished.model, file.created_at))
                self._notify("fine_tuning.job.succeeded", job.id)
        return is_changed

    def refuse(self, job: Job, failures: Sequence[Failure]) -> None:
        """Fail a job because of the backend's failures, unless it has ended."""
        self.fail(job, job_failure(failures))

    def fail(self, job: Job, failure: JobFailure) -> None:
        """Fail a job, unless it has ended."""
        line = log_line(job.id, f"The job failed: {failure.message}", level="error")
        self._end_without_model(job, JobStatus.FAILED, line, error=failure)

    def cancel(self, job: Job) -> bool:
        """Cancel a job. Return False if it has ended already."""
        return self._end_without_model(job, JobStatus.CANCELLED, log_line(job.id, "Fine-tuning job cancelled"))

    def _end_without_model(self, job: Job, status: JobStatus, line: JobEvent, **fields: Any) -> bool:
        with self._store.transaction():
            is_changed = self._store.change_status(
                job.id,
                status,
                [line],
                finished_at=int(time.time()),
                trained_tokens=self._trained_tokens(job.id),
                **fields,
            )
            if is_changed:
                self._notify(f"fine_tuning.job.{status.value}", job.id)
        return is_changed

    def _trained_tokens(self, job_id: str) -> int | None:
        try:
            return event_rendering.trained_tokens(self._store.run_events(job_id))
        except ValueError:  # a damaged event must not keep the job from ending
            return None

    def model_name(self, job: Job) -> str:
        """Return the name of the job's model: `ft:BASE:ORGANIZATION:SUFFIX:ID`."""
        organization = self._organization.removeprefix("org-")
        suffix = _name_suffix(job.suffix or "")
        return f"ft:{job.base_name}:{organization}:{suffix}:{job.id.removeprefix('ftjob-')[:10]}"


def _metrics_line(job: Job, event: Measured, earlier: Sequence[Event]) -> JobEvent:
    has_validation = job.validation_file is not None
    metrics = event_rendering.protocol_metrics(event, earlier, has_validation=has_validation)
    data = event_rendering.metrics_data(event, metrics, job.resolved)
    return log_line(job.id, event_rendering.metrics_message(data), data=data)


def _name_suffix(suffix: str) -> str:
    """Return a suffix as model names contain it.

    It is in lower case, with `-` for everything but ASCII letters, digits, `_` and `-`.
    """
    return "".join(
        character if (character.isalnum() and character.isascii()) or character in "_-" else "-"
        for character in suffix.lower()
    )


def delete_checkpoint_copy(model: TunedModel) -> None:
    """Delete the server's copy of a checkpoint, if the model is one."""
    if model.copied:
        shutil.rmtree(model.target, ignore_errors=True)
