"""The contract between a sweep and a backend: requests, events, capabilities, protocol.

This module knows neither Optuna nor Ray nor MLflow. `backends.codec` converts requests, handles and
events to JSON and back, so that they survive a restart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from pydantic import BaseModel, Field

Scalar: TypeAlias = bool | int | float | str
"""The type of the value of one hyperparameter."""


# --------------------------------------------------------------------------------------------- data
@dataclass(frozen=True)
class DataFile:
    """A prepared JSON-lines file: absolute path, number of examples, SHA-256 digest in hex."""

    path: str
    examples: int
    sha256: str


@dataclass(frozen=True)
class Dataset:
    """Prepared training and validation examples.

    Their texts already contain the separator and the stop sequence.

    A line of a `completion` file is `{"prompt": str, "completion": str, "segments": [str, ...]}`. A
    language model sees `prompt + completion`. An encoder sees the segments, which are the fields of
    the template without its separators.

    A line of a `chat` file is `{"messages": [{"role": str, "content": str}, ...]}`, with the
    further fields of the OpenAI chat format: `weight` (0 or 1), `tool_calls`, `tool_call_id` and
    `name` of a message, and `tools` of the line. The last message is the completion. With
    `train_on` `all` every message of the assistant is a target of training, with `last` only the
    completion; a message with weight 0 is none.

    A line may also have `row`, the example's own columns, which task metrics may read.

    `labels` are the allowed completions, exactly as the files have them; they are empty if the
    task is not classification. `stop` ends every completion, and generation ends there; it may be
    empty.
    """

    train: DataFile
    valid: DataFile
    layout: Literal["completion", "chat"]
    labels: tuple[str, ...] = ()
    stop: str = ""
    train_on: Literal["all", "last"] = "last"


# ------------------------------------------------------------------------------------------ request
@dataclass(frozen=True)
class MetricRequest:
    """A task metric: a number for generated texts, compared with the texts that they should be.

    Evaluations report it as `valid_` and its `name`. `type` is its registered name, see
    `backends.metrics.registry`, and `options` are its options as JSON values. They are complete: a
    worker needs no file of the user. The text to compare with is the completion of the line, or the
    column `reference` of its `row`; a list in that column holds several acceptable texts.
    """

    name: str
    type: str
    options: Mapping[str, Any] = field(default_factory=dict)
    reference: str | None = None


@dataclass(frozen=True)
class Decoding:
    """How a model generates a text.

    Generation ends before one of the `stop` texts, at a token that ends an answer, or after
    `max_tokens`. With temperature 0 each token is the most probable one. Otherwise it is drawn from
    the most probable tokens that together have the probability `top_p`, and the draw depends only
    on the seed of the call and the example.
    """

    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(frozen=True)
class GenerationSettings:
    """What evaluations generate for the task metrics.

    They generate for the same `examples` validation examples, a random sample, in `per_epoch`
    evenly spread evaluations of an epoch. The last one is at its end. The base model generates too.
    """

    examples: int = 200
    per_epoch: int = 1
    decoding: Decoding = field(default_factory=Decoding)


@dataclass(frozen=True)
class EvaluationSettings:
    """When a trial is evaluated, and which of its states is kept.

    Each evaluation scores the whole validation set and a fixed sample of `train_examples` training
    examples. There are `per_epoch` evaluations in an epoch, and the last of them is at its end. The
    state with the best `keep_metric` is kept, and on a tie the earlier one. Higher is better if
    `keep_maximum` is true. `metrics` are measured on generated texts; see `generation`, which is
    set if there are any. If the `keep_metric` is one of them, a state without it is never kept.
    """

    per_epoch: int = 1
    train_examples: int = 256
    keep_metric: str = "valid_loss"
    keep_maximum: bool = False
    metrics: tuple[MetricRequest, ...] = ()
    generation: GenerationSettings | None = None

    @property
    def generation_in_use(self) -> GenerationSettings:
        """The `generation`, or the defaults without one."""
        return self.generation or GenerationSettings()


@dataclass(frozen=True)
class TrainingRequest:
    """The complete description of one training run.

    `key` identifies the run: the same key always means the same run.

    `resume_from` is a model from an earlier event, from which training starts instead of
    `base_model`.
    """

    key: str
    base_model: str
    dataset: Dataset
    hyperparameters: Mapping[str, Scalar]
    seed: int
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    resume_from: str | None = None


@dataclass(frozen=True)
class Handle:
    """A submitted run: the registered name of the backend, and the backend's own identifier.

    Survives a restart.
    """

    backend: str
    id: str


@dataclass(frozen=True)
class Placement:
    """What a run may occupy: CPU cores, which is also its number of threads, and GPUs.

    A fraction shares one GPU. A run that spans several machines (`nodes`) has this on each of them;
    this process is on machine number `node`, and all of them meet at `port` of `address`, the first
    one. Only that one reports.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    nodes: int = 1
    node: int = 0
    address: str = "127.0.0.1"
    port: int = 0


