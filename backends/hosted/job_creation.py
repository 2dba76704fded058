"""Making sure that a run has exactly one job: looked up before it is created, created only when that is safe.

The host knows a run by its digest, which travels in the job's metadata (and in the suffix, where a host drops that).
Before a creation is sent, the journal says so. Where nobody knows how it ended (an answer lost, a connection cut, an
error after acceptance, a process killed), the job is looked for until the host's grace is over, and only then created
again: a host lists what it has accepted within that time. Nothing here waits; who asks again later gets further.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

from backends.contract import DataFile, Dataset, FailureKind, TrainingRequest
from backends.hosted.examples import Form, Written, as_trained, write
from backends.hosted.failures import ServiceError
from backends.hosted.journal import HostedRun, Journal
from backends.hosted.options import HostedOptions
from backends.hosted.profile import JobStatus
from backends.hosted.service import RemoteJob, Service
from backends.hosted.uploads import Uploads

METADATA_RUN = "sweep_run"
METADATA_KEY = "sweep_key"
SUFFIX_PREFIX = "sw"

DAY_S = 86400.0

LOOK_AGAIN_S = 5.0
"""How soon a host is asked again for what takes it a moment: a file that it checks, a job that it may be creating."""


def run_id(key: str) -> str:
    """Return the name under which host and journal know a key."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


class NoJob:
    """Instead of a job: the run was stopped before it had one, and will have none."""


