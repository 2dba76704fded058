"""The shape of the sweep file: one pydantic model per section, one described field per key.

The models hold the file as written; nothing in them is resolved. Their descriptions also feed the
JSON Schema (`sweeps.spec.json_schema`), which editors show as help.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from backends.contract import Decoding
from sweeps.data.spec import DataSpec
from sweeps.spec.objective import Objective

SamplerName = Literal["tpe", "gp", "cmaes", "random", "grid", "qmc", "nsga2"]
SchedulerName = Literal["asha", "median", "none"]

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


def _check_name(name: str) -> str:
    if not re.fullmatch(NAME_PATTERN.rstrip("$"), name):
        raise ValueError(
            f"{name!r} cannot be used as a name; write up to 100 letters, digits, `.`, `_` and `-`, "
            "starting with a letter or digit"
        )
    return name


Name = Annotated[str, AfterValidator(_check_name), Field(json_schema_extra={"pattern": NAME_PATTERN})]
"""A name that is safe in file names, URLs and the MLflow registry."""


METRIC_NAME_PATTERN = r"^[A-Za-z0-9_]{1,60}$"
"""A metric's name is part of the names of MLflow's metrics, of tags and of columns."""


class Section(BaseModel):
    """A part of the sweep file. Unknown keys, infinity and NaN are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SchedulerSpec(Section):
    """The rule that stops weak trials early."""

    type: SchedulerName = Field(
        "asha",
        description="asha (asynchronous successive halving) keeps the best 1/reduction_factor of the trials at each "
        "rung. median stops a trial whose running mean is worse than the median of min_trials others. none stops no "
        "trial early.",
    )
    grace_epochs: float = Field(1.0, gt=0, description="Epochs that every trial trains before it can be stopped.")
    reduction_factor: float = Field(
        3.0, gt=1, description="asha: 1/reduction_factor of the trials go on from each rung."
    )
    min_trials: int = Field(3, ge=1, description="median: how many other trials the rule needs for a comparison.")


