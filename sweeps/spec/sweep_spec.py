"""YAML -> SweepSpec: the sweep file as typed values, with every mistake in it reported at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from backends import registry
from backends.contract import Backend, Capabilities, Hyperparameter
from search_spaces.space import Limit, SearchSpace, SpaceError
from sweeps.data.spec import DataSpec
from sweeps.errors import Problem, UserInputError, suggestion
from sweeps.spec.champion import ChampionSpec
from sweeps.spec.objective import SPEND_METRICS, Objective
from sweeps.spec.problems import by_line, explained
from sweeps.spec.yaml_source import Document, KeyPath, read, with_overrides

SamplerName = Literal["tpe", "gp", "cmaes", "random", "grid", "qmc", "nsga2"]
SchedulerName = Literal["asha", "median", "none"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")


def _by_type(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


def _listed(value: object) -> object:
    if isinstance(value, list) and not value:
        raise ValueError("name at least one objective")
    return [value] if isinstance(value, dict) else value


def _written(value: object) -> object:
    return {} if value is None else value  # a section that is there and empty is all defaults


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SchedulerSpec(_Section):
    """Which trials are stopped early. `grace_epochs` pass before anything is stopped.

    `asha` (asynchronous successive halving) keeps the best 1/`reduction_factor` at each rung; `median` stops a trial
    whose running mean is worse than the median of `min_trials` others.
    """

    type: SchedulerName = "asha"
    grace_epochs: float = Field(1.0, gt=0)
    reduction_factor: float = Field(3.0, gt=1)
    min_trials: int = Field(3, ge=1)


class SearchSpec(_Section):
    """How the space is searched. `trials` counts trained trials, over all resumptions of the sweep.

    `stop_by_verdict` ends a trial that diverges or clearly over-fits.
    """

    sampler: SamplerName = "tpe"
    scheduler: Annotated[SchedulerSpec, BeforeValidator(_by_type)] = SchedulerSpec()
    trials: int = Field(16, ge=1)
    concurrency: int | None = Field(None, ge=1)
    startup_trials: int | None = Field(None, ge=0)
    seed: int = Field(7, ge=0, le=2**31 - 1)
    retries: int = Field(1, ge=0)
    stop_by_verdict: bool = True


class FinalsSpec(_Section):
    """The best `candidates` of the search are trained again with `seeds` other seeds each and ranked by the means."""

    candidates: int = Field(3, ge=1, le=20)
    seeds: int = Field(3, ge=2, le=20)


class ObjectiveSpec(_Section):
    """One metric to maximize or minimize, and the value at which the sweep may end."""

    maximize: str | None = None
    minimize: str | None = None
    target: float | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> ObjectiveSpec:
        if (self.maximize is None) == (self.minimize is None):
            raise ValueError("give exactly one of `maximize: <metric>` and `minimize: <metric>`")
        return self

    @property
    def objective(self) -> Objective:
        """The metric and its direction."""
        if self.maximize is not None:
            return Objective(self.maximize, "maximize")
        return Objective(self.minimize or "", "minimize")


class EvaluationSpec(_Section):
    """How often a trial is measured, and on how many training examples beside the whole validation set."""

    per_epoch: int = Field(1, ge=1, le=100)
    train_examples: int = Field(256, ge=1)


class BudgetSpec(_Section):
    """What a sweep may use, added up over resumptions. `hours` is wall time of `sweep run`.

    `usd` and `tokens` (trained on) are never exceeded: a trial starts only where the most it can take still fits.
    `monthly_usd` is such a limit of all nights of a schedule in a calendar month; see `nightly/month.py`.
    """

    usd: float | None = Field(None, gt=0, allow_inf_nan=False)
    monthly_usd: float | None = Field(None, gt=0, allow_inf_nan=False)
    tokens: int | None = Field(None, gt=0)
    hours: float | None = Field(None, gt=0)

    @property
    def limits_spend(self) -> bool:
        """True where trials must be weighed before they start."""
        return self.usd is not None or self.tokens is not None or self.monthly_usd is not None


class ResourcesSpec(_Section):
    """What one trial occupies. By default the CPUs are divided evenly, and a trial gets one GPU where there are any.

    A fraction of a GPU lets trials share it.
    """

    cpus_per_trial: float | None = Field(None, gt=0)
    gpus_per_trial: float | None = Field(None, ge=0)


class TrackingSpec(_Section):
    """The MLflow experiment (default: the sweep's name)."""

    experiment: str | None = None


class BackendSpec(BaseModel):
    """The backend's registered name; every other key is an option of that backend."""

    model_config = ConfigDict(extra="allow", frozen=True)
    type: str


SIZES = (10, 10_000_000)
"""Training sets so small and so large that what is wrong with a space for both is wrong for any."""

NO_PRICE = "nobody knows what a trial costs on this backend with this model"
NO_COUNT = "nobody knows how many tokens a trial trains on with this backend and this model"


class _SweepFile(_Section):
    name: str
    description: str = ""
    data: DataSpec
    backend: BackendSpec
    space: dict[str, Any]
    steering: Literal["off", "advise", "act"] = "advise"
    bounds: dict[str, tuple[float, float]] = Field(default_factory=dict)
    search: SearchSpec = SearchSpec()
    objective: Annotated[tuple[ObjectiveSpec, ...], BeforeValidator(_listed)]
    finals: FinalsSpec | None = None
    champion: Annotated[ChampionSpec | None, BeforeValidator(_written)] = None
    evaluation: EvaluationSpec = EvaluationSpec()
    budget: BudgetSpec = BudgetSpec()
    resources: ResourcesSpec = ResourcesSpec()
    tracking: TrackingSpec = TrackingSpec()


@dataclass(frozen=True)
class SweepSpec:
    """A sweep file, checked as far as that is possible without its data: types, names, and the search space's form."""

    name: str
    description: str
    data: DataSpec
    backend_type: str
    backend_class: type[Backend]
    backend_options: BaseModel
    capabilities: Capabilities
    space: SearchSpace
    steering: Literal["off", "advise", "act"]
    bounds: Mapping[str, tuple[float, float]]
    search: SearchSpec
    objectives: tuple[ObjectiveSpec, ...]
    finals: FinalsSpec | None
    champion: ChampionSpec | None
    evaluation: EvaluationSpec
    budget: BudgetSpec
    resources: ResourcesSpec
    tracking: TrackingSpec
    document: Document

    @property
    def objective(self) -> Objective:
        """The first objective: the one that ranks, prunes and keeps."""
        return self.objectives[0].objective

    @property
    def training_options(self) -> dict[str, Any]:
        """The backend's options as plain JSON values, without prices, which change only what is paid."""
        fields = type(self.backend_options).model_fields
        extras = {name: each.json_schema_extra for name, each in fields.items()}
        prices = {name for name, extra in extras.items() if isinstance(extra, dict) and extra.get("price")}
        return self.backend_options.model_dump(mode="json", exclude=prices)

    @property
    def registered_model(self) -> str:
        """The registered model whose champion the winner challenges."""
        return (self.champion.model if self.champion is not None else None) or self.name


def load(path: Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """Read a sweep file. Raises UserInputError with all the mistakes that can be found without reading the data."""
    return from_document(with_overrides(read(path), overrides))


def from_document(document: Document) -> SweepSpec:
    """Check a parsed document; see `load`."""
    problems: list[Problem] = []
    sections: _SweepFile | None = None
    try:
        sections = _SweepFile.model_validate(document.value)
    except ValidationError as error:
        problems += explained(error, document, _SweepFile)
    name = document.value.get("name")
    if isinstance(name, str) and not _NAME.match(name):
        problems.append(
            Problem(
                document.place(("name",)),
                f"name {name!r} cannot be used",
                "letters, digits, `.`, `_` and `-`, up to 100",
            )
        )
    problems += _check_steering(document)
    backend = _backend(document, problems)
    space = _space(document, problems)
    if backend is not None:
        problems += _check_objectives(document, backend[2])
        if space is not None:
            problems += _check_space(space, backend[2], document)
    if problems or sections is None or backend is None or space is None:
        raise UserInputError(sorted(problems, key=by_line))
    return SweepSpec(
        name=sections.name,
        description=sections.description,
        data=sections.data,
        backend_type=sections.backend.type,
        backend_class=backend[0],
        backend_options=backend[1],
        capabilities=backend[2],
        space=space,
        steering=sections.steering,
        bounds=sections.bounds,
        search=sections.search,
        objectives=sections.objective,
        finals=sections.finals,
        champion=sections.champion,
        evaluation=sections.evaluation,
        budget=sections.budget,
        resources=sections.resources,
        tracking=sections.tracking,
        document=document,
    )


def _backend(document: Document, problems: list[Problem]) -> tuple[type[Backend], BaseModel, Capabilities] | None:
    section = document.value.get("backend")
    if not isinstance(section, dict) or not isinstance(section.get("type"), str):
        return None  # reported by the model of the whole file
    try:
        backend = registry.load(section["type"])
    except registry.RegistryError as error:
        problems.append(Problem(document.place(("backend", "type")), error.message, error.hint))
        return None
    try:
        options = backend.options_model.model_validate({key: each for key, each in section.items() if key != "type"})
    except ValidationError as error:
        problems += explained(error, document, backend.options_model, ("backend",))
        return None
    return backend, options, backend.describe(options)


def _space(document: Document, problems: list[Problem]) -> SearchSpace | None:
    section = document.value.get("space")
    if not isinstance(section, dict):
        return None
    try:
        return SearchSpace.parse(section)
    except SpaceError as error:
        problems += space_problems(error, document)
        return None


def space_problems(error: SpaceError, document: Document) -> list[Problem]:
    """Give the problems of a search space their places in the file."""
    return [Problem(document.place(("space", *each.path)), each.message, each.hint) for each in error.problems]


def _check_space(space: SearchSpace, capabilities: Capabilities, document: Document) -> Iterable[Problem]:
    """What is wrong with the space whatever the size of the training set: wrong with few examples and with many."""
    found: list[dict[Problem, None]] = []
    for examples in SIZES:
        try:
            space.resolve(examples, limits(capabilities), capabilities.recommendation_scope)
        except SpaceError as error:
            found.append(dict.fromkeys(space_problems(error, document)))
    return [each for each in found[0] if all(each in others for others in found)] if len(found) == len(SIZES) else ()


def limits(capabilities: Capabilities) -> dict[str, Limit]:
    """Translate what a backend accepts into what a search space is clamped to. The two packages meet only here."""
    return {each.name: _limit(each) for each in capabilities.hyperparameters}


def _limit(each: Hyperparameter) -> Limit:
    return Limit(
        kind=each.kind,
        low=each.low,
        high=each.high,
        choices=each.choices,
        default=each.default,
        requires=each.requires,
        excludes=each.excludes,
    )


def section(document: Document, name: str) -> Any:
    """Return one section as `_SweepFile` reads it, or its default; None where it is wrong, or is needed and missing."""
    field = _SweepFile.model_fields[name]
    read_as: Any = Annotated[field.annotation, Field(), *field.metadata]
    if name not in document.value:
        return None if field.is_required() else field.get_default()
    try:
        return TypeAdapter(read_as).validate_python(document.value[name])
    except ValidationError:
        return None


def _check_objectives(document: Document, capabilities: Capabilities) -> Iterable[Problem]:
    """Metrics that the backend does not measure, and ways to search that several objectives rule out."""
    known = tuple(dict.fromkeys((*capabilities.metrics, *capabilities.label_metrics)))
    written, objectives = document.value.get("objective"), section(document, "objective")
    for index, each in enumerate(objectives or ()):
        path: KeyPath = ("objective", index) if isinstance(written, list) else ("objective",)
        path = (*path, each.objective.direction)
        if each.objective.metric in SPEND_METRICS:
            yield from _check_spend_metric(each.objective, index, capabilities, document, path)
        elif each.objective.metric not in known:
            yield Problem(
                document.place(path),
                f"metric `{each.objective.metric}` is not measured by backend `{document.value['backend']['type']}`",
                suggestion(each.objective.metric, known),
            )
    search: SearchSpec | None = section(document, "search")
    if search is None or len(objectives or ()) < 2:
        return
    if search.scheduler.type != "none":
        yield Problem(
            document.place(("search", "scheduler")),
            "several objectives cannot be stopped early by one of them",
            "write `scheduler: none`",
        )
    if search.sampler in ("gp", "cmaes"):
        yield Problem(
            document.place(("search", "sampler")),
            f"sampler `{search.sampler}` handles one objective",
            "use nsga2, tpe, random, qmc or grid",
        )


def _check_spend_metric(
    objective: Objective, index: int, capabilities: Capabilities, document: Document, path: KeyPath
) -> Iterable[Problem]:
    if index == 0:
        yield Problem(
            document.place(path),
            f"`{objective.metric}` cannot be the first objective: it ranks the trials and says which epoch is kept",
            f"put a measured one first: `objective: [{{maximize: valid_accuracy}}, {{minimize: {objective.metric}}}]`",
        )
    if objective.metric == "usd" and not capabilities.priced:
        yield Problem(document.place(path), NO_PRICE, "take tokens or seconds instead")


def _check_steering(document: Document) -> Iterable[Problem]:
    """`steering: act` moves ranges, which a grid does not have; `bounds` say how far, and so have two ends in order."""
    written, space = document.value, document.value.get("space")
    search, bounds = written.get("search"), written.get("bounds")
    if written.get("steering") == "act" and isinstance(search, dict) and search.get("sampler") == "grid":
        message = "a grid is fixed, and `steering: act` moves the ranges of a space"
        yield Problem(document.place(("steering",)), message, "write `steering: advise`, or choose another sampler")
    for name, ends in bounds.items() if isinstance(bounds, dict) else ():
        place = document.place(("bounds", name))
        if isinstance(space, dict) and name not in space and "use" not in space:
            yield Problem(place, f"`bounds.{name}`: the space has no {name}", suggestion(name, space))
        elif isinstance(ends, list) and all(isinstance(each, int | float) for each in ends) and ends != sorted(ends):
            yield Problem(place, f"`bounds.{name}`: {ends[0]:g} is above {ends[-1]:g}", "write the lower end first")
