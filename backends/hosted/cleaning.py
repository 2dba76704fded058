"""What a workspace's runs have left at the host, and removing it: for the discarding of one run, and for a clean-up.

The order is the host's: deployments before the models that they serve, models before files. Data files are shared by
runs, so discarding one run leaves them; only a clean-up of everything removes them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from backends.hosted.creation import METADATA_KEY, Creation
from backends.hosted.deployments import Deployments
from backends.hosted.examples import PREFIX
from backends.hosted.failures import ServiceError
from backends.hosted.journal import Journal, Run
from backends.hosted.options import HostedOptions
from backends.hosted.service import Service


@dataclass(frozen=True)
class Remnant:
    """Something at the host: what it is, its name there, and the key of the trial that it belongs to, if to one."""

    kind: Literal["deployment", "model", "result file", "data file", "job"]
    name: str
    key: str | None


class Cleaning:
    """Lists and removes what runs have left. Everything is idempotent: what is gone already is gone."""

    def __init__(
        self,
        options: HostedOptions,
        service: Service,
        journal: Journal,
        creation: Creation,
        deployments: Deployments,
    ) -> None:
        self._options, self._service, self._journal = options, service, journal
        self._creation, self._deployments = creation, deployments

    def discard(self, run: Run) -> None:
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
                self._remove_model(model)

    def _serves_others(self, model: str, runs: Collection[str]) -> bool:
        """Return whether a model is the result of another run, too, which is not discarded."""
        return any(each.id not in runs and not each.discarded for each in self._journal.users_of_model(model))

    def _remove_model(self, model: str) -> None:
        self._deployments.remove(model)
        if not self._options.profile.inference.models_deletable:
            return
        try:
            self._service.delete_model(model)
        except ServiceError as error:
            # a checkpoint is no model of its own everywhere; what cannot be deleted costs nothing
            if error.failure.kind.retryable:
                raise

    def listing(self, keys: Sequence[str] | None = None) -> list[Remnant]:
        """Return what is left of the runs with these keys (None: of the whole workspace), in the order of removal.

        A model that is also the result of a run with another key is not among it.
        """
        wanted = [each for each in self._journal.runs() if keys is None or each.key in keys]
        ids = {each.id for each in wanted}
        found = [
            remnant
            for run in wanted
            for remnant in self._of(run)
            if remnant.kind not in {"model", "deployment"} or not self._serves_others(remnant.name, ids)
        ]
        if keys is None:
            found += [
                Remnant("data file", id_, None)
                for id_ in self._journal.files(self._options.account)
                if self._service.file(id_) is not None
            ]
        order = ("deployment", "model", "result file", "data file", "job")
        return sorted(found, key=lambda each: order.index(each.kind))

    def elsewhere(self) -> list[Remnant]:
        """Return the jobs and data files of this account that any sweep has made, other workspaces' among them."""
        jobs = [
            Remnant("job", each.id, each.metadata.get(METADATA_KEY))
            for each in self._service.jobs(None)
            if METADATA_KEY in each.metadata
        ]
        return jobs + [Remnant("data file", e.id, None) for e in self._service.files() if e.filename.startswith(PREFIX)]

    def remove(self, remnant: Remnant) -> None:
        """Remove one thing. A job that has ended stays in the host's list: no host deletes those."""
        match remnant.kind:
            case "deployment":
                self._deployments.remove(remnant.name)
            case "model":
                self._remove_model(remnant.name)
            case "result file" | "data file":
                self._service.delete_file(remnant.name)
            case "job":
                self._service.cancel(remnant.name)

    def _of(self, run: Run) -> Iterator[Remnant]:
        deployed = self._journal.deployments()
        models = self._journal.models(run.id)
        yield from (Remnant("deployment", each, run.key) for each in models if each in deployed)
        job = self._service.job(run.job) if run.job is not None else self._creation.look_up(run.id)
        if job is not None:
            models += [each.model for each in self._service.checkpoints(job.id) if each.model]
            models += [job.model] if job.model else []
            yield from (Remnant("result file", each, run.key) for each in job.result_files if self._service.file(each))
            if not self._options.profile.standing(job.status).is_end:
                yield Remnant("job", job.id, run.key)
        if not run.discarded:
            yield from (Remnant("model", each, run.key) for each in dict.fromkeys(models))
