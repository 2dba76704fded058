"""`HostCleanup`: list and remove what a workspace's runs have left at the host.

It serves both the discarding of one run and `sweep clean`. The host dictates the order: unfinished
jobs first, deployments before their models, models before files. Runs and sweeps share data files,
so discarding one run leaves them; a clean-up removes them if nobody else uses them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from backends.cleanup import Leftover
from backends.hosted.deployments import Deployments
from backends.hosted.example_format import FILE_PREFIX
from backends.hosted.failures import HostError
from backends.hosted.host_connection import HostConnection
from backends.hosted.job_creation import DAY_S, METADATA_RUN, JobCreator
from backends.hosted.journal import HostedRun, uploaded_files_of
from backends.hosted.rate_limiter import RateLimiter
from backends.hosted.remote_objects import RemoteJob

JOB, DEPLOYMENT, MODEL, RESULT_FILE, DATA_FILE = "job", "deployment", "model", "result file", "data file"
_REMOVAL_ORDER = (JOB, DEPLOYMENT, MODEL, RESULT_FILE, DATA_FILE)

PATIENCE_S = 60.0
"""How long a clean-up tolerates an unreachable host. The user can simply repeat it."""

JOURNAL_FOLDER = "hosted"
"""The folder of the journal in a workspace."""


class HostCleanup:
    """Lists and removes leftovers. Everything is idempotent: removing a missing thing succeeds."""

    def __init__(self, host: HostConnection, creator: JobCreator, deployments: Deployments) -> None:
        self._host, self._client, self._journal = host, host.client, host.journal
        self._creator, self._deployments = creator, deployments
        self._rate_limiter = RateLimiter(PATIENCE_S, None, host.clock, host.sleep)
        self._other_workspaces: Sequence[Path] = ()

    # -------------------------------------------------------------------------------------- one run
    def discard(self, run: HostedRun) -> None:
        """Delete a run's deployments, models and result files.

        Cancels its job if that is paused.
        """
        models = self._journal.models.of_run(run.id)
        if run.job is not None and (job := self._client.job(run.job)) is not None:
            if not self._host.job_status(job).is_final:
                self._client.cancel(job.id)
            models += self._models_of_job(job)
            for file in job.result_files:
                self._client.delete_file(file)
        for model in dict.fromkeys(models):
            if not self._is_used_by_other_runs(model, {run.id}):
                self._deployments.remove(model)
                self._remove_model(model)  # a model that the host keeps costs nothing

    def _models_of_job(self, job: RemoteJob) -> list[str]:
        """Return the models of a job: its remaining checkpoints, and its final model."""
        checkpoints = self._client.checkpoints(job.id)
        models = [checkpoint.model for checkpoint in checkpoints if checkpoint.model]
        return [*models, job.model] if job.model else models

    def _is_used_by_other_runs(self, model: str, run_ids: Collection[str]) -> bool:
        """Return whether a model is also the result of another run that is not discarded."""
        return any(run.id not in run_ids and not run.discarded for run in self._journal.models.runs_with(model))

    def _remove_model(self, model: str) -> str:
        """Delete a model. Returns why it still exists, or "" if it does not."""
        if reason := self._why_models_stay():
            return reason
        try:
            self._client.delete_model(model)
        except HostError as error:
            # At some hosts a checkpoint is not a model of its own.
            if error.failure.kind.retryable:
                raise
            return f"the host refuses to delete it: {error.failure.message}"
        self._journal.models.mark_deleted(model)
        return ""

    def _why_models_stay(self) -> str:
        return "" if self._host.profile.inference.models_deletable else "this host does not delete models on request"

    # -------------------------------------------------------------------------------------- listing
    def leftovers(self, keys: Sequence[str] | None = None, others: Sequence[Path] = ()) -> list[Leftover]:
        """Return the leftovers of the runs with these keys (None: of all runs), in removal order.

        A model that is also the result of a run with another key is not listed. `others` are the
        workspaces of other sweeps; see `SupportsCleanup.leftovers`.
        """
        self._other_workspaces = others
        runs = [run for run in self._journal.runs.all() if keys is None or run.key in keys]
        run_ids = {run.id for run in runs}
        leftovers = [
            leftover
            for run in runs
            for leftover in self._of_run(run)
            if leftover.model is None or not self._is_used_by_other_runs(leftover.model, run_ids)
        ]
        if keys is None:
            listed = {leftover.model for leftover in leftovers if leftover.kind == DEPLOYMENT}
            unlisted = [model for model in self._journal.models.deployments() if model not in listed]
            leftovers += [
                Leftover(DEPLOYMENT, model, None, model) for model in unlisted
            ]  # of a base model, for example
            leftovers += self._data_files()
        unique: dict[tuple[str, str], Leftover] = {}
        for leftover in leftovers:  # the model of one job can be the result of several runs
            unique.setdefault((leftover.kind, leftover.name), leftover)
        return sorted(unique.values(), key=lambda leftover: _REMOVAL_ORDER.index(leftover.kind))

    def _of_run(self, run: HostedRun) -> list[Leftover]:
        return self._rate_limiter.with_retries(lambda: list(self._iterate_run(run)))

    def _iterate_run(self, run: HostedRun) -> Iterator[Leftover]:
        models, deployed = self._journal.models.of_run(run.id), self._journal.models.deployments()
        for job in self._jobs_of(run):
            models += self._models_of_job(job)
            for file in filter(None, map(self._client.file, job.result_files)):
                yield Leftover(RESULT_FILE, file.id, run.key, None, file.bytes)
            if not self._host.job_status(job).is_final:
                yield Leftover(JOB, job.id, run.key)
        for model in dict.fromkeys(models):
            if model in deployed:
                yield Leftover(DEPLOYMENT, model, run.key, model)
            if not run.discarded and not self._is_deleted(model):
                yield Leftover(MODEL, model, run.key, model, needed=self._why_models_stay())

    def _jobs_of(self, run: HostedRun) -> list[RemoteJob]:
        if run.job is None:
            return self._creator.jobs_of(run.id)
        job = self._client.job(run.job)
        return [] if job is None else [job]

    def _is_deleted(self, model: str) -> bool:
        if self._journal.models.is_deleted(model):
            return True
        return self._host.profile.inference.models_listed and not self._client.has_model(model)

    # ----------------------------------------------------------------------------------- data files
    def _data_files(self) -> list[Leftover]:
        return self._rate_limiter.with_retries(lambda: list(self._iterate_data_files()))

    def _iterate_data_files(self) -> Iterator[Leftover]:
        uploads = self._journal.accounts.uploads(self._host.options.account)
        files = [file for file_id in uploads if (file := self._client.file(file_id))]
        jobs_using = self._jobs_using_files() if files else {}
        for file in files:
            foreign = file.filename and not file.filename.startswith(FILE_PREFIX)
            needed = "no sweep made it" if foreign else self._sweep_using(file.id) or jobs_using.get(file.id, "")
            yield Leftover(DATA_FILE, file.id, None, None, file.bytes, needed)

    def _sweep_using(self, file_id: str) -> str:
        """Return in words which other sweep's journal lists the file; "" if none does."""
        for workspace in self._other_workspaces:
            if file_id in uploaded_files_of(workspace / JOURNAL_FOLDER, self._host.options.account):
                return f"sweep {workspace.name} uses it"
        return ""

    def _jobs_using_files(self) -> dict[str, str]:
        """Return in words, by file, which job of another workspace needs it.

        A job needs its files until it has ended, and for a day after its creation: its sweep may be
        about to create another job with the same files.
        """
        runs = self._journal.runs.all()
        own_jobs, own_runs = {run.job for run in runs}, {run.id for run in runs}
        reasons: dict[str, str] = {}
        for job in self._client.jobs(None):
            if job.id in own_jobs or job.metadata.get(METADATA_RUN) in own_runs:
                continue
            if not self._host.job_status(job).is_final:
                reasons |= dict.fromkeys(job.files, f"job {job.id} of another sweep trains with it")
            elif self._host.clock() - job.created_at < DAY_S:
                for file in job.files:
                    reasons.setdefault(file, f"job {job.id} of another sweep used it within the last day")
        return reasons

    # -------------------------------------------------------------------------------------- removal
    def remove(self, leftover: Leftover) -> str:
        """Remove one leftover; see `SupportsCleanup.remove`.

        A job is cancelled. Afterwards it stays in the host's list, because no host deletes jobs.
        """
        return self._rate_limiter.with_retries(lambda: self._remove(leftover))

    def _remove(self, leftover: Leftover) -> str:
        match leftover.kind:
            case "job":
                return self._cancel_job(leftover.name)
            case "deployment":
                self._deployments.remove(leftover.name)
                remains = leftover.name in self._journal.models.deployments()
                return "`backend: {deployment: ...}` does not say where it is deployed" if remains else ""
            case "model":
                return self._remove_model(leftover.name)
            case "data file":
                return self._remove_data_file(leftover)
            case _:
                self._client.delete_file(leftover.name)
                return ""

    def _remove_data_file(self, leftover: Leftover) -> str:
        file_id = leftover.name
        # Ask again: another sweep may have begun to use the file since the listing.
        current = [file.needed for file in self._iterate_data_files() if file.name == file_id]
        needed = leftover.needed or "".join(current)
        if not needed:
            self._client.delete_file(file_id)
        if not needed or self._sweep_using(file_id):
            self._journal.accounts.forget_upload(file_id)
        return needed

    def _cancel_job(self, job_id: str) -> str:
        try:
            self._client.cancel(job_id)
        except HostError as error:
            if error.failure.kind.retryable:
                raise
            job = self._client.job(job_id)
            if job is not None and not self._host.job_status(job).is_final:
                return f"the host refuses to cancel it: {error.failure.message}"
        return ""