def _scheduler_from_name(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


class SearchSpec(Section):
    """How the sweep searches the space."""

    sampler: SamplerName = Field(
        "tpe", description="The algorithm that proposes points. gp and cmaes handle one objective only."
    )
    scheduler: Annotated[
        SchedulerSpec, BeforeValidator(_scheduler_from_name, json_schema_input_type=SchedulerName | SchedulerSpec)
    ] = Field(
        SchedulerSpec(),
        description="The rule that stops weak trials early: asha, median or none, or a mapping with its settings.",
    )
    trials: int = Field(16, ge=1, description="Trials to train, counted over all resumptions of the sweep.")
    concurrency: int | None = Field(
        None,
        ge=1,
        description="Trials that train at the same time. Default: one per core, or what the hosted service allows.",
    )
    startup_trials: int | None = Field(
        None, ge=0, description="Random points before the sampler starts to learn. Default: the sampler's own."
    )
    seed: int = Field(7, ge=0, le=2**31 - 1, description="Seed of the sampler and of the trials.")
    retries: int = Field(1, ge=0, description="New attempts after a transient failure of a trial.")
    stop_by_verdict: bool = Field(True, description="Stop a trial that diverges or clearly overfits.")


class FinalsSpec(Section):
    """Train the best configurations again with new seeds and rank them by their means."""

    candidates: int = Field(3, ge=1, le=20, description="How many of the best configurations to train again.")
    seeds: int = Field(3, ge=2, le=20, description="New seeds per configuration.")


class ObjectiveSpec(Section):
    """One metric to maximize or minimize."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": [direction], "properties": {direction: {"type": "string"}}}
                for direction in ("maximize", "minimize")
            ]
        }
    )

    maximize: str | None = Field(None, description="A metric that is better when it is higher, e.g. valid_accuracy.")
    minimize: str | None = Field(
        None,
        description="A metric that is better when it is lower, e.g. valid_loss. After the first objective also usd, "
        "tokens or seconds: what the trial took.",
    )
    target: float | None = Field(None, description="The sweep may end when a trial reaches this value.")

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


def _objective_list(value: object) -> object:
    if isinstance(value, list) and not value:
        raise ValueError("name at least one objective")
    return [value] if isinstance(value, dict) else value


class ChampionSpec(Section):
    """Register the winner and let it challenge the champion of a registered model.

    A model that breaks one of the limits `max_latency_ms`, `max_cost_usd` and `min_recall` is never
    promoted.
    """

    model: Name | None = Field(None, description="Name of the registered model. Default: the sweep's name.")
    max_latency_ms: float | None = Field(
        None, gt=0, description="Limit for the measured median time of one answer, in ms."
    )
    max_cost_usd: float | None = Field(None, ge=0, description="Limit for the cost of training the model, in USD.")
    min_recall: float | None = Field(
        None,
        ge=0,
        le=1,
        description="The share of each class's test examples that the model must get right.",
    )


def _empty_means_defaults(value: object) -> object:
    """Read an empty section (`champion:` alone) as one with all defaults."""
    return {} if value is None else value


def _one_value_as_list(value: object) -> object:
    return value if isinstance(value, list) else [value]


MaxTokens = Annotated[int, Field(ge=1, le=65_536)]
Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(gt=0, le=1)]


class MetricSpec(Section):
    """A task metric as written: its type, its options, and what it is called and compared with."""

    type: str
    options: Any = None
    name: Annotated[str, Field(pattern=METRIC_NAME_PATTERN)] | None = Field(
        None, description="What it is called: evaluations report valid_<name>. Default: the type."
    )
    reference: str | None = Field(
        None, description="The column with the correct answer, or a list of them. Default: the completion."
    )


def _metric_from_written(value: object) -> object:
    """Read `exact_match`, or `{regex: OPTIONS, name: ..., reference: ...}`."""
    if isinstance(value, str):
        return {"type": value}
    if not isinstance(value, dict):
        raise ValueError("write the name of a metric, or one name with its options, such as {regex: {pattern: ...}}")
    types = [key for key in value if key not in ("name", "reference")]
    if len(types) != 1:
        raise ValueError(f"each metric needs exactly one type beside name and reference, not {len(types)}")
    return {"type": types[0], "options": value[types[0]], **{key: value[key] for key in value if key != types[0]}}


_WRITTEN_METRIC: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "object",
            "properties": {"name": {"type": "string", "pattern": METRIC_NAME_PATTERN}, "reference": {"type": "string"}},
            "minProperties": 1,
        },
    ]
}


class GenerateSpec(Section):
    """How evaluations generate the texts that task metrics measure."""

    examples: int = Field(200, ge=1, description="Validation examples to generate for, always the same ones.")
    max_tokens: MaxTokens = Field(256, description="The most tokens of one text.")
    stop: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        BeforeValidator(_one_value_as_list, json_schema_input_type=str | list[str]),
    ] = Field((), description="Texts before which generation ends, beside `data.stop`.")
    per_epoch: int = Field(1, ge=1, le=100, description="Evaluations per epoch that generate; it divides per_epoch.")
    temperature: Temperature = Field(0.0, description="0 takes the most probable token; above 0 is random.")
    top_p: TopP = Field(1.0, description="The share of the probability to draw from.")

    @property
    def decoding(self) -> Decoding:
        """How the texts are generated."""
        return Decoding(self.max_tokens, self.stop, self.temperature, self.top_p)


class EvaluationSpec(Section):
    """How often and on what a trial is evaluated during training."""

    per_epoch: int = Field(1, ge=1, le=100, description="Evaluations per epoch, on the whole validation set.")
    train_examples: int = Field(
        256, ge=1, description="Training examples that each evaluation also measures, to detect overfitting."
    )
    metrics: tuple[
        Annotated[
            MetricSpec,
            BeforeValidator(
                _metric_from_written, json_schema_input_type=Annotated[Any, WithJsonSchema(_WRITTEN_METRIC)]
            ),
        ],
        ...,
    ] = Field(
        (),
        description="Task metrics to measure on generated texts, e.g. [exact_match, {regex: {pattern: ...}}]. "
        "`sweep metrics` lists them.",
    )
    generate: GenerateSpec = Field(GenerateSpec(), description="How to generate the texts for the task metrics.")

    @model_validator(mode="after")
    def _generation_fits(self) -> EvaluationSpec:
        if self.metrics and self.per_epoch % self.generate.per_epoch:
            raise ValueError(
                f"generate.per_epoch is {self.generate.per_epoch}, but must divide per_epoch, which is {self.per_epoch}"
            )
        if "generate" in self.model_fields_set and not self.metrics:
            raise ValueError("`generate` has no effect without `metrics`; name at least one metric, or remove it")
        return self


class DecodingSpec(Section):
    """What to try when the finalists generate, without training again."""

    temperature: Annotated[
        tuple[Temperature, ...],
        BeforeValidator(_one_value_as_list, json_schema_input_type=float | list[float]),
    ] = Field((), description="Temperatures to try. Default: that of evaluation.generate.")
    top_p: Annotated[
        tuple[TopP, ...],
        BeforeValidator(_one_value_as_list, json_schema_input_type=float | list[float]),
    ] = Field((), description="Values of top_p to try. Default: that of evaluation.generate.")
    max_tokens: Annotated[
        tuple[MaxTokens, ...],
        BeforeValidator(_one_value_as_list, json_schema_input_type=int | list[int]),
    ] = Field((), description="Limits on the tokens of a text to try. Default: that of evaluation.generate.")

    def settings(self, default: Decoding) -> tuple[Decoding, ...]:
        """Return every combination, the default first."""
        combinations = itertools.product(
            self.max_tokens or (default.max_tokens,),
            self.temperature or (default.temperature,),
            self.top_p or (default.top_p,),
        )
        tried = (
            replace(default, max_tokens=max_tokens, temperature=temperature, top_p=top_p)
            for max_tokens, temperature, top_p in combinations
        )
        return tuple(dict.fromkeys((default, *tried)))


class BudgetSpec(Section):
    """What the sweep may use, added up over all resumptions.

    The limits on `usd` and `tokens` are never exceeded: a trial starts only if the most it can take
    still fits.
    """

    usd: float | None = Field(None, gt=0, description="Limit in USD. The backend must have a price.")
    monthly_usd: float | None = Field(
        None,
        gt=0,
        description="Limit in USD on all nights of a schedule in one calendar month. The sweep must be scheduled.",
    )
    tokens: int | None = Field(None, gt=0, description="Limit on the tokens trained on.")
    hours: float | None = Field(None, gt=0, description="Limit on the wall time of `sweep run`, in hours.")

    @property
    def limits_spend(self) -> bool:
        """True if each trial needs a cost bound before it starts."""
        return self.usd is not None or self.tokens is not None or self.monthly_usd is not None


class ResourcesSpec(Section):
    """What one trial occupies on the machine or the Ray cluster."""

    cpus_per_trial: float | None = Field(
        None, gt=0, description="CPUs per trial. Default: the CPUs divided evenly among the concurrent trials."
    )
    gpus_per_trial: float | None = Field(
        None,
        ge=0,
        description="GPUs per trial; a fraction lets trials share a GPU. Default: one where the machine has GPUs.",
    )

    nodes_per_trial: int = Field(
        1, ge=1, description="Machines of the Ray cluster that train one trial together. Needs a backend of programs."
    )

    @field_validator("gpus_per_trial")
    @classmethod
    def _whole_above_one(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError("above 1, write a whole number: only a single GPU can be shared")
        return gpus


class TrackingSpec(Section):
    """Where MLflow records the sweep."""

    experiment: str | None = Field(None, description="The MLflow experiment. Default: the sweep's name.")


class BackendSpec(BaseModel):
    """Where trials train: the registered name of a backend, and the options of that backend."""

    model_config = ConfigDict(extra="allow", frozen=True)
    type: str = Field(description="The name of an installed backend; `sweep backends` lists them.")


class SweepFile(Section):
    """A sweep: the examples, where to train, what to try, and how to search it."""

    name: Name = Field(description="The sweep's name. `sweep run` resumes the sweep of this name.")
    description: str = Field("", description="Free text about the sweep.")
    data: DataSpec | None = Field(
        None,
        description="The examples, and how they become prompts and completions. Only a backend that brings its own "
        "data needs none.",
    )
    backend: BackendSpec = Field(description="Where trials train.")
    space: dict[str, Any] | None = Field(
        None, description="The hyperparameters to try. Default: those that the backend's options declare with a range."
    )
    steering: Literal["off", "advise", "act"] = Field(
        "advise",
        description="What to do when the verdicts point beyond an edge of the space: advise reports it, act moves the "
        "range, off does neither.",
    )
    bounds: dict[str, tuple[float, float]] = Field(
        default_factory=dict,
        description="How far steering may move a range, e.g. {n_epochs: [1, 8]}. Default: what the backend accepts.",
    )
    search: SearchSpec = Field(SearchSpec(), description="How to search the space.")
    objective: Annotated[
        tuple[ObjectiveSpec, ...],
        BeforeValidator(
            _objective_list,
            json_schema_input_type=ObjectiveSpec | Annotated[list[ObjectiveSpec], Field(min_length=1)],
        ),
    ] = Field(description="What to optimize: one objective, or a list. The first one ranks the trials.")
    finals: FinalsSpec | None = Field(
        None, description="Train the best configurations again with new seeds. Default: no finals."
    )
    champion: Annotated[
        ChampionSpec | None, BeforeValidator(_empty_means_defaults, json_schema_input_type=ChampionSpec | None)
    ] = Field(None, description="Register the winner and let it challenge the champion. Default: register nothing.")
    evaluation: EvaluationSpec = Field(EvaluationSpec(), description="How often and on what to evaluate a trial.")
    decoding: DecodingSpec | None = Field(
        None,
        description="What to try when the finalists generate, without training again. The winner keeps the best. "
        "Default: evaluation.generate.",
    )
    budget: BudgetSpec = Field(BudgetSpec(), description="What the sweep may use. Default: no limits.")
    resources: ResourcesSpec = Field(ResourcesSpec(), description="What one trial occupies.")
    tracking: TrackingSpec = Field(TrackingSpec(), description="Where MLflow records the sweep.")
