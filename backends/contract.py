"""The seam between a sweep and a place that trains: requests, handles, events, capabilities and the Backend protocol.

Nothing here knows of Optuna, Ray or MLflow. Requests, handles and events are JSON-able, so that they survive a restart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from pydantic import BaseModel, Field

Scalar: TypeAlias = bool | int | float | str
"""The type of one hyperparameter's value."""


# ---------------------------------------------------------------------------------------------------------------- data
@dataclass(frozen=True)
class DataFile:
    """A prepared JSON-lines file: an absolute path, how many examples it holds, and its sha256 (hex)."""

    path: str
    examples: int
    sha256: str


@dataclass(frozen=True)
class Dataset:
    """Prepared training and validation examples; separator and stop sequence are already in the text.

    A line of a `completion` file is `{"prompt": str, "completion": str, "segments": [str, ...]}`: the language model
    sees `prompt + completion`; an encoder sees the segments, which are the template's fields without its separators.
    A line of a `chat` file is `{"messages": [{"role": str, "content": str}, ...]}`; the last message is the completion.
    `labels` are the allowed completions, exactly as they stand in the files, or empty where the task is not
    classification. `stop` ends every completion and is where generation ends; it may be empty.
    """

    train: DataFile
    valid: DataFile
    layout: Literal["completion", "chat"]
    labels: tuple[str, ...] = ()
    stop: str = ""


# ------------------------------------------------------------------------------------------------------------- request
@dataclass(frozen=True)
class Evaluation:
    """When a trial is measured and which of its states is kept.

    The whole validation set is scored `per_epoch` times an epoch, always at epoch ends, and so is a fixed sample of
    `train_examples` training examples. The state with the best `keep_metric` is kept, the earlier one on a tie.
    """

    per_epoch: int = 1
    train_examples: int = 256
    keep_metric: str = "valid_loss"
    keep_maximum: bool = False


@dataclass(frozen=True)
class TrainingRequest:
    """One training run, completely described. `key` identifies it: the same key always means the same run."""

    key: str
    base_model: str
    dataset: Dataset
    hyperparameters: Mapping[str, Scalar]
    seed: int
    evaluation: Evaluation = field(default_factory=Evaluation)
    resume_from: str | None = None


@dataclass(frozen=True)
class Handle:
    """A submitted run: the backend's registered name and the backend's own identifier. Survives a restart."""

    backend: str
    id: str


@dataclass(frozen=True)
class Placement:
    """What a run may occupy: CPU cores (also its thread count) and GPUs (a fraction shares one)."""

    cpus: float = 1.0
    gpus: float = 0.0


# -------------------------------------------------------------------------------------------------------------- events
class FailureKind(StrEnum):
    """Why a run failed. Whether it is tried again depends on this alone (`retryable`)."""

    USER = "user"
    OUT_OF_MEMORY = "out_of_memory"
    DIVERGED = "diverged"
    TRANSIENT = "transient"
    QUOTA = "quota"
    LOST = "lost"
    BUG = "bug"

    @property
    def retryable(self) -> bool:
        """True where the same request may succeed later."""
        return self in (FailureKind.TRANSIENT, FailureKind.QUOTA, FailureKind.LOST)


@dataclass(frozen=True)
class Failure:
    """What went wrong, in one sentence (`message`), with the remedy or the evidence in `detail`."""

    kind: FailureKind
    message: str
    detail: str = ""


class BackendError(Exception):
    """An operation of a backend failed; `failure` says why. The text never holds a secret."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure

    def __reduce__(self) -> tuple[type[BackendError], tuple[Failure]]:
        """Pickle by the failure, so that the error crosses process boundaries."""
        return type(self), (self.failure,)


@dataclass(frozen=True)
class Queued:
    """The run waits for its turn."""

    kind: Literal["queued"] = field(default="queued", kw_only=True, repr=False)


@dataclass(frozen=True)
class Started:
    """Training begins; there is exactly one. `resolved` holds the values that the run really uses: each requested
    hyperparameter, and defaults and conversions (learning rate, micro-batch, steps per epoch, device, dtype, ...)."""

    kind: Literal["started"] = field(default="started", kw_only=True, repr=False)
    resolved: Mapping[str, Scalar]


@dataclass(frozen=True)
class Measured:
    """Measurements after optimizer step `step`, at `epoch` (1.5 is the middle of the second epoch).

    `scope` is `step` for running values of the training loop (`batch_loss`: mean loss since the last such event,
    `learning_rate`, `grad_norm`) and `evaluation` for the scores of the whole validation set (`valid_*`) and of the
    fixed training sample (`train_*`): `loss` in nats per completion token, `token_accuracy`, and for label tasks
    `accuracy` and `macro_f1`. An evaluation at step 0, epoch 0 is the base model's own score. A value that is not
    known is absent; a non-finite value is reported as it is.
    """

    kind: Literal["measured"] = field(default="measured", kw_only=True, repr=False)
    step: int
    epoch: float
    values: Mapping[str, float]
    scope: Literal["step", "evaluation"]


@dataclass(frozen=True)
class Checkpointed:
    """A usable model exists for this epoch; `model` is what `predict` accepts, a path or a remote name."""

    kind: Literal["checkpointed"] = field(default="checkpointed", kw_only=True, repr=False)
    step: int
    epoch: float
    model: str


@dataclass(frozen=True)
class Charged:
    """Spend since the last such event; `usd` is None where nobody knows. Where it is known in time it comes before the
    evaluation that it led to, as a trial may be stopped there. `estimated`: the service did not say, so it was reckoned
    from the data and from how far the run got."""

    kind: Literal["charged"] = field(default="charged", kw_only=True, repr=False)
    usd: float | None
    tokens: int
    estimated: bool = False


@dataclass(frozen=True)
class Finished:
    """The run is complete; `model` is the kept state."""

    kind: Literal["finished"] = field(default="finished", kw_only=True, repr=False)
    model: str


@dataclass(frozen=True)
class Failed:
    """The run failed for good."""

    kind: Literal["failed"] = field(default="failed", kw_only=True, repr=False)
    failure: Failure


@dataclass(frozen=True)
class Stopped:
    """The run was stopped on request; `model` is the kept state where there is one."""

    kind: Literal["stopped"] = field(default="stopped", kw_only=True, repr=False)
    model: str | None = None


Event: TypeAlias = Annotated[
    Queued | Started | Measured | Checkpointed | Charged | Finished | Failed | Stopped, Field(discriminator="kind")
]
"""Any of the events. `codec.to_json(event)` writes one, and `codec.from_json(Event, value)` reads it by its `kind`."""

TERMINAL = (Finished, Failed, Stopped)
"""After one of these no further event comes."""


# -------------------------------------------------------------------------------------------------------- capabilities
@dataclass(frozen=True)
class Hyperparameter:
    """A hyperparameter that a backend accepts.

    `low`/`high` are inclusive bounds of a number (None: unbounded), `choices` the accepted values otherwise (None with
    `kind="str"`: any string). `default` is used where the space is silent; None means that the backend chooses, as
    `default_rule` says in words. `requires` names other hyperparameters' values under which this one has an effect;
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


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do, as data. Nobody asks a backend's name.

    `in_process`: `events` itself does the training, in the calling process, until it has something to say; otherwise
    the service trains by itself and `poll_s` is a sensible pause between two calls. `recommendation_scope` names the
    scope of the recommendation catalogue that fits. `metrics` are the names that evaluations carry; those that are in
    `label_metrics`, too, only where the data set has labels. `max_concurrent` None: as many as there is room for.
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

    def hyperparameter(self, name: str) -> Hyperparameter | None:
        """Return the declaration of `name`, or None where the backend does not accept it."""
        return next((each for each in self.hyperparameters if each.name == name), None)


