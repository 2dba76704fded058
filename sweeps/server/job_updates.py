"""What follows from what a run tells: the job's state, its log, its checkpoints and models, its result file."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import assert_never

from backends.contract import (
    Charged,
    Checkpointed,
    Event,
    Failed,
    Failure,
    FailureKind,
    Finished,
    Measured,
    Queued,
    Started,
    Stopped,
)
from sweeps.server import event_rendering as wording
from sweeps.server.errors import JOB_CODES, failure_text
from sweeps.server.records import ENDED, Checkpoint, Job, JobEvent, Status, StoredFile, TunedModel, new_id
from sweeps.server.storage import Store, log

Announce = Callable[[str, str], None]
"""Called with a webhook's type and the job's id, once a job has ended."""


class Teller:
    """Draws the conclusions, each of them once: a run's event counts when it is written down."""

    def __init__(
        self, store: Store, folder: Path, announce: Announce, *, organization: str, kept_checkpoints: int
    ) -> None:
        self._store, self._folder, self._announce = store, folder, announce
        self._organization, self._kept = organization, kept_checkpoints
        self._heard: dict[str, list[Event]] = {}

    # ------------------------------------------------------------------------------------------------------- run events
    def hear(self, job_id: str, number: int, event: Event, copies: Mapping[str, str]) -> None:
        """Write down event `number` of a job's run with all that follows; nothing where it is known already."""
        job = self._store.find(Job, job_id)
        assert job is not None, "jobs are never deleted"
        if job_id not in self._heard:
            self._heard[job_id] = self._store.heard(job_id)
        before = self._heard[job_id]
        if number < len(before):
            return
        rows: list[JobEvent | Checkpoint | TunedModel] = []
        if job.status not in ENDED:
            match event:
                case Measured():
                    rows.append(self._measured(job, event, before))
                case Checkpointed():
                    rows += self._checkpointed(job, event, before, copies)
                case Queued() | Started() | Charged() | Finished() | Failed() | Stopped():
                    pass
                case _:
                    assert_never(event)
        with self._store.transaction():
            if not self._store.hear(job_id, number, event, rows):
                return
            if isinstance(event, Started):
                resolved = dict(event.resolved)
                self._store.change(Job, job_id, resolved=resolved)
                self._store.move(job_id, Status.RUNNING, [log(job_id, "Fine-tuning job started")])
            if isinstance(event, Charged) and job.status in ENDED:
                self._store.change(Job, job_id, trained_tokens=wording.trained_tokens([*before, event]))
        self._heard[job_id] = [*before, event]
        if isinstance(event, Checkpointed):
            self._forget_old_checkpoints(job_id)
        if isinstance(event, Finished | Failed | Stopped):
            del self._heard[job_id]
            self.settle(self._store.find(Job, job_id) or job, [*before, event])

    def _measured(self, job: Job, event: Measured, before: Sequence[Event]) -> JobEvent:
        values = wording.metrics(event, before, has_validation=job.validation_file is not None)
        data = wording.data_of(event, values, job.resolved)
        return log(job.id, wording.sentence(data), data=data)

    def _checkpointed(
        self, job: Job, event: Checkpointed, before: Sequence[Event], copies: Mapping[str, str]
    ) -> list[JobEvent | Checkpoint | TunedModel]:
        """A folder that was not copied holds a later state by now, and is no checkpoint of this step."""
        copy = copies.get(str(event.step))
        if copy is None and Path(event.model).is_absolute():
            return []
        name = f"{self.model_name(job)}:ckpt-step-{event.step}"
        values: dict[str, float] = {}
        for number, each in enumerate(before):
            if isinstance(each, Measured) and each.step == event.step:
                has_validation = job.validation_file is not None
                values |= wording.metrics(each, before[:number], has_validation=has_validation)
        found = {"step": event.step, **wording.finite(values)}
        now = int(time.time())
        return [
            TunedModel(name, job.id, job.model, copy or event.model, now, copied=copy is not None),
            Checkpoint(new_id("ftckpt_"), job.id, now, event.step, name, found),
            log(job.id, f"Checkpoint created at step {event.step}"),
        ]

    def _forget_old_checkpoints(self, job_id: str) -> None:
        for old in self._store.all(Checkpoint, "job_id = ?", job_id)[: -self._kept]:
            model = self._store.find(TunedModel, old.model)
            self._store.delete(Checkpoint, old.id)
            if model is not None:
                self._store.delete(TunedModel, model.name)
                delete_copy(model)

    # -------------------------------------------------------------------------------------------------------------- end
    def settle(self, job: Job, heard: Sequence[Event]) -> None:
        """Draw the conclusion from a run's last event. Nothing where the job has ended already."""
        if job.status in ENDED:
            self._store.change(Job, job.id, trained_tokens=wording.trained_tokens(heard))
        else:
            match heard[-1]:
                case Finished() as end:
                    self._succeed(job, end, heard)
                case Failed() as end:
                    self.refuse(job, [end.failure])
                case Stopped():
                    self.cancel(job)
                case _:
                    raise ValueError("the run has not ended")
        shutil.rmtree(self._folder / "jobs" / job.id, ignore_errors=True)

    def _succeed(self, job: Job, end: Finished, heard: Sequence[Event]) -> None:
        name, now = self.model_name(job), int(time.time())
        content = wording.result_csv(heard, has_validation=job.validation_file is not None)
        file = StoredFile(
            id=f"file-{hashlib.sha256(f'result of {job.id}'.encode()).hexdigest()[:24]}",
            filename="step_metrics.csv",
            purpose="fine-tune-results",
            bytes=len(content),
            created_at=now,
            sha256=hashlib.sha256(content).hexdigest(),
        )
        (self._folder / "files" / file.id).write_bytes(content)
        with self._store.transaction():
            moved = self._store.move(
                job.id,
                Status.SUCCEEDED,
                [
                    log(job.id, f"New fine-tuned model created: {name}"),
                    log(job.id, "The job has successfully completed"),
                ],
                finished_at=now,
                fine_tuned_model=name,
                trained_tokens=wording.trained_tokens(heard),
                result_files=[file.id],
            )
            if moved:
                self._store.add(file)
                self._store.add(TunedModel(name, job.id, job.model, end.model, now))
        if moved:
            self._announce("fine_tuning.job.succeeded", job.id)

    def refuse(self, job: Job, failures: Sequence[Failure]) -> None:
        """Fail a job for what the backend says."""
        first = failures[0]
        text = "; ".join(failure_text(failure) for failure in failures[:3])
        parameter = "training_file" if first.kind is FailureKind.USER and "data file" in first.message else None
        self.fail(job, JOB_CODES[first.kind], text, parameter)

    def fail(self, job: Job, code: str, message: str, parameter: str | None = None) -> None:
        """Fail a job, unless it has ended."""
        error = {"code": code, "message": message, "param": parameter}
        moved = self._store.move(
            job.id,
            Status.FAILED,
            [log(job.id, f"The job failed: {message}", level="error")],
            finished_at=int(time.time()),
            error=error,
            trained_tokens=wording.trained_tokens(self._store.heard(job.id)),
        )
        if moved:
            self._announce("fine_tuning.job.failed", job.id)

    def cancel(self, job: Job) -> bool:
        """Cancel a job; False where it has ended."""
        moved = self._store.move(
            job.id,
            Status.CANCELLED,
            [log(job.id, "Fine-tuning job cancelled")],
            finished_at=int(time.time()),
            trained_tokens=wording.trained_tokens(self._store.heard(job.id)),
        )
        if moved:
            self._announce("fine_tuning.job.cancelled", job.id)
        return moved

    def model_name(self, job: Job) -> str:
        """Return the name of the job's model: `ft:BASE:ORGANIZATION:SUFFIX:ID`."""
        base = job.model.split(":")[1] if job.model.startswith("ft:") else job.model
        organization = self._organization.removeprefix("org-")
        return f"ft:{base}:{organization}:{slug(job.suffix or '')}:{job.id.removeprefix('ftjob-')[:10]}"


def slug(suffix: str) -> str:
    """Return a suffix as it stands in a model's name: lower case, and `-` for what is no letter, digit, `_` or `-`."""
    return "".join(each if (each.isalnum() and each.isascii()) or each in "_-" else "-" for each in suffix.lower())


def delete_copy(model: TunedModel) -> None:
    """Delete a checkpoint's copy, where the server made one."""
    if model.copied:
        shutil.rmtree(model.target, ignore_errors=True)