# ------------------------------------------------------------------------------------------- events
class FailureKind(StrEnum):
    """Why a run failed. Only the kind decides whether the run is tried again (`retryable`)."""

    USER = "user"
    OUT_OF_MEMORY = "out_of_memory"
    DIVERGED = "diverged"
    TRANSIENT = "transient"
    QUOTA = "quota"
    LOST = "lost"
    BUG = "bug"

    @property
    def retryable(self) -> bool:
        """True if the same request may succeed later."""
        return self in (FailureKind.TRANSIENT, FailureKind.QUOTA, FailureKind.LOST)


@dataclass(frozen=True)
class Failure:
    """What went wrong, in one sentence (`message`), and the remedy or the evidence (`detail`)."""

    kind: FailureKind
    message: str
    detail: str = ""


class BackendError(Exception):
    """An operation of a backend failed; `failure` says why. The text never contains a secret."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure

    def __reduce__(self) -> tuple[type[BackendError], tuple[Failure]]:
        """Pickle by the failure, so that the error crosses process boundaries."""
        return type(self), (self.failure,)


@dataclass(frozen=True)
class Queued:
    """The run is waiting to start."""

    kind: Literal["queued"] = field(default="queued", kw_only=True, repr=False)


@dataclass(frozen=True)
class Started:
    """Training begins. Every run has exactly one such event, unless it ends before training.

    `resolved` holds the values that the run really uses: all requested hyperparameters unchanged,
    and also defaults and derived values (learning rate, micro-batch size, steps per epoch, device,
    dtype, ...).
    """

    kind: Literal["started"] = field(default="started", kw_only=True, repr=False)
    resolved: Mapping[str, Scalar]


@dataclass(frozen=True)
class Measured:
    """Measurements after optimizer step `step`, at `epoch` (1.5 is the middle of the second epoch).

    With scope `step`, `values` are reports of the training loop: `batch_loss` (the mean loss since
    the last such event), `learning_rate` and `grad_norm`.

    With scope `evaluation`, they are scores of the whole validation set (`valid_*`) and of the
    fixed training sample (`train_*`): `loss` in nats per completion token, `token_accuracy`, and
    for label tasks `accuracy` and `macro_f1`: the mean F1 of all labels of the data set, 0 for one
    that neither examples nor answers have. An evaluation at step 0, epoch 0 is the score of the
    base model.

    Evaluations that generate texts also have the task metrics of the request, as `valid_<name>`.

    An unknown value is absent. A value that is not finite is reported as it is.
    """

    kind: Literal["measured"] = field(default="measured", kw_only=True, repr=False)
    step: int
    epoch: float
    values: Mapping[str, float]
    scope: Literal["step", "evaluation"]


@dataclass(frozen=True)
class GeneratedText:
    """One generated text, beside the text that it should be, with its value of each metric.

    `example` is the index in the validation file. Long texts are cut. `truncated`: generation ended
    because of `max_tokens`. `scores` lack the metrics that have no value for a single example.
    """

    example: int
    prompt: str
    reference: str
    text: str
    truncated: bool = False
    scores: Mapping[str, float] = field(default_factory=dict)


GENERATED_SAMPLE = 20
"""How many texts a `Generated` event carries at most."""


@dataclass(frozen=True)
class Generated:
    """What the model wrote at an evaluation, for a few examples: the same ones at each evaluation.

    The `Measured` event of the evaluation follows. `examples` counts all generated texts, and
    `truncated` those that ended because of `max_tokens`.
    """

    kind: Literal["generated"] = field(default="generated", kw_only=True, repr=False)
    step: int
    epoch: float
    texts: tuple[GeneratedText, ...]
    examples: int
    truncated: int = 0


@dataclass(frozen=True)
class Checkpointed:
    """A usable model exists for this epoch.

    `model`, a path or a remote name, is an argument of `predict`.
    """

    kind: Literal["checkpointed"] = field(default="checkpointed", kw_only=True, repr=False)
    step: int
    epoch: float
    model: str


@dataclass(frozen=True)
class Charged:
    """Spend since the last such event. `usd` is None if the price is unknown.

    If the backend knows the spend in time, this event comes before the evaluation that the spend
    paid for, because the sweep may stop a trial at an evaluation. `estimated`: the service did not
    report the tokens, so the backend computed them from the data and the run's progress.
    """

    kind: Literal["charged"] = field(default="charged", kw_only=True, repr=False)
    usd: float | None
    tokens: int
    estimated: bool = False


@dataclass(frozen=True)
class Finished:
    """The run is complete. `model` is the kept state."""

    kind: Literal["finished"] = field(default="finished", kw_only=True, repr=False)
    model: str


@dataclass(frozen=True)
class Failed:
    """The run has failed and will not continue."""

    kind: Literal["failed"] = field(default="failed", kw_only=True, repr=False)
    failure: Failure


@dataclass(frozen=True)
class Stopped:
    """The run was stopped on request. `model` is the kept state; None if there is none."""

    kind: Literal["stopped"] = field(default="stopped", kw_only=True, repr=False)
    model: str | None = None


Event: TypeAlias = Annotated[
    Queued | Started | Measured | Generated | Checkpointed | Charged | Finished | Failed | Stopped,
    Field(discriminator="kind"),
]
"""Any of the events. `codec.to_json(event)` converts one, and `codec.from_json(Event, value)`
selects it by `kind`."""

TERMINAL_EVENTS = (Finished, Failed, Stopped)
"""No event follows one of these."""


# ------------------------------------------------------------------------------------- capabilities
@dataclass(frozen=True)
class Hyperparameter:
    """A hyperparameter that a backend accepts.

    `low` and `high` are inclusive bounds of a number (None: unbounded). `choices` are the only
    accepted values, if they are given. A `str` without `choices` accepts any text.

    `default` is the value if the space does not mention the hyperparameter. None means that the
    backend chooses the value by the rule that `default_rule` describes in words.

    `may_be_path`: a text value that names an existing file or folder is a path, which the sweep
    passes on as an absolute one; see `local_paths`.

    `searched`: a sweep without a space searches it over its whole range, by orders of magnitude if
    `log`, or over its choices.

    `requires` maps other hyperparameters to the values under which this one has an effect.
    `excludes` names those that cannot be given together with it.
    """

    name: str
    kind: Literal["int", "float", "str", "bool"]
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[Scalar, ...] | None = None
    default: Scalar | None = None
    default_rule: str = ""
    requires: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    excludes: tuple[str, ...] = ()
    may_be_path: bool = False
    searched: bool = False
    log: bool = False


@dataclass(frozen=True)
class OwnData:
    """A backend that needs no prepared data, and how many examples it has (0: unknown)."""

    train_examples: int = 0
    valid_examples: int = 0


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do, as data, so that no code depends on the name of a backend.

    `in_process`: `events` itself trains, in the calling process, until it can return an event.
    Otherwise the service trains by itself, and `poll_s` is a sensible pause between two calls, in
    seconds. `starts_programs`: that service is a process on the machine of the caller.

    `metrics` are the names that evaluations carry; those that are also in `label_metrics` appear
    only if the data set has labels. With `further_metrics` they may carry others, which only the
    run reveals: `valid_*` and `train_*`. `own_data` is set if a sweep may leave out its data.
    `recommendation_scope` names the fitting scope of the
    recommendation catalogue. `priced`: the backend knows the cost of a run in US dollars.
    `task_metrics`: evaluations can generate texts and measure the metrics of the request; with
    `task_metrics_at_end` only the last evaluation of a run does.
    `max_concurrent` is None if only the machine limits the number of runs at once.
    `memory_drivers` are the hyperparameters on which the memory of a run depends: more of a number
    needs more memory. `keeps_progress`: an interrupted run continues where it stopped; otherwise it
    trains from its beginning.
    """

    hyperparameters: tuple[Hyperparameter, ...]
    metrics: tuple[str, ...]
    label_metrics: tuple[str, ...]
    recommendation_scope: str
    in_process: bool
    poll_s: float = 0.0
    can_stop: bool = True
    can_predict: bool = False
    can_resume: bool = False
    evaluations_within_epoch: bool = False
    priced: bool = False
    max_concurrent: int | None = None
    task_metrics: bool = False
    task_metrics_at_end: bool = False
    further_metrics: bool = False
    own_data: OwnData | None = None
    starts_programs: bool = False
    memory_drivers: tuple[str, ...] = ()
    keeps_progress: bool = True

    @property
    def trains_on_worker(self) -> bool:
        """Whether a run needs the CPUs and GPUs of the machine of its worker."""
        return self.in_process or self.starts_programs

    def hyperparameter(self, name: str) -> Hyperparameter | None:
        """Return the declaration of `name`, or None if the backend does not accept it."""
        return next((declared for declared in self.hyperparameters if declared.name == name), None)


