"""What a workspace's runs have left at the host, and removing it: for the discarding of one run, and for a clean-up.

The order is the host's: jobs that go on first, deployments before the models that they serve, models before files. Data
files are shared by runs and by sweeps, so discarding one run leaves them; a clean-up removes them where nobody else
uses them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from backends.cleanup import Remnant
from backends.hosted.deployments import Deployments
from backends.hosted.examples import PREFIX
from backends.hosted.failures import ServiceError
from backends.hosted.job_creation import DAY_S, METADATA_RUN, Creation
from backends.hosted.journal import HostedRun, Journal, uploads_of
from backends.hosted.options import HostedOptions
from backends.hosted.rate_limiter import Pace
from backends.hosted.service import RemoteJob, Service

JOB, DEPLOYMENT, MODEL, RESULT_FILE, DATA_FILE = "job", "deployment", "model", "result file", "data file"
_ORDER = (JOB, DEPLOYMENT, MODEL, RESULT_FILE, DATA_FILE)

PATIENCE_S = 60.0
"""A host may be out of reach for so long during a clean-up, which can be called again."""

FOLDER = "hosted"
"""Where a workspace keeps its journal."""


class Cleaning:
    """Lists and removes what runs have left. Everything is idempotent: what is gone already is gone."""

    def __init__(
        self,
        options: HostedOptions,
        service: Service,
        journal: Journal,
        creation: Creation,
        deployments: Deployments,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._options, self._service, self._journal = options, service, journal
        self._creation, self._deployments, self._clock = creation, deployments, clock
        self._pace = Pace(PATIENCE_S, None, clock, sleep)
        self._others: Sequence[Path] = ()

    # ---------------------------------------------------------------------------------------------------------- one run
    def discard(self, run: HostedRun) -> None:
        """Delete a run's deployments, models and result files; a job that is paused is cancelled."""
        models = self._journal.models(run.id)
        if run.job is not None and (job := self._service.job(run.job)) is not None:
            if not self._options.profile.standing(job.status).is_end:
                self._service.cancel(job.id)
            models += [each.model for each in self._service.checkpoints(job.id) if each.model]
            models += [job.model] if job.model else []
            for file in job.result_files:
                self._service.delete_file(file)
        for model in dict.fromkeys(models):
            if not self._serves_others(model, {run.id}):
                self._deployments.remove(model)
                self._remove_model(model)  # what cannot be deleted costs nothing

    def _serves_others(self, model: str, runs: Collection[str]) -> bool:
        """Return whether a model is the result of another run, too, which is not discarded."""
        return any(each.id not in runs and not each.discarded for each in self._journal.users_of_model(model))

    def _remove_model(self, model: str) -> str:
        """Delete a model. Returns why it is still there, if it is."""
        if reason := self._undeletable():
            return reason
        try:
            self._service.delete_model(model)
        except ServiceError as error:
            # a checkpoint is no model of its own everywhere
            if error.failure.kind.retryable:
                raise
            return f"the host does not delete it: {error.failure.message}"
        self._journal.note_gone(model)
        return ""

    def _undeletable(self) -> str:
        return "" if self._options.profile.inference.models_deletable else "this host deletes no models on request"

    # -------------------------------------------------------------------------------------------------------- listing
    def listing(self, keys: Sequence[str] | None = None, others: Sequence[Path] = ()) -> list[Remnant]:
        """Return what is left of the runs with these keys (None: of the whole workspace), in the order of removal.

        A model that is also the result of a run with another key is not among it. `others` are the workspaces of other
        sweeps; see `Cleaner.remnants`.
        """
        self._others = others
        wanted = [each for each in self._journal.runs() if keys is None or each.key in keys]
        ids = {each.id for each in wanted}
        found = [
            remnant
            for run in wanted
            for remnant in self._pace.patiently(lambda run=run: list(self._of(run)))  # type: ignore[misc]
            if remnant.model is None or not self._serves_others(remnant.model, ids)
        ]
        if keys is None:
            known = {each.model for each in found if each.kind == DEPLOYMENT}
            deployed = [each for each in self._journal.deployments() if each not in known]
            found += [Remnant(DEPLOYMENT, each, None, each) for each in deployed]  # of a base model, say
            found += self._pace.patiently(lambda: list(self._data_files()))
        unique: dict[tuple[str, str], Remnant] = {}
        for remnant in found:  # one job's model can be the result of several runs
            unique.setdefault((remnant.kind, remnant.name), remnant)
        return sorted(unique.values(), key=lambda each: _ORDER.index(each.kind))

    def _of(self, run: HostedRun) -> Iterator[Remnant]:
        models, deployed = self._journal.models(run.id), self._journal.deployments()
        for job in self._jobs_of(run):
            models += [each.model for each in self._service.checkpoints(job.id) if each.model]
            models += [job.model] if job.model else []
            for file in filter(None, map(self._service.file, job.result_files)):
                yield Remnant(RESULT_FILE, file.id, run.key, None, file.bytes)
            if not self._options.profile.standing(job.status).is_end:
                yield Remnant(JOB, job.id, run.key)
        for model in dict.fromkeys(models):
            if model in deployed:
                yield Remnant(DEPLOYMENT, model, run.key, model)
            if not run.discarded and not self._is_gone(model):
                yield Remnant(MODEL, model, run.key, model, needed=self._undeletable())

    def _jobs_of(self, run: HostedRun) -> list[RemoteJob]:
        if run.job is None:
            return self._creation.jobs_of(run.id)
        job = self._service.job(run.job)
        return [] if job is None else [job]

    def _is_gone(self, model: str) -> bool:
        if self._journal.is_gone(model):
            return True
        return self._options.profile.inference.models_listed and not self._service.has_model(model)

    # ------------------------------------------------------------------------------------------------------- data files
    def _data_files(self) -> Iterator[Remnant]:
        ours = [file for id_ in self._journal.files(self._options.account) if (file := self._service.file(id_))]
        users = self._users_of_files() if ours else {}
        for file in ours:
            foreign = "" if file.filename.startswith(PREFIX) or not file.filename else "no sweep has made it"
            needed = foreign or self._claimed(file.id) or users.get(file.id, "")
            yield Remnant(DATA_FILE, file.id, None, None, file.bytes, needed)

    def _claimed(self, file: str) -> str:
        """Say which other sweep's journal holds the file, if any does."""
        for other in self._others:
            if file in uploads_of(other / FOLDER, self._options.account):
                return f"sweep {other.name} uses it"
        return ""

    def _users_of_files(self) -> dict[str, str]:
        """Say of each file who else needs it: a job that is not this workspace's and has not ended, or is quite new.

        The sweep of a new one may be about to create another with the same file.
        """
        runs = self._journal.runs()
        jobs, ids = {each.job for each in runs}, {each.id for each in runs}
        found: dict[str, str] = {}
        for job in self._service.jobs(None):
            if job.id in jobs or job.metadata.get(METADATA_RUN) in ids:
                continue
            if not self._options.profile.standing(job.status).is_end:
                found |= dict.fromkeys(job.files, f"job {job.id} of another sweep trains with it")
            elif self._clock() - job.created_at < DAY_S:
                found |= {
                    each: f"job {job.id} of another sweep used it within a day"
                    for each in job.files
                    if each not in found
                }
        return found

    # --------------------------------------------------------------------------------------------------------- removing
    def remove(self, remnant: Remnant) -> str:
        """Remove one thing; see `Cleaner.remove`.

        A job is cancelled; once it has ended it stays in the host's list, as no host deletes jobs.
        """
        return self._pace.patiently(lambda: self._remove(remnant))

    def _remove(self, remnant: Remnant) -> str:
        match remnant.kind:
            case "job":
                return self._cancel(remnant.name)
            case "deployment":
                self._deployments.remove(remnant.name)
                left = remnant.name in self._journal.deployments()
                return "`backend: {deployment: ...}` does not say where it is deployed" if left else ""
            case "model":
                return self._remove_model(remnant.name)
            case "data file":
                return self._remove_data_file(remnant)
            case _:
                self._service.delete_file(remnant.name)
                return ""

    def _remove_data_file(self, remnant: Remnant) -> str:
        id_ = remnant.name
        now = [each.needed for each in self._data_files() if each.name == id_]  # others may have begun to use it
        needed = remnant.needed or "".join(now)
        if not needed:
            self._service.delete_file(id_)
        if not needed or self._claimed(id_):
            self._journal.forget_upload(id_)
        return needed

    def _cancel(self, id_: str) -> str:
        try:
            self._service.cancel(id_)
        except ServiceError as error:
            if error.failure.kind.retryable:
                raise
            job = self._service.job(id_)
            if job is not None and not self._options.profile.standing(job.status).is_end:
                return f"the host does not cancel it: {error.failure.message}"
        return ""
