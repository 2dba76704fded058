"""`JobCreator`: give each run exactly one job.

The host knows a run by its id, which travels in the job's metadata, and in the suffix where a host
drops metadata. The journal records the intention before the backend sends a creation. If the
outcome of a creation is unknown (a lost answer, a cut connection, an error after acceptance, a
killed process), the backend looks for the job until the host's grace period is over, and only then
creates it again: a host lists an accepted job within that period. Nothing here waits; a later call
continues.
"""

from __future__ import annotations

from typing import Any

from backends import codec
from backends.contract import DataFile, EvaluationSettings, FailureKind, TrainingRequest
from backends.hosted.example_format import (
    ExampleFormat,
    FormattedFile,
    base_model_of,
    format_of,
    labels_and_stop_in_files,
    write_formatted,
)
from backends.hosted.failures import HostError
from backends.hosted.host_connection import HostConnection
from backends.hosted.journal import HostedRun
from backends.hosted.profile import JobStatus
from backends.hosted.remote_objects import RemoteJob
from backends.hosted.uploads import DataFileUploads
from backends.metrics.kept_metric import may_be_measured

METADATA_RUN = "sweep_run"
METADATA_KEY = "sweep_key"
METADATA_CHARACTERS = 512
"""The protocol's limit for a metadata value."""

SUFFIX_PREFIX = "sw"

DAY_S = 86400.0

RECHECK_S = 5.0
"""How soon to ask the host again about a file check, or a job that may exist."""


class NoJob:
    """The result for a run that was stopped before it had a job: it gets none."""