@dataclass(frozen=True)
class Estimate:
    """The expected usage of a run.

    None means unknown, and `basis` says in words where the numbers come from.

    `max_tokens` and `max_usd` are bounds that the complete run cannot exceed; a sweep keeps its
    limit by them. None means that the expected number is exact. Their JSON names are those of
    version 0.1.
    """

    tokens: int | None
    seconds: float | None
    usd: float | None
    disk_bytes: int | None
    basis: str
    max_tokens: Annotated[int | None, Field(alias="tokens_at_most")] = None
    max_usd: Annotated[float | None, Field(alias="usd_at_most")] = None


@dataclass(frozen=True)
class PredictOptions:
    """How to predict: choose the most probable of the given labels, or generate a text.

    `labels` is None for generation, which ends at `stop`, at one of `more_stops`, or after
    `max_tokens`. `Decoding` states what `temperature` and `top_p` do; `seed` decides the draw.
    """

    labels: tuple[str, ...] | None = None
    max_tokens: int = 64
    stop: str = ""
    more_stops: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    @classmethod
    def generate(cls, decoding: Decoding, stop: str, seed: int = 0) -> PredictOptions:
        """Return the options that generate with `decoding`, ending at the data set's `stop`."""
        return cls(None, decoding.max_tokens, stop, decoding.stop, decoding.temperature, decoding.top_p, seed)