class Creation:
    """Finds or creates the jobs of runs."""

    def __init__(
        self,
        options: HostedOptions,
        service: Service,
        journal: Journal,
        uploads: Uploads,
        clock: Callable[[], float],
    ) -> None:
        self._options, self._service, self._journal, self._uploads = options, service, journal, uploads
        self._jobs = options.profile.jobs
        self._clock = clock
        self._written: dict[tuple[DataFile, Form], Written] = {}
        self.grace_s = self._jobs.create_grace_s if options.create_grace_s is None else options.create_grace_s

    def pursue(self, run: HostedRun) -> str | NoJob | None:
        """Return the run's job; None where it is not there yet, and `not_before` says when to ask again.

        The caller holds the run's lock. Raises ServiceError or BackendError; after one that is not retryable there is
        no job.
        """
        if job := self.look_up(run.id):
            return self._adopted(run, job.id)
        now = self._clock()
        if run.attempted_at is not None:
            over = run.attempted_at + self.grace_s
            if now < over:
                self._journal.note(run.id, not_before=min(over, now + LOOK_AGAIN_S))
                return None
        if run.stop:
            return NoJob()
        if (room_at := self._room_at(now)) > now:
            self._journal.note(run.id, not_before=room_at)
            told = self._journal.wait_of(self._options.account, now)
            reason = told[0] if told is not None else "no more jobs a day than `jobs_per_day` allows"
            self._journal.note_wait(run.id, reason, room_at)
            return None
        request = run.training_request()
        files = self._files(request)
        if files is None:
            self._journal.note(run.id, not_before=self._clock() + min(LOOK_AGAIN_S, self._jobs.poll_s))
            return None
        fields, extra = self._fields(run, request, files)
        self._journal.note_for_good(run.id, attempted_at=self._clock())
        try:
            job = self._service.create_job(fields, extra, self._jobs.create_timeout_s)
        except ServiceError as error:
            # the grace counts from the end of the request: the host may have begun with it late
            self._journal.note(run.id, attempted_at=self._clock() if error.ambiguous else None)
            if error.failure.kind is FailureKind.QUOTA and error.wait_s:
                self.leave_alone(error.wait_s, error.failure.message)
            raise
        return self._adopted(run, job.id)

    def leave_alone(self, seconds: float, reason: str) -> None:
        """Create nothing for so long, for any run: a limit of the account is reached."""
        until = self._clock() + seconds
        self._journal.leave_alone(self._options.account, until)
        self._journal.note_wait(self._options.account, reason, until)

    def _room_at(self, now: float) -> float:
        """Return from when on the account's limits, as far as they are known, leave room for another job."""
        room_at = self._journal.left_alone_until(self._options.account)
        per_day = self._options.jobs_per_day or self._jobs.max_per_day
        if per_day is not None and len(recent := self._journal.creations_since(now - DAY_S)) >= per_day:
            room_at = max(room_at, recent[-per_day] + DAY_S)
        return room_at

    def look_up(self, run: str) -> RemoteJob | None:
        """Return the run's job at the host, but none that was given up.

        Should there ever be several, all but one are cancelled: the first one stays, of those that have not failed.
        """
        found = self.jobs_of(run)
        for each in found[1:]:
            if not self._options.profile.standing(each.status).is_end:
                self._service.cancel(each.id)
        return found[0] if found else None

    def jobs_of(self, run: str) -> list[RemoteJob]:
        """Return the run's jobs at the host, but none that was given up: one, as a rule; the one that counts first."""
        metadata = {METADATA_RUN: run} if self._jobs.metadata_filter else None
        given_up, standing = self._journal.given_up(run), self._options.profile.standing
        return sorted(
            (each for each in self._service.jobs(metadata) if self.belongs(each, run) and each.id not in given_up),
            key=lambda each: (standing(each.status) is JobStatus.FAILED, each.created_at, each.id),
        )

    def belongs(self, job: RemoteJob, run: str) -> bool:
        """Return whether a job is that of a run."""
        if METADATA_RUN in job.metadata:
            return job.metadata[METADATA_RUN] == run
        return job.suffix is not None and job.suffix == self.suffix(run)

    def suffix(self, run: str) -> str | None:
        """Return what a run's model is named after; None where the host is not told."""
        longest = self._jobs.suffix_max
        return None if longest is None else f"{SUFFIX_PREFIX}{run}"[:longest]

    def _adopted(self, run: HostedRun, job: str) -> str:
        self._journal.note(run.id, job=job, created_at=self._clock(), attempted_at=None)
        return job

    def _files(self, request: TrainingRequest) -> tuple[str, str] | None:
        """Return the host's ids of training and validation file, None while one is not ready."""
        form = form_of(request, self._options)
        train, valid = (self._uploads.ready(self._as_given(each, form)) for each in _parts(request.dataset))
        return None if train is None or valid is None else (train, valid)

    def _as_given(self, file: DataFile, form: Form) -> Written:
        if (file, form) not in self._written:
            self._written[file, form] = write(file, form, self._journal.folder / "data")
        return self._written[file, form]

    def _fields(
        self, run: HostedRun, request: TrainingRequest, files: tuple[str, str]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the arguments of the creation, and the fields that the package does not know."""
        fields: dict[str, Any] = {
            "model": base_model(request),
            "training_file": files[0],
            "validation_file": files[1],
            "seed": request.seed % 2**31,
            # a value of metadata has at most 512 characters
            "metadata": {METADATA_RUN: run.id, METADATA_KEY: request.key[:512]},
        }
        if suffix := self.suffix(run.id):
            fields["suffix"] = suffix
        values = {name: each for name, each in request.hyperparameters.items() if name != "base_model"}
        if values and self._jobs.hyperparameters_in == "method":
            fields["method"] = {"type": "supervised", "supervised": {"hyperparameters": values}}
        elif values:
            fields["hyperparameters"] = values
        extra: dict[str, Any] = {**self._options.profile.extra_body, **self._options.extra_body}
        if self._jobs.task_extension:
            labels, stop = as_trained(request.dataset, form_of(request, self._options))
            extra["task"] = {"labels": labels, "stop": stop, **dataclasses.asdict(request.evaluation)}
        return fields, extra


def form_of(request: TrainingRequest, options: HostedOptions) -> Form:
    """Return the form in which a request's examples are given to the host."""
    return Form(
        chat=options.is_chat(base_model(request)),
        stop=request.dataset.stop,
        system_message=options.system_message,
        fields=options.profile.files.completion_fields,
        byte_order_mark=options.profile.files.byte_order_mark,
    )


def base_model(request: TrainingRequest) -> str:
    """Return the model that a request starts from: the hyperparameter of that name wins."""
    return str(request.hyperparameters.get("base_model", request.base_model))


def _parts(dataset: Dataset) -> tuple[DataFile, DataFile]:
    return dataset.train, dataset.valid
