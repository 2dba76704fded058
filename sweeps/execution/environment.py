"""The environment of a run: its workspace, study storage, MLflow and Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backends.contract import Backend, BackendError, Scalar
from sweeps.errors import SweepError
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.study.study import Study, StudyDefinition
from sweeps.workspace import Workspace

if TYPE_CHECKING:
    from sweeps.tracking.registry import Registry


@dataclass(frozen=True)
class Environment:
    """The settings that the command line reads from its options and from environment variables.

    `storage` is the database URL of the study, or None for the journal file. `ray_address` is the
    address of a Ray cluster, or None to start Ray on this machine.
    """

    workspace: Workspace
    tracking_uri: str
    storage: str | None = None
    ray_address: str | None = None

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
        ),
    )


@contextmanager
def opened_backend(plan: SweepPlan) -> Iterator[Backend]:
    """Open the backend of the sweep for the duration of the block.

    Raises SweepError for a BackendError in opening it, and for one that nobody in the block treats.
    """
    try:
        with closing(plan.open_backend()) as backend:
            yield backend
    except BackendError as error:
        retry = "fix the cause, then run the same command again; every result is recorded"
        raise SweepError(error.failure.message, error.failure.detail or retry) from error
