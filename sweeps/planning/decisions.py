"""The pure part of planning: spec, data and the backend's answers become a plan or problems.

Nothing here reads a file, opens a backend or looks at the machine: `sweeps.planning.gathering`
does.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from backends.contract import Estimate, EvaluationSettings, Failure, GenerationSettings, Scalar, TrainingRequest
from backends.example_report import ExampleReport
from backends.memory_forecast.forecast import MemoryForecast
from backends.metrics.requested_metric import identity as metric_identity
from backends.rendering import RenderedExample
from search_spaces.space import ResolvedSpace, SpaceError
from sweeps.data import Finding, PreparedData
from sweeps.data.findings import warning
from sweeps.data.places import with_own_places
from sweeps.errors import Problem, UserInputError
from sweeps.planning.budget_checks import budget_problems
from sweeps.planning.champion_checks import champion_problems
from sweeps.planning.example_findings import example_findings
from sweeps.planning.placement import place
from sweeps.planning.sweep_plan import SweepPlan, extreme_values, resolve_space
from sweeps.spec.space import space_problems
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.trials.budget import cost_bound, is_bounded
from sweeps.trials.trial import Trial

MAX_MEMORY_REQUESTS = 64
"""The most combinations whose memory is forecast."""


@dataclass(frozen=True)
class ProbeRequests:
    """The requests that a plan asks the backend about.

    `central` has one request per base model, at the centre of the space; `longest` the same with
    the most epochs. `memory` combines the extreme values of all hyperparameters that drive the
    memory of a run. `texts` has each text of a hyperparameter that accepts any text, because only
    the backend can tell which texts it accepts.
    """

    central: tuple[TrainingRequest, ...]
    longest: tuple[TrainingRequest, ...]
    memory: tuple[TrainingRequest, ...] = ()
    texts: tuple[TrainingRequest, ...] = ()


@dataclass(frozen=True)
class BackendAnswers:
    """What the backend says about the probe requests.

    `failures` are its objections to the central requests. `central` is its estimate for the first
    central request that fits into memory, and `longest` has its estimates for the longest requests
    that do. Both are missing if the plan needs no estimates. `example` is missing if the backend
    does not show examples. `reports` are what it says about the examples, by base model. `memory`
    is the forecast for the request of `central`, and `most_memory` the request that needs most,
    with its forecast; both are missing if the backend makes no forecasts.
    """

    failures: tuple[Failure, ...] = ()
    central: Estimate | None = None
    longest: tuple[Estimate, ...] = ()
    example: RenderedExample | None = None
    reports: Mapping[str, ExampleReport] = field(default_factory=dict)
    memory: MemoryForecast | None = None
    most_memory: tuple[TrainingRequest, MemoryForecast] | None = None


def resolve_plan(spec: SweepSpec, data: PreparedData, available_cpus: int, folder: Path) -> SweepPlan:
    """Return the plan before the backend was asked about it.

    Raises UserInputError with all problems.
    """
    problems: list[Problem] = []
    space = None
    try:
        space = resolve_space(spec, data)
        if spec.search.sampler == "grid":
            space.grid()  # raises SpaceError if the space has no grid
    except SpaceError as error:
        problems += space_problems(error, spec.document)
    problems += _objective_problems(spec, data)
    problems += champion_problems(spec, data)
    problems += () if space is None else _batch_problems(spec, data, space)
    if problems or space is None:
        raise UserInputError(problems)
    concurrency, placement = place(spec, available_cpus)
    return SweepPlan(
        spec=spec,
        data=data,
        space=space,
        base_model=spec.written_model,
        evaluation=EvaluationSettings(
            per_epoch=spec.evaluation.per_epoch,
            train_examples=spec.evaluation.train_examples,
            keep_metric=spec.objective.metric,
            keep_maximum=spec.objective.direction == "maximize",
            metrics=tuple(metric.request for metric in spec.task_metrics),
            generation=_generation(spec, data),
        ),
        concurrency=concurrency,
        placement=placement,
        folder=folder,
        estimate=None,
        findings=(*data.findings, *_left_out_findings(spec, space), *_batch_findings(spec, data, space)),
        fingerprint=_fingerprint(spec, data, space),
    )


def _generation(spec: SweepSpec, data: PreparedData) -> GenerationSettings | None:
    if not spec.task_metrics:
        return None
    written = spec.evaluation.generate
    examples = min(written.examples, data.dataset.valid.examples)
    return GenerationSettings(examples, written.per_epoch, written.decoding)


def probe_requests(plan: SweepPlan) -> ProbeRequests:
    """Return requests that cover every base model that the sweep can ask for."""
    centre = plan.space.seed_points[0]
    parameter = plan.space.parameter("base_model")
    models = (plan.base_model,) if parameter is None else extreme_values(parameter)
    central = []
    for model in models:
        point = centre if parameter is None else {**centre, "base_model": str(model)}
        central.append(plan.request(Trial(0, "plan", str(model), point, plan.spec.search.seed)))
    most_epochs = {"n_epochs": int(plan.max_epochs)} if plan.space.parameter("n_epochs") is not None else {}
    longest = [replace(request, hyperparameters={**request.hyperparameters, **most_epochs}) for request in central]
    return ProbeRequests(tuple(central), tuple(longest), _memory_requests(plan), _text_requests(plan))


def _text_requests(plan: SweepPlan) -> tuple[TrainingRequest, ...]:
    capabilities, centre = plan.spec.capabilities, plan.space.seed_points[0]
    if not capabilities.trains_on_worker:  # a host would have to be asked for each text
        return ()
    points = [
        {**centre, parameter.name: text}
        for parameter in plan.space.parameters
        if (declared := capabilities.hyperparameter(parameter.name)) is not None
        and (declared.kind, declared.choices) == ("str", None)
        and parameter.name != "base_model"
        for text in extreme_values(parameter)
        if centre.get(parameter.name) != text
    ]
    return tuple(
        plan.request(Trial(0, "plan", str(point.get("base_model", plan.base_model)), point, plan.spec.search.seed))
        for point in points
    )


def _memory_requests(plan: SweepPlan) -> tuple[TrainingRequest, ...]:
    centre, drivers = plan.space.seed_points[0], plan.spec.capabilities.memory_drivers
    searched = [parameter for parameter in plan.space.parameters if parameter.name in drivers and parameter.is_searched]
    points: dict[str, Mapping[str, Scalar]] = {}
    combinations = itertools.product(*(extreme_values(parameter) for parameter in searched))
    for values in itertools.islice(combinations, MAX_MEMORY_REQUESTS):
        chosen = dict(zip((parameter.name for parameter in searched), values, strict=True))
        point: dict[str, Scalar] = {}
        for parameter in plan.space.parameters:
            if parameter.is_active(point):
                value = chosen.get(parameter.name, centre.get(parameter.name, parameter.centre))
                point[parameter.name] = value
        points[json.dumps(point, sort_keys=True)] = point
    return tuple(
        plan.request(Trial(0, "plan", str(point.get("base_model", plan.base_model)), point, plan.spec.search.seed))
        for point in points.values()
    )


def complete_plan(plan: SweepPlan, answers: BackendAnswers) -> SweepPlan:
    """Return the plan with the backend's estimates.

    Raises UserInputError if the backend rejects a request, or if the budget does not fit the
    estimates.
    """
    if answers.failures:
        place = plan.spec.document.place(("backend",))
        problems = [
            Problem(place, with_own_places(failure.message, plan.data.places), failure.detail)
            for failure in answers.failures
        ]
        raise UserInputError(dict.fromkeys(problems))
    if answers.example is not None:
        notes = (warning("training-examples", plan.data.origins["train"], note) for note in answers.example.notes)
        plan = replace(plan, example=answers.example, findings=(*plan.findings, *notes))
    if answers.reports:
        found = example_findings(answers.reports, plan.space, plan.spec.document, plan.data.places)
        first = next(iter(answers.reports.values()))
        plan = replace(
            plan, token_lengths=first.lengths, max_length=first.max_length, findings=(*plan.findings, *found)
        )
    if answers.central is None:
        return plan
    plan = replace(plan, estimate=answers.central, most_expensive=_most_expensive(plan, answers.longest))
    plan = _with_memory(plan, answers)
    if over_budget := list(budget_problems(plan)):
        raise UserInputError(over_budget)
    return plan


def _with_memory(plan: SweepPlan, answers: BackendAnswers) -> SweepPlan:
    plan = replace(plan, memory=answers.memory)
    if answers.most_memory is None:
        return plan
    request, most = answers.most_memory
    plan = replace(plan, most_memory=most)
    if most.problem is None:
        return plan
    drivers = plan.spec.capabilities.memory_drivers
    point = ", ".join(f"{name} {value}" for name, value in request.hyperparameters.items() if name in drivers)
    fail = "such trials fail before they start" if most.is_measured else "such trials will probably fail"
    hint = f"{fail}, and the sampler then avoids them; narrow the space to leave them out"
    place = plan.spec.document.place(("space",))
    found = warning("memory", place, f"with {point}, {most.problem}" if point else most.problem, hint)
    return replace(plan, findings=(*plan.findings, found))


def _most_expensive(plan: SweepPlan, estimates: Iterable[Estimate]) -> Estimate:
    """Return the estimate with the highest cost bound.

    An estimate that leaves a limited quantity unknown comes first, then one without a price.
    """

    def cost(estimate: Estimate) -> tuple[bool, bool, float, int]:
        bound = cost_bound(estimate)
        return not is_bounded(bound, plan.spec.budget), bound.usd is None, bound.usd or 0.0, bound.tokens or 0

    return max(estimates, key=cost)


def _objective_problems(spec: SweepSpec, data: PreparedData) -> Iterable[Problem]:
    for written in spec.objectives:
        metric = written.objective.metric
        if metric in spec.capabilities.label_metrics and not data.dataset.labels:
            yield Problem(
                spec.document.place(("objective",)),
                f"`{metric}` needs labels, but this data set has none",
                "minimize valid_loss, or name the labels: `data: {task: classification}`",
            )


def _left_out_findings(spec: SweepSpec, space: ResolvedSpace) -> Iterable[Finding]:
    for name in space.left_out:
        place = spec.document.place(("space", name))
        yield warning("optional-left-out", place, f"{name} is left out: this backend and model do not have it")


def _batch_problems(spec: SweepSpec, data: PreparedData, space: ResolvedSpace) -> Iterable[Problem]:
    """Yield that every batch would hold more examples than there are."""
    sizes, examples = _batch_sizes(space), data.dataset.train.examples
    if sizes and min(sizes) > examples > 0:
        message = f"the smallest batch has {min(sizes):g} examples, but there are only {examples} training examples"
        hint = "lower batch_size; a batch of the whole training set makes one step an epoch"
        yield Problem(spec.document.place(("space", "batch_size")), message, hint)


def _batch_findings(spec: SweepSpec, data: PreparedData, space: ResolvedSpace) -> Iterable[Finding]:
    sizes, examples = _batch_sizes(space), data.dataset.train.examples
    if sizes and max(sizes) > examples > 0:
        message = f"batch_size reaches {max(sizes):g}, but there are only {examples} training examples"
        hint = f"every value from {examples} on trains on the whole set in one step; lower the high end"
        yield warning("batch-above-data", spec.document.place(("space", "batch_size")), message, hint)


def _batch_sizes(space: ResolvedSpace) -> tuple[float, ...]:
    parameter = space.parameter("batch_size")
    values = () if parameter is None else extreme_values(parameter)
    return tuple(float(value) for value in values if isinstance(value, int | float))


def _fingerprint(spec: SweepSpec, data: PreparedData, space: ResolvedSpace) -> str:
    """Return a digest of what identifies a sweep.

    Limits such as trials, hours or concurrency may change on resume.
    """
    identity = {
        "data": data.fingerprint,
        "space": space.fingerprint,
        "backend": [spec.backend_type, spec.training_options],
        "objectives": [(written.objective.metric, written.objective.direction) for written in spec.objectives],
        "evaluation": _evaluation_identity(spec),
        "seed": spec.search.seed,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _evaluation_identity(spec: SweepSpec) -> dict[str, Any]:
    """Return what identifies the evaluations.

    Without task metrics it has the form of version 0.1, so that its sweeps can go on.
    """
    identity: dict[str, Any] = spec.evaluation.model_dump(mode="json", exclude={"metrics", "generate"})
    if spec.task_metrics:
        identity["metrics"] = [metric_identity(metric.request) for metric in spec.task_metrics]
        identity["generate"] = spec.evaluation.generate.model_dump(mode="json")
    return identity