class JobCreator:
    """Finds or creates the jobs of runs."""

    def __init__(self, host: HostConnection, uploads: DataFileUploads) -> None:
        self._host, self._options, self._rules = host, host.options, host.profile.jobs
        self._client, self._journal, self._clock = host.client, host.journal, host.clock
        self._uploads = uploads
        self._formatted: dict[tuple[DataFile, ExampleFormat], FormattedFile] = {}
        grace_s = host.options.create_grace_s
        self.grace_s = self._rules.create_grace_s if grace_s is None else grace_s

    def find_or_create(self, run: HostedRun) -> str | NoJob | None:
        """Return the id of the run's job; None if it has none yet: continue at `not_before`.

        The caller holds the run's lock. Raises HostError or BackendError. After an error that is
        not retryable there is no job.
        """
        if job := self.find(run.id):
            return self._adopt(run, job.id)
        now = self._clock()
        if run.attempted_at is not None:
            grace_ends_at = run.attempted_at + self.grace_s
            if now < grace_ends_at:
                self._journal.runs.update(run.id, not_before=min(grace_ends_at, now + RECHECK_S))
                return None
        if run.stop:
            return NoJob()
        if (allowed_at := self._creation_allowed_at(now)) > now:
            self._journal.runs.update(run.id, not_before=allowed_at)
            wait = self._journal.accounts.wait(self._options.account, now)
            reason = "the limit `jobs_per_day` is reached" if wait is None else wait.reason
            self._journal.accounts.set_wait(run.id, reason, allowed_at)
            return None
        request = run.training_request()
        files = self._ready_files(request)
        if files is None:
            self._journal.runs.update(run.id, not_before=self._clock() + min(RECHECK_S, self._rules.poll_s))
            return None
        fields, extra_body = self._job_fields(run, request, files)
        self._journal.runs.update_durably(run.id, attempted_at=self._clock())
        try:
            job = self._client.create_job(fields, extra_body, self._rules.create_timeout_s)
        except HostError as error:
            # The grace period counts from the end of the request: the host may have started on it
            # late.
            self._journal.runs.update(run.id, attempted_at=self._clock() if error.ambiguous else None)
            if error.failure.kind is FailureKind.QUOTA and error.wait_s:
                self.block_creations(error.wait_s, error.failure.message)
            raise
        return self._adopt(run, job.id)

    def block_creations(self, duration_s: float, reason: str) -> None:
        """Create no job for any run of this account for a while: it has reached a limit."""
        until = self._clock() + duration_s
        self._journal.accounts.block_creations(self._options.account, until)
        self._journal.accounts.set_wait(self._options.account, reason, until)

    def _creation_allowed_at(self, now: float) -> float:
        """Return the time from which the account's known limits allow another job."""
        allowed_at = self._journal.accounts.creations_blocked_until(self._options.account)
        per_day = self._options.jobs_per_day or self._rules.max_per_day
        if per_day is not None and len(recent := self._journal.runs.created_since(now - DAY_S)) >= per_day:
            allowed_at = max(allowed_at, recent[-per_day] + DAY_S)
        return allowed_at

    def find(self, run_id: str) -> RemoteJob | None:
        """Return the run's job at the host, or None. Abandoned jobs do not count.

        If there are several, all but one are cancelled. The oldest job that has not failed stays,
        or else the oldest.
        """
        jobs = self.jobs_of(run_id)
        for superfluous in jobs[1:]:
            if not self._host.job_status(superfluous).is_final:
                self._client.cancel(superfluous.id)
        return jobs[0] if jobs else None

    def jobs_of(self, run_id: str) -> list[RemoteJob]:
        """Return the run's jobs at the host, usually one; the job that counts comes first.

        Abandoned jobs are left out.
        """
        metadata = {METADATA_RUN: run_id} if self._rules.metadata_filter else None
        abandoned = self._journal.runs.abandoned_jobs(run_id)
        return sorted(
            (job for job in self._client.jobs(metadata) if self._belongs_to(job, run_id) and job.id not in abandoned),
            key=lambda job: (self._host.job_status(job) is JobStatus.FAILED, job.created_at, job.id),
        )

    def _belongs_to(self, job: RemoteJob, run_id: str) -> bool:
        if METADATA_RUN in job.metadata:
            return job.metadata[METADATA_RUN] == run_id
        return job.suffix is not None and job.suffix == self._suffix(run_id)

    def _suffix(self, run_id: str) -> str | None:
        """Return the suffix of a run's model, or None where the host gets none."""
        length = self._rules.suffix_max
        return None if length is None else f"{SUFFIX_PREFIX}{run_id}"[:length]

    def _adopt(self, run: HostedRun, job_id: str) -> str:
        self._journal.runs.update(run.id, job=job_id, created_at=self._clock(), attempted_at=None)
        return job_id

    def _ready_files(self, request: TrainingRequest) -> tuple[str, str] | None:
        """Return the host's ids of training and validation file, or None while one is not ready."""
        format_ = format_of(request, self._options)
        train, valid = (
            self._uploads.ready_file_id(self._formatted_file(file, format_))
            for file in (request.dataset.train, request.dataset.valid)
        )
        return None if train is None or valid is None else (train, valid)

    def _formatted_file(self, file: DataFile, format_: ExampleFormat) -> FormattedFile:
        if (file, format_) not in self._formatted:
            self._formatted[file, format_] = write_formatted(file, format_, self._journal.folder / "data")
        return self._formatted[file, format_]

    def _job_fields(
        self, run: HostedRun, request: TrainingRequest, files: tuple[str, str]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the job's fields, and separately those that the `openai` package does not know."""
        fields: dict[str, Any] = {
            "model": base_model_of(request),
            "training_file": files[0],
            "validation_file": files[1],
            "seed": request.seed % 2**31,
            "metadata": {METADATA_RUN: run.id, METADATA_KEY: request.key[:METADATA_CHARACTERS]},
        }
        if suffix := self._suffix(run.id):
            fields["suffix"] = suffix
        hyperparameters = {name: value for name, value in request.hyperparameters.items() if name != "base_model"}
        if hyperparameters and self._rules.hyperparameters_in == "method":
            fields["method"] = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
        elif hyperparameters:
            fields["hyperparameters"] = hyperparameters
        extra_body: dict[str, Any] = {**self._host.profile.extra_body, **self._options.extra_body}
        if self._rules.task_extension:
            labels, stop = labels_and_stop_in_files(request.dataset, format_of(request, self._options))
            extra_body["task"] = {"labels": labels, "stop": stop, **_evaluation_of_server(request.evaluation)}
        return fields, extra_body


def _evaluation_of_server(evaluation: EvaluationSettings) -> dict[str, Any]:
    """Return the settings for the evaluations of `sweep serve`.

    It measures no task metrics. If one of them is to choose the state, the server chooses by the
    loss, and the metric is measured with the state that it has kept.
    """
    by_task = may_be_measured(evaluation.keep_metric, evaluation.metrics)
    left_out = {"metrics", "generation", *(("keep_metric", "keep_maximum") if by_task else ())}
    return {name: value for name, value in codec.to_json(evaluation).items() if name not in left_out}
