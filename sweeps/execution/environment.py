"""The environment of a run: its workspace, study storage, MLflow and Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backends.contract import Backend, BackendError, Handle, Scalar
from sweeps.errors import SweepError
from sweeps.file_store.delivered_models import StoredModels, with_stored_models
from sweeps.file_store.store import FileStore, check_url
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.study.study import Study, StudyDefinition
from sweeps.trials.trial import Trial
from sweeps.workspace import Workspace, write_text

if TYPE_CHECKING:
    from sweeps.tracking.registry import Registry


@dataclass(frozen=True)
class Environment:
    """The settings that the command line reads from its options and from environment variables.

    `storage` is the database URL of the study, or None for the journal file. `ray_address` is the
    address of a Ray cluster, or None to start Ray on this machine. `files` is the URL of the store
    by which the machines of a cluster exchange files, or None if they share the workspace.
    """

    workspace: Workspace
    tracking_uri: str
    storage: str | None = None
    ray_address: str | None = None
    files: str | None = None

    def registry(self) -> Registry:
        """Connect to the model registry. Raises SweepError if it cannot be reached."""
        from sweeps.tracking.registry import Registry

        return Registry(self.tracking_uri)


def open_study(plan: SweepPlan, environment: Environment, first_points: Sequence[Mapping[str, Scalar]] = ()) -> Study:
    """Open the study of the planned sweep, or create it with `first_points` as its first trials.

    Raises the errors of `Study.open`.
    """
    workspace = environment.workspace
    return Study.open(
        environment.storage or workspace.study_file(plan.spec.name),
        StudyDefinition(
            workspace.study_name(plan.spec.name),
            plan.fingerprint,
            plan.space,
            [spec.objective for spec in plan.spec.objectives],
            plan.spec.search,
            plan.base_model,
            first_points,
            plan.spec.capabilities.memory_drivers,
        ),
    )


@contextmanager
def opened_backend(plan: SweepPlan, study: Study, files: str | None = None) -> Iterator[Backend]:
    """Open the backend of the sweep for the duration of the block.

    With `files`, the URL of a store, it fetches models from there. Raises SweepError for a
    BackendError in opening it, and for one that nobody in the block treats.
    """
    try:
        with closing(plan.open_backend()) as backend:
            if files is None or not backend.capabilities.in_process:
                yield backend
            else:
                yield with_stored_models(backend, FileStore(files), plan.folder, lambda: _kept_models(study))
    except BackendError as error:
        retry = "fix the cause, then run the same command again; every result is recorded"
        raise SweepError(error.failure.message, error.failure.detail or retry) from error


def fetch_best_model(backend: Backend, best: Trial | None, say: Callable[[str], None]) -> None:
    """Fetch the model of the best trial from the store, so that the sweep has it without the store.

    Does nothing without a store. An error is only said: the model can be fetched later.
    """
    if best is None or best.model is None or not isinstance(backend, StoredModels):
        return
    try:
        backend.fetch(best.model)
    except BackendError as error:
        say(f"the model of trial {best.number} stays in the store: {error.failure.message}")


def store_of_sweep(environment: Environment, name: str) -> str | None:
    """Return the URL of the store of a sweep: the environment's, else that of its last run.

    Remembers it for the next run. Raises UserInputError for a bad URL.
    """
    file = environment.workspace.files_url_file(name)
    if environment.files is not None:
        check_url(environment.files)
        write_text(file, environment.files)
        return environment.files
    return file.read_text(encoding="utf-8").strip() if file.exists() else None


def _kept_models(study: Study) -> Iterator[tuple[str, Handle]]:
    return ((trial.model, trial.handle) for trial in study.trials if trial.model and trial.handle)
