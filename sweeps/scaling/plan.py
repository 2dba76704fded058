"""Plans `sweep scale`: a sweep for each model and size, on nested data. Spends nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.contract import Scalar
from search_spaces.space import SpaceError
from sweeps.data import Finding, PreparedData
from sweeps.errors import Problem, SweepError, UserInputError
from sweeps.execution.finals_scoring import objective_bounds
from sweeps.planning.definition_changes import problems_of
from sweeps.planning.gathering import changes_since_last_run, read_data
from sweeps.planning.machine_limits import Machine
from sweeps.planning.plan import plan_document, plan_prepared
from sweeps.planning.sweep_plan import SweepPlan, resolve_space
from sweeps.scaling.curves import Measure
from sweeps.scaling.point_documents import SCALE, point_document, point_name
from sweeps.scaling.request import ModelChoice, ScaleRequest, model_label
from sweeps.spec.loading import from_document
from sweeps.spec.space import space_problems
from sweeps.spec.sweep_file import BudgetSpec
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.spec.yaml_source import Document
from sweeps.trials.budget import Amount, cost_bound, known_amount
from sweeps.workspace import Workspace

MAX_NAME = 100
"""The longest name of a sweep."""


@dataclass(frozen=True)
class ScalePoint:
    """One model at one size, and the sweep that trains it.

    `hyperparameters` is the point that it trains; empty if it searches.
    """

    choice: ModelChoice
    size: int
    plan: SweepPlan
    hyperparameters: Mapping[str, Scalar]

    @property
    def trainings(self) -> int:
        """The runs of this point, without retries."""
        return self.plan.spec.search.trials + self.plan.final_trials

    @property
    def required(self) -> Amount:
        """What the budget must hold for this point: everything, or what a search must start with.

        Zero where the cost is unknown.
        """
        if self.plan.estimate is None:
            return Amount()
        if not self.hyperparameters:
            return self.plan.required_budget
        bound = known_amount(cost_bound(self.plan.estimate))
        return Amount(bound.usd * self.trainings, bound.tokens * self.trainings)

    @property
    def most(self) -> Amount:
        """The most that this point can use, without retries. Zero where the cost is unknown."""
        if self.plan.most_expensive is None:
            return Amount()
        bound = known_amount(cost_bound(self.plan.most_expensive))
        return Amount(bound.usd * self.trainings, bound.tokens * self.trainings)


@dataclass(frozen=True)
class ScalePlan:
    """All points, ascending by size: at any end, every model has about the same sizes.

    `name` is that of the sweep file, and `document` its content. `findings` are warnings about the
    data of the largest size.
    """

    name: str
    document: Document
    request: ScaleRequest
    points: tuple[ScalePoint, ...]
    measure: Measure
    budget: BudgetSpec
    findings: tuple[Finding, ...]

    @property
    def home(self) -> str:
        """The name of the folder of the scale run, beside those of its points."""
        return f"{self.name}{SCALE}"


def plan_scale(
    document: Document,
    request: ScaleRequest,
    workspace: Workspace,
    data_path: Path | None = None,
    *,
    estimate: bool = True,
    machine: Machine | None = None,
    fresh: bool = False,
) -> ScalePlan:
    """Check everything about all points before any of them starts.

    `estimate` is that of `make_plan`. Unless the points start `fresh`, their stored sweeps must be
    about the same things. Raises UserInputError with the problems, and SweepError if something is
    out of reach.
    """
    choices = request.models or (_own_model(document),)
    request = ScaleRequest(request.sizes, choices, request.seeds, request.searches)
    largest = request.sizes[-1]
    if problems := list(_name_problems(document, request)):
        raise UserInputError(problems)
    try:
        first = plan_document(
            point_document(document, choices[0], largest, request, thorough=True),
            workspace,
            data_path,
            estimate=False,
            machine=machine,
        )
    except UserInputError as error:
        raise UserInputError(_placed(problem, document, choices[0]) for problem in error.problems) from None
    if problems := [*_sweep_problems(first, document), *_size_problems(first, largest)]:
        raise UserInputError(problems)
    points, data_of = _points(document, request, first, workspace, data_path, estimate=estimate)
    if problems := [] if fresh else _definition_problems(points):
        raise UserInputError(problems)
    _require_nested(data_of)
    budget = points[0].plan.spec.budget
    return ScalePlan(
        name=str(document.value["name"]),
        document=document,
        request=request,
        points=tuple(points),
        measure=_measure(first),
        budget=budget,
        findings=first.findings,
    )


def _own_model(document: Document) -> ModelChoice:
    backend = document.value.get("backend")
    model = backend.get("model") if isinstance(backend, dict) else None
    kind = backend.get("type") if isinstance(backend, dict) else None
    return ModelChoice(model_label(str(model or kind or "model")))


def _points(
    document: Document,
    request: ScaleRequest,
    first: SweepPlan,
    workspace: Workspace,
    data_path: Path | None,
    *,
    estimate: bool,
) -> tuple[list[ScalePoint], dict[int, PreparedData]]:
    """Plan all points. The data of a size are prepared once, for all models."""
    data_of = {request.sizes[-1]: first.data}
    points: list[ScalePoint] = []
    problems: dict[Problem, None] = {}
    for size in request.sizes:
        for choice in request.models:
            try:
                written = _spec(document, choice, size, request)
                if size not in data_of:
                    assert written.data is not None
                    keep_rows = bool(written.task_metrics)
                    data_of[size] = read_data(
                        written.data, written.document, workspace.root, data_path, keep_rows=keep_rows
                    )
                centre = {} if request.searches else _centre(written, data_of[size])
                spec = written if request.searches else _spec(document, choice, size, request, centre)
                asks = estimate or spec.capabilities.priced
                plan = plan_prepared(spec, data_of[size], workspace, estimate=asks)
                points.append(ScalePoint(choice, size, plan, centre))
            except UserInputError as error:
                problems |= dict.fromkeys(_placed(problem, document, choice) for problem in error.problems)
        if problems:
            raise UserInputError(problems)
    return points, data_of


def _placed(problem: Problem, document: Document, choice: ModelChoice) -> Problem:
    """Return a problem of the backend with the option as its place, if that named the model."""
    backend = {document.place(path) for path in (("backend",), ("backend", "model"))}
    if choice.model is None or problem.place not in backend:
        return problem
    return Problem(f"--models {choice.label}", problem.message, problem.hint)


def _spec(
    document: Document,
    choice: ModelChoice,
    size: int,
    request: ScaleRequest,
    point: Mapping[str, Scalar] | None = None,
) -> SweepSpec:
    is_largest = size == request.sizes[-1]
    return from_document(point_document(document, choice, size, request, point=point, thorough=is_largest))


def _centre(spec: SweepSpec, data: PreparedData) -> Mapping[str, Scalar]:
    """Return the first point that a sweep of this space tries: the recommended centre."""
    try:
        return resolve_space(spec, data).seed_points[0]
    except SpaceError as error:
        raise UserInputError(space_problems(error, spec.document)) from None


def _name_problems(document: Document, request: ScaleRequest) -> Iterable[Problem]:
    for choice in request.models:
        name = point_name(str(document.value.get("name")), choice.label, request.sizes[-1], searches=request.searches)
        if len(name) > MAX_NAME:
            hint = "shorten `name:`, or give the model a shorter label: --models LABEL=MODEL"
            yield Problem(document.place(("name",)), f"{name} is longer than {MAX_NAME} characters", hint)


def _sweep_problems(first: SweepPlan, document: Document) -> Iterable[Problem]:
    """Yield what makes the sweep file unfit for a scale run."""
    if first.spec.data is None:
        hint = "name the examples under `data:`"
        yield Problem(document.place(("backend",)), "this backend brings its own data, so it has no subsets", hint)
    if first.space.parameter("base_model") is not None:
        hint = "remove base_model from the space, and name the models with --models"
        yield Problem(document.place(("space", "base_model")), "`sweep scale` draws a line for each model", hint)


def _size_problems(first: SweepPlan, largest: int) -> Iterable[Problem]:
    examples = first.data.dataset.train.examples
    if first.spec.data is not None and examples < largest:
        message = f"{largest:,} is above the {examples:,} training examples of {first.data.name}"
        yield Problem("--sizes", message, f"let the sizes end at {examples} or below")


def _definition_problems(points: Sequence[ScalePoint]) -> list[Problem]:
    """Return why stored sweeps of the points cannot go on."""
    problems: dict[Problem, None] = {}
    for point in points:
        changes = changes_since_last_run(point.plan)
        problems |= dict.fromkeys(problems_of(changes, point.plan.spec.name, point.plan.spec.document))
    return list(problems)


def _require_nested(data_of: Mapping[int, PreparedData]) -> None:
    """Raise SweepError unless all sizes share validation and test, and each contains the smaller.

    Looks at the prepared files themselves.
    """
    smaller: tuple[int, Counter[bytes]] | None = None
    first = next(iter(data_of.values()))
    for size, data in sorted(data_of.items()):
        for part in ("valid", "test"):
            if data.digests.get(part) != first.digests.get(part):
                raise SweepError(f"the {part} part depends on the number of training examples", "give it its own file")
        lines = Counter(Path(data.dataset.train.path).read_bytes().splitlines())
        if smaller is not None and smaller[1] - lines:
            message = f"the {size:,} training examples do not contain the {smaller[0]:,} of the smaller set"
            raise SweepError(message, "leave out data.label_noise, which draws anew for each size")
        smaller = (size, lines)


def _measure(plan: SweepPlan) -> Measure:
    objective, counts = plan.spec.objective, list(plan.data.label_counts.get("valid", {}).values())
    labelled = sum(counts)
    guess = max(counts) / labelled if objective.metric == "valid_accuracy" and labelled else None
    metric = objective.metric.removeprefix("valid_")
    baselines = plan.data.baselines
    strongest = None if baselines is None else baselines.strongest("valid", metric)
    learned_from = 0 if baselines is None else baselines.examples.get("train", 0)
    return Measure(
        metric=objective.metric,
        direction=objective.direction,
        bounds=objective_bounds(plan),
        valid_examples=plan.data.dataset.valid.examples,
        guess=guess,
        baseline=None if strongest is None else strongest.value("valid", metric),
        baseline_name="" if strongest is None else f"{strongest.name}, {learned_from:,} examples",
    )


def to_json(plan: ScalePlan) -> dict[str, Any]:
    """Return the plan as plain JSON values."""
    return {
        "name": plan.name,
        "metric": plan.measure.metric,
        "seeds": plan.request.seeds,
        "searches": plan.request.searches,
        "budget": plan.budget.model_dump(exclude_none=True),
        "points": [
            {
                "model": point.choice.label,
                "base_model": point.plan.base_model,
                "size": point.size,
                "sweep": point.plan.spec.name,
                "trainings": point.trainings,
                "hyperparameters": dict(point.hyperparameters),
                "usd_at_most": point.most.usd or None,
                "tokens_at_most": point.most.tokens or None,
                "seconds": point.plan.seconds_without_early_stopping,
            }
            for point in plan.points
        ],
    }