@dataclass(frozen=True)
class Estimate:
    """What a run is expected to use. None is unknown; `basis` says in words where the numbers come from.

    `max_tokens` and `max_usd` are bounds that the complete run cannot exceed, by which a sweep holds its limit;
    None: the expected number is exact.
    """

    tokens: int | None
    seconds: float | None
    usd: float | None
    disk_bytes: int | None
    basis: str
    max_tokens: int | None = None
    max_usd: float | None = None


@dataclass(frozen=True)
class PredictOptions:
    """Score the given labels (the most probable one is the text), or generate up to `max_tokens` where None."""

    labels: tuple[str, ...] | None = None
    max_tokens: int = 64
    stop: str = ""


@dataclass(frozen=True)
class Prediction:
    """The predicted text, and for label tasks the log-probability of each label (nats, in the options' order).

    `cut`: the text was generated and ends at `max_tokens`, not by itself.
    """

    text: str
    label_logprobs: tuple[float, ...] | None = None
    cut: bool = False


# ------------------------------------------------------------------------------------------------------------ protocol
@runtime_checkable
class Backend(Protocol):
    """A place that trains. Every implementation passes `backends.testing.BackendContract`.

    Importing and describing a backend is cheap: heavy libraries are loaded by `open` at the earliest. Every method
    raises `BackendError`, and nothing else, for what is not a bug.
    """

    options_model: ClassVar[type[BaseModel]]
    """The pydantic model of the YAML's `backend:` mapping without `type`; it forbids unknown keys."""

    capabilities: Capabilities

    @classmethod
    def describe(cls, options: BaseModel) -> Capabilities:
        """Return the capabilities under these options. No side effect, no heavy import, no network."""
        ...

    @classmethod
    def open(cls, options: BaseModel, workspace: Path, placement: Placement) -> Backend:
        """Connect. Everything written to disk goes below `workspace`. The same workspace sees the same runs."""
        ...

    def check(self, request: TrainingRequest) -> Sequence[Failure]:
        """Return what would make this request fail, before anything is spent. No side effect but caching.

        That includes a hyperparameter, `resume_from`, evaluations within an epoch or a `keep_metric` that the
        capabilities do not declare: nothing is silently dropped.
        """
        ...

    def estimate(self, request: TrainingRequest) -> Estimate:
        """Return money, tokens, seconds and disk of the complete run. No side effect but caching."""
        ...

    def submit(self, request: TrainingRequest) -> Handle:
        """Start the run, or adopt it: the same key gives the same handle and never a second run."""
        ...

    def events(self, handle: Handle, after: int) -> Sequence[Event]:
        """Return the events numbered `after`, `after + 1`, ...: complete, ordered, and the same at every call.

        An in-process backend trains until there is at least one such event, unless the run has ended.
        """
        ...

    def stop(self, handle: Handle) -> None:
        """End the run soon; its last event becomes `Stopped` unless it had ended. Idempotent."""
        ...

    def predict(
        self, model: str, prompts: Sequence[Mapping[str, Any]], options: PredictOptions
    ) -> Sequence[Prediction]:
        """Answer prompts (lines of a data file, completion ignored) with a model from an event, in their order."""
        ...

    def discard(self, handle: Handle) -> None:
        """Delete what the run keeps (models, remote files) but not its events. Idempotent."""
        ...

    def close(self) -> None:
        """Release what the process holds (memory, connections). Runs of a service go on."""
        ...
