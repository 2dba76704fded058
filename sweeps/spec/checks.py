"""Checks that compare sections of a sweep file: objectives, steering, and space against backend."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set

from backends.contract import Capabilities
from backends.metrics import registry
from search_spaces.space import SearchSpace, SpaceError
from sweeps.errors import Problem, suggestion
from sweeps.spec.objective import SPEND_METRICS, Objective, better_direction
from sweeps.spec.space import space_limits, space_problems
from sweeps.spec.sweep_file import ObjectiveSpec, ResourcesSpec, SearchSpec
from sweeps.spec.task_metrics import TaskMetric
from sweeps.spec.yaml_source import Document, KeyPath

EXTREME_SIZES = (10, 10_000_000)
"""A very small and a very large training set.

A space that is wrong for both is wrong for every size.
"""

NO_PRICE = "the price of a trial is unknown for this backend and model"
NO_TOKEN_COUNT = "the number of tokens that a trial trains on is unknown for this backend and model"


def space_resolution_problems(space: SearchSpace, capabilities: Capabilities, document: Document) -> Sequence[Problem]:
    """Return what is wrong with the space for a training set of any size.

    Problems that depend on the size are left to the plan, which knows it.
    """
    problems_by_size: list[dict[Problem, None]] = []
    for examples in EXTREME_SIZES:
        try:
            space.resolve(examples, space_limits(capabilities), capabilities.recommendation_scope)
        except SpaceError as error:
            problems_by_size.append(dict.fromkeys(space_problems(error, document)))
    if len(problems_by_size) < len(EXTREME_SIZES):
        return ()
    first, *others = problems_by_size
    return [problem for problem in first if all(problem in problems for problems in others)]


def objective_problems(
    objectives: Sequence[ObjectiveSpec],
    search: SearchSpec | None,
    capabilities: Capabilities,
    document: Document,
    task_metrics: Sequence[TaskMetric] = (),
    unreadable: Set[str] = frozenset(),
) -> Iterable[Problem]:
    """Yield the problems of the objectives.

    These are metrics that nobody measures, and search methods that cannot handle several
    objectives. Whether a task metric has the further number that an objective names
    (`valid_json_fields_price`) is known only with the data.

    `search` is None where that section is wrong. `unreadable` are the reported names of task
    metrics with a problem of their own, about which nothing is known.
    """
    directions = {metric.reported_name: metric.declaration.direction for metric in task_metrics}
    known = tuple(dict.fromkeys((*capabilities.metrics, *capabilities.label_metrics, *directions)))
    is_list = isinstance(document.value.get("objective"), list)
    for index, written in enumerate(objectives):
        objective = written.objective
        path: KeyPath = ("objective", index) if is_list else ("objective",)
        path = (*path, objective.direction)
        if objective.metric in SPEND_METRICS:
            yield from _spend_metric_problems(objective, index, capabilities, document, path)
        elif objective.metric.startswith("train_"):
            message = (
                f"`{objective.metric}` measures examples that the model has learned, and prefers what it memorises"
            )
            yield Problem(document.place(path), message, _validation_objective(objective, known))
        elif objective.metric in known or _may_be_measured(objective.metric, capabilities, directions):
            better = directions.get(objective.metric) or better_direction(objective.metric)
            if better not in (None, objective.direction):
                message = f"`{objective.direction}: {objective.metric}` searches for the worst model"
                yield Problem(document.place(path), message, f"write `{better}: {objective.metric}`")
        elif objective.metric not in unreadable:
            yield Problem(
                document.place(path),
                f"backend `{document.value['backend']['type']}` does not measure metric `{objective.metric}`",
                _suggested_metric(objective.metric, known, capabilities),
            )
    if search is None or len(objectives) < 2:
        return
    if search.scheduler.type != "none":
        yield Problem(
            document.place(("search", "scheduler")),
            "a sweep with several objectives cannot stop trials early",
            "write `scheduler: none`",
        )
    if search.sampler in ("gp", "cmaes"):
        yield Problem(
            document.place(("search", "sampler")),
            f"sampler `{search.sampler}` handles one objective only",
            "use nsga2, tpe, random, qmc or grid",
        )


def _validation_objective(objective: Objective, known: Sequence[str]) -> str:
    metric = f"valid_{objective.metric.removeprefix('train_')}"
    if metric not in known:
        metric = next((name for name in known if name.startswith("valid_")), metric)
    return f"write `{better_direction(metric) or objective.direction}: {metric}`"


def _may_be_measured(metric: str, capabilities: Capabilities, task_metrics: Iterable[str]) -> bool:
    """Return whether only the run, or only the data, tells if an evaluation has this number."""
    own = ("valid_", "train_") if capabilities.further_metrics else ()
    return metric.startswith((*own, *(f"{name}_" for name in task_metrics)))


def _suggested_metric(metric: str, known: Sequence[str], capabilities: Capabilities) -> str:
    name = metric.removeprefix("valid_")
    if capabilities.task_metrics and name in registry.names():
        return f"add `evaluation: {{metrics: [{name}]}}`, and write `valid_{name}` here"
    return suggestion(metric, known)


def _spend_metric_problems(
    objective: Objective, index: int, capabilities: Capabilities, document: Document, path: KeyPath
) -> Iterable[Problem]:
    if index == 0:
        yield Problem(
            document.place(path),
            f"`{objective.metric}` cannot be the first objective, which ranks the trials and selects the epoch to keep",
            f"put a measured metric first: "
            f"`objective: [{{maximize: valid_accuracy}}, {{minimize: {objective.metric}}}]`",
        )
    elif objective.direction == "maximize":
        message = f"`maximize: {objective.metric}` searches for the most expensive trial"
        yield Problem(document.place(path), message, f"write `minimize: {objective.metric}`")
    if objective.metric == "usd" and not capabilities.priced:
        yield Problem(document.place(path), NO_PRICE, "use tokens or seconds instead")


def steering_problems(document: Document) -> Iterable[Problem]:
    """Yield the problems of `steering` and `bounds`.

    `steering: act` cannot move a grid. `bounds` must name a hyperparameter of the space, with the
    lower end first.
    """
    written, space = document.value, document.value.get("space")
    search, bounds = written.get("search"), written.get("bounds")
    if written.get("steering") == "act" and isinstance(search, dict) and search.get("sampler") == "grid":
        yield Problem(
            document.place(("steering",)),
            "`steering: act` moves the ranges of the space, but a grid is fixed",
            "write `steering: advise`, or choose another sampler",
        )
    for name, ends in bounds.items() if isinstance(bounds, dict) else ():
        place = document.place(("bounds", name))
        if isinstance(space, dict) and name not in space and "use" not in space:
            yield Problem(place, f"`bounds.{name}`: the space has no {name}", suggestion(name, space))
        elif isinstance(ends, list) and all(isinstance(end, int | float) for end in ends) and ends != sorted(ends):
            yield Problem(place, f"`bounds.{name}`: {ends[0]:g} is above {ends[-1]:g}", "write the lower end first")


def resource_problems(
    resources: ResourcesSpec | None, capabilities: Capabilities, document: Document
) -> Iterable[Problem]:
    """Yield what the backend cannot use. `resources` is None where that section is wrong."""
    if resources is None or capabilities.starts_programs:
        return
    if resources.nodes_per_trial > 1:
        message, hint = "this backend trains a trial on one machine", "remove nodes_per_trial"
        yield Problem(document.place(("resources", "nodes_per_trial")), message, hint)
