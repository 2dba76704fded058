"""Entry points of planning: a sweep file or a SweepSpec becomes a SweepPlan.

Nothing is started or spent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sweeps.data.prepared_data import PreparedData, data_of_the_backend
from sweeps.errors import UserInputError
from sweeps.planning.decisions import complete_plan, resolve_plan
from sweeps.planning.gathering import ask_backend, available_cpus, data_problems, read_data
from sweeps.planning.machine_limits import Machine, resource_problems
from sweeps.planning.metric_checks import with_checked_metrics
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.spec.loading import from_document, read_section
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.spec.yaml_source import Document, read, with_overrides
from sweeps.workspace import Workspace


def plan_file(
    file: Path, overrides: Sequence[str], workspace: Workspace, data_path: Path | None = None, *, estimate: bool = True
) -> SweepPlan:
    """Read a sweep file and plan it; see `plan_document`."""
    return plan_document(with_overrides(read(file), overrides), workspace, data_path, estimate=estimate)


def plan_document(
    document: Document,
    workspace: Workspace,
    data_path: Path | None = None,
    *,
    estimate: bool = True,
    machine: Machine | None = None,
) -> SweepPlan:
    """Plan the content of a sweep file; see `make_plan`.

    Mistakes in it and in its data are reported together. `machine` is where the trials will run,
    if that is known: they must fit on it.
    """
    resources = read_section(document, "resources")
    problems = [] if machine is None or resources is None else [*resource_problems(resources, machine, document)]
    try:
        spec = from_document(document)
    except UserInputError as error:
        problems = [*error.problems, *problems]
    if problems:
        raise UserInputError([*problems, *data_problems(document, workspace.root, data_path)])
    return make_plan(spec, workspace, data_path, estimate=estimate)


def make_plan(
    spec: SweepSpec, workspace: Workspace, data_path: Path | None = None, *, estimate: bool = True
) -> SweepPlan:
    """Prepare the data, resolve the space, and ask the backend whether it would accept the trials.

    `data_path` replaces the place of the data that the file names. With `estimate`, and where the
    file limits money or tokens, the backend also estimates what trials take, which may need
    seconds. Raises UserInputError with every problem found, and SweepError if something is out of
    reach.
    """
    keep_rows = bool(spec.task_metrics)
    own_data = spec.capabilities.own_data
    if spec.data is None and own_data is not None:
        data = data_of_the_backend(own_data)
    else:
        assert spec.data is not None  # the loader has seen to it
        metrics = [metric.request for metric in spec.task_metrics]
        data = read_data(spec.data, spec.document, workspace.root, data_path, keep_rows=keep_rows, metrics=metrics)
    return plan_prepared(spec, data, workspace, estimate=estimate)


def plan_prepared(spec: SweepSpec, data: PreparedData, workspace: Workspace, *, estimate: bool = True) -> SweepPlan:
    """Plan a sweep whose data are prepared; see `make_plan`."""
    plan = resolve_plan(spec, data, available_cpus(), workspace.sweep_folder(spec.name))
    plan = with_checked_metrics(plan)
    return complete_plan(plan, ask_backend(plan, estimate=estimate or spec.budget.limits_spend))