@dataclass(frozen=True)
class Prediction:
    """The predicted text.

    For label tasks also the log-probability of each label, in nats, in the order of the options.

    `truncated`: the generated text ends because of `max_tokens`, not by itself. Its JSON name is
    that of version 0.1. `prompt_cut`: the model read only a part of the prompt, which is too long.
    """

    text: str
    label_logprobs: tuple[float, ...] | None = None
    truncated: Annotated[bool, Field(alias="cut")] = False
    prompt_cut: bool = False


# ----------------------------------------------------------------------------------------- protocol
@runtime_checkable
class Backend(Protocol):
    """A place that trains. Every implementation passes `backends.testing.BackendContract`.

    Importing and describing a backend is cheap: it loads heavy libraries in `open` at the earliest.
    Every method raises BackendError for each failure that is not a bug, and no other exception.
    """

    options_model: ClassVar[type[BaseModel]]
    """The pydantic model of the YAML's `backend:` mapping without `type`. It forbids unknown keys.
    """

    capabilities: Capabilities

    @classmethod
    def describe(cls, options: BaseModel) -> Capabilities:
        """Return the capabilities under these options.

        No side effect, no heavy import, no network.
        """
        ...

    @classmethod
    def open(cls, options: BaseModel, workspace: Path, placement: Placement) -> Backend:
        """Connect.

        The backend writes only below `workspace`. Two instances with the same workspace see the
        same runs.
        """
        ...

    def check(self, request: TrainingRequest) -> Sequence[Failure]:
        """Return everything that would make this request fail, before any spend.

        No side effect except caching.

        This includes a hyperparameter, a `resume_from`, evaluations within an epoch, or a
        `keep_metric` that the capabilities do not declare: the backend never ignores a part of a
        request.
        """
        ...

    def estimate(self, request: TrainingRequest) -> Estimate:
        """Return the money, tokens, seconds and disk space of the complete run.

        No side effect except caching.
        """
        ...

    def submit(self, request: TrainingRequest) -> Handle:
        """Start the run, or adopt it.

        The same key returns the same handle and never starts a second run.
        """
        ...

    def events(self, handle: Handle, after: int) -> Sequence[Event]:
        """Return the events numbered `after`, `after + 1`, and so on.

        They are complete, in order, and the same at every call.

        An in-process backend trains until there is at least one such event, unless the run has
        ended.
        """
        ...

    def stop(self, handle: Handle) -> None:
        """End the run soon.

        Its last event becomes `Stopped`, unless the run had already ended. Idempotent.
        """
        ...

    def predict(
        self, model: str, prompts: Sequence[Mapping[str, Any]], options: PredictOptions
    ) -> Sequence[Prediction]:
        """Return the model's predictions for the prompts, in their order.

        `model` comes from an event. The prompts are lines of a data file; their completions are
        ignored. The error for a model that the backend knows to be gone is of the kind LOST.
        """
        ...

    def discard(self, handle: Handle) -> None:
        """Delete what the run keeps (models, remote files), except its events. Idempotent."""
        ...

    def close(self) -> None:
        """Release the resources of this process (memory, connections).

        Runs of a service continue.
        """
        ...
