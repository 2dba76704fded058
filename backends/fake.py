"""A deterministic pretend service, for tests, demonstrations and measuring what everything around a training costs.

Nothing is trained and every name says so (`fake-small`, `fake:<key>`). The service outlives its clients: its memory is
a file below the workspace (`fake_service`); a run's course follows from what it was submitted under (`fake_course`).
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from backends import codec
from backends.contract import (
    Backend,
    BackendError,
    Capabilities,
    Checkpointed,
    Estimate,
    Event,
    Failure,
    FailureKind,
    Handle,
    Hyperparameter,
    Placement,
    Prediction,
    PredictOptions,
    Scalar,
    Stopped,
    TrainingRequest,
)
from backends.fake_curve import DEFAULTS, MODELS, PRETRAINING_RATE, Breakdown, Moment, Terms, course, kept_model
from backends.fake_service import FakeRun, FakeService
from backends.hyperparameter_checks import check_hyperparameters

NAME = "fake"
BYTES_PER_TOKEN = 4
"""What a token is taken to be when tokens are counted; a rule of thumb for English."""

_LABEL_METRICS = ("valid_accuracy", "valid_macro_f1", "train_accuracy", "train_macro_f1")
_METRICS = ("valid_loss", "valid_token_accuracy", "train_loss", "train_token_accuracy", *_LABEL_METRICS)

_HYPERPARAMETERS = (
    Hyperparameter("n_epochs", "int", "passes over the training set", 1, 50, default=DEFAULTS["n_epochs"]),
    Hyperparameter("batch_size", "int", "examples in one step", 1, 256, default=DEFAULTS["batch_size"]),
    Hyperparameter(
        "learning_rate_multiplier",
        "float",
        "the learning rate, relative to that of pre-training",
        low=1e-9,
        default=DEFAULTS["learning_rate_multiplier"],
        excludes=("learning_rate",),
    ),
    Hyperparameter(
        "learning_rate",
        "float",
        "the learning rate itself",
        low=1e-12,
        default_rule=f"learning_rate_multiplier times {PRETRAINING_RATE:g}",
        excludes=("learning_rate_multiplier",),
    ),
    Hyperparameter(
        "prompt_loss_weight", "float", "weight of prompt tokens", 0.0, 1.0, default=DEFAULTS["prompt_loss_weight"]
    ),
    Hyperparameter(
        "schedule",
        "str",
        "how the learning rate changes over the run",
        choices=("constant", "linear", "cosine"),
        default=DEFAULTS["schedule"],
    ),
    Hyperparameter("method", "str", "which weights are trained", choices=("full", "lora"), default=DEFAULTS["method"]),
    Hyperparameter(
        "lora_rank",
        "int",
        "rank of the low-rank update",
        1,
        256,
        default=DEFAULTS["lora_rank"],
        requires={"method": ("lora",)},
    ),
)


class Fault(BaseModel):
    """Something that goes wrong, in the first `times` operations that match (None: in all), whichever client asks.

    `submit` and `events` faults raise; `lost_answer` of a submit accepts the run first. A `train` fault ends the run
    with `Failed` after `after_epoch`, or silences it for ever (`hang`). `match` gives hyperparameter values, as the
    request has them, under which the fault happens; `after_epoch` also delays an `events` fault.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    on: Literal["submit", "events", "train"]
    kind: FailureKind | Literal["lost_answer", "hang"]
    times: int | None = Field(default=1, ge=1)
    match: Mapping[str, Scalar] = Field(default_factory=dict)
    after_epoch: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _kind_fits(self) -> Self:
        if {"lost_answer": "submit", "hang": "train"}.get(self.kind, self.on) != self.on:
            raise ValueError(f"{self.kind} cannot happen on {self.on}")
        return self

    @property
    def failure_kind(self) -> FailureKind | None:
        """The kind of failure that a client sees, None for `hang` and `lost_answer`."""
        return self.kind if isinstance(self.kind, FailureKind) else None

    def concerns(self, moment: str, request: TrainingRequest, reached_epoch: float) -> bool:
        """Return whether it may happen now: at a `submit`, its `answer`, `events`, or the decision how to `train`."""
        return (
            moment == ("answer" if self.kind == "lost_answer" else self.on)
            and (self.on == "train" or self.after_epoch <= reached_epoch)
            and all(request.hyperparameters.get(name) == value for name, value in self.match.items())
        )


class FakeOptions(BaseModel):
    """The options of `backend: {type: fake}`.

    A run takes `seconds_per_epoch` of real time; where that is 0, each `events` call moves it on by `events_per_poll`
    events (None: to its end).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = "fake-small"
    seconds_per_epoch: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    events_per_poll: int | None = Field(default=None, ge=1)
    price_usd_per_token: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, json_schema_extra={"price": True}
    )
    max_concurrent: int | None = Field(default=None, ge=1)
    faults: tuple[Fault, ...] = ()

    @model_validator(mode="after")
    def _one_clock(self) -> Self:
        if self.seconds_per_epoch and self.events_per_poll is not None:
            raise ValueError("give seconds_per_epoch or events_per_poll, not both")
        return self


class FakeBackend:
    """A client of the pretend service below a workspace."""

    options_model: ClassVar[type[BaseModel]] = FakeOptions

    def __init__(self, options: FakeOptions, service: FakeService, clock: Callable[[], float] = time.time) -> None:
        self.capabilities = self.describe(options)
        self._options = options
        self._service = service
        self._clock = clock

    @classmethod
    def describe(cls, options: BaseModel) -> Capabilities:
        """Return the capabilities under these options."""
        options = _own(options)
        return Capabilities(
            hyperparameters=_HYPERPARAMETERS,
            metrics=_METRICS,
            label_metrics=_LABEL_METRICS,
            recommendation_scope="gpt3-classification",
            in_process=False,
            poll_s=min(1.0, options.seconds_per_epoch / 4),
            can_predict=True,
            evaluations_within_epoch=True,
            priced=options.price_usd_per_token is not None,
            max_concurrent=options.max_concurrent,
        )

    @classmethod
    def open(cls, options: BaseModel, workspace: Path, placement: Placement) -> FakeBackend:
        """Connect to the service of this workspace, which begins to exist with its first client."""
        return cls(_own(options), FakeService(workspace / "fake-service.sqlite"))

    def close(self) -> None:
        """Disconnect. The runs go on."""
        self._service.close()

    # ---------------------------------------------------------------------------------------------------- before a run
    def check(self, request: TrainingRequest) -> Sequence[Failure]:
        """Return what is wrong with the model, the hyperparameters, the data files and the evaluation."""
        return list(self._problems(request))

    def _problems(self, request: TrainingRequest) -> Iterator[Failure]:
        if request.base_model not in MODELS:
            nearest = difflib.get_close_matches(request.base_model, MODELS, n=1) or sorted(MODELS)
            hint = f"Did you mean {' or '.join(nearest)}?"
            yield Failure(FailureKind.USER, f"the fake service has no model {request.base_model!r}", hint)
        yield from check_hyperparameters(request.hyperparameters, self.capabilities)
        for file in (request.dataset.train, request.dataset.valid):
            if not Path(file.path).is_file():
                yield Failure(FailureKind.USER, f"the data file {file.path} does not exist")
            elif file.examples < 1:
                yield Failure(FailureKind.USER, f"the data file {file.path} is empty")
        metric = request.evaluation.keep_metric
        if metric not in _METRICS or (metric in _LABEL_METRICS and not request.dataset.labels):
            yield Failure(FailureKind.USER, f"keep_metric: {metric} is not measured on this data set")
        if request.evaluation.per_epoch < 1:
            yield Failure(FailureKind.USER, "per_epoch: at least one evaluation an epoch is made")
        if request.resume_from is not None:
            yield Failure(FailureKind.USER, "resume_from: the fake service cannot resume from a model")

    def estimate(self, request: TrainingRequest) -> Estimate:
        """Return what the complete run uses: exactly what it will be charged, and no disk. Raises on a bad request."""
        for failure in check_hyperparameters(request.hyperparameters, self.capabilities):
            raise BackendError(failure)
        n_epochs = int(request.hyperparameters.get("n_epochs", DEFAULTS["n_epochs"]))
        tokens = _tokens(request) * n_epochs
        price = self._options.price_usd_per_token
        return Estimate(
            tokens=tokens,
            seconds=n_epochs * self._options.seconds_per_epoch,
            usd=None if price is None else tokens * price,
            disk_bytes=0,
            basis=f"pretended: {n_epochs} epochs of the training file, {BYTES_PER_TOKEN} bytes a token",
        )

    # ----------------------------------------------------------------------------------------------------------- a run
    def submit(self, request: TrainingRequest) -> Handle:
        """Take the run, or adopt it by its key. Refuses what `check` finds, and more than `max_concurrent` at once."""
        self._fail("submit", request)
        handle = Handle(NAME, "fakejob-" + hashlib.sha256(request.key.encode()).hexdigest()[:16])
        if self._service.run(handle.id) is None:
            for failure in self._problems(request):
                raise BackendError(failure)
            self._accept(handle.id, request)
        self._fail("answer", request)
        return handle

    def _accept(self, id_: str, request: TrainingRequest) -> None:
        limit, now = self._options.max_concurrent, self._clock()
        # asked first, so that a refused run uses up no fault; whether there is room is decided on acceptance
        full = limit is not None and self._service.active(now) >= limit
        if full or not self._service.accept(self._new_run(id_, request), limit, now):
            raise BackendError(Failure(FailureKind.QUOTA, f"no more than {limit} runs at once"))

    def _new_run(self, id_: str, request: TrainingRequest) -> FakeRun:
        fault = self._fault("train", request)
        breakdown = fault and Breakdown(fault.failure_kind, fault.after_epoch)
        terms = json.dumps(
            {
                "request": codec.to_json(request),
                "tokens_per_epoch": _tokens(request),
                "usd_per_token": self._options.price_usd_per_token,
                "breakdown": breakdown and dataclasses.asdict(breakdown),
                "seconds_per_epoch": self._options.seconds_per_epoch,
                "events_per_poll": self._options.events_per_poll,
            }
        )
        moments, now, pace = _course(terms).moments, self._clock(), self._options.seconds_per_epoch
        return FakeRun(
            id=id_,
            key=request.key,
            terms=terms,
            submitted_at=now,
            ends_at=now + moments[-1].epoch * pace if pace else None,
            total=len(moments),
            hangs=breakdown is not None and breakdown.kind is None,
        )

    def events(self, handle: Handle, after: int) -> Sequence[Event]:
        """Return the events so far from number `after` on. Without real time, each call moves the run on first."""
        run = self._known(handle)
        agreed = _course(run.terms)
        reached = agreed.moments[max(0, run.revealed - 1)].epoch
        self._fail("events", agreed.request, reached)
        visible = self._visible(run, agreed)
        if run.stopped_after is None and (visible > run.revealed or agreed.events_per_poll):
            run = self._service.reveal(handle.id, visible, agreed.events_per_poll or 0) or run
        if run.stopped_after is None:
            return [each.event for each in agreed.moments[after : run.revealed]]
        past = [each.event for each in agreed.moments[: run.stopped_after]]
        model = kept_model(run.key) if any(isinstance(each, Checkpointed) for each in past) else None
        return [*past, Stopped(model)][after:]

    def stop(self, handle: Handle) -> None:
        """End the run now, unless it has ended."""
        run = self._known(handle)
        agreed = _course(run.terms)
        self._service.stop(handle.id, self._visible(run, agreed) if agreed.seconds_per_epoch else 0)

    def discard(self, handle: Handle) -> None:
        """Forget the run's models."""
        self._service.discard(self._known(handle).id)

    def _visible(self, run: FakeRun, agreed: _Agreed) -> int:
        """Return how many events have happened by now, whether or not somebody has asked."""
        if agreed.events_per_poll:
            return run.revealed
        if not agreed.seconds_per_epoch:
            return run.total
        elapsed_epochs = (self._clock() - run.submitted_at) / agreed.seconds_per_epoch
        return max(run.revealed, sum(each.epoch <= elapsed_epochs for each in agreed.moments))

    def _known(self, handle: Handle) -> FakeRun:
        run = self._service.run(handle.id)
        if run is None:
            raise BackendError(Failure(FailureKind.LOST, f"the fake service knows no run {handle.id}"))
        return run

    # ----------------------------------------------------------------------------------------------------------- faults
    def _fail(self, moment: str, request: TrainingRequest, reached_epoch: float = math.inf) -> None:
        if fault := self._fault(moment, request, reached_epoch):
            kind = fault.failure_kind or FailureKind.TRANSIENT
            raise BackendError(Failure(kind, f"injected fault: {fault.kind} on {fault.on}"))

    def _fault(self, moment: str, request: TrainingRequest, reached_epoch: float = math.inf) -> Fault | None:
        """Return the first fault that happens now; it counts as fired."""
        for position, fault in enumerate(self._options.faults):
            # the position makes two faults of two equal ones
            identity = f"{position} {fault.model_dump_json()}"
            if fault.concerns(moment, request, reached_epoch) and self._service.take(identity, fault.times):
                return fault
        return None

    # ---------------------------------------------------------------------------------------------------------- predict
    def predict(
        self, model: str, prompts: Sequence[Mapping[str, Any]], options: PredictOptions
    ) -> Sequence[Prediction]:
        """Answer from the model's name and the prompt alone: repeatable, in order, and without any meaning."""
        key = model.removeprefix("fake:").partition("@")[0]
        run = self._service.run_of_key(key) if model.startswith("fake:") else None
        if model not in MODELS and (run is None or run.discarded):
            raise BackendError(Failure(FailureKind.USER, f"the fake service has no model {model!r}"))
        return [_answer(model, each, options) for each in prompts]


@dataclasses.dataclass(frozen=True)
class _Agreed:
    """A run's terms, decoded, with the course that follows from them."""

    request: TrainingRequest
    seconds_per_epoch: float
    events_per_poll: int | None
    moments: tuple[Moment, ...]


@lru_cache(maxsize=64)
def _course(text: str) -> _Agreed:
    value = json.loads(text)
    breakdown = value["breakdown"]
    terms = Terms(
        request=codec.from_json(TrainingRequest, value["request"]),
        tokens_per_epoch=value["tokens_per_epoch"],
        usd_per_token=value["usd_per_token"],
        breakdown=breakdown
        and Breakdown(breakdown["kind"] and FailureKind(breakdown["kind"]), breakdown["after_epoch"]),
    )
    return _Agreed(terms.request, value["seconds_per_epoch"], value["events_per_poll"], course(terms))


def _own(options: BaseModel) -> FakeOptions:
    if not isinstance(options, FakeOptions):
        raise TypeError(f"the fake backend is opened with FakeOptions, not {type(options).__name__}")
    return options


def _tokens(request: TrainingRequest) -> int:
    """Return the tokens of one epoch; 0 where the file is gone, which `check` reports."""
    file = Path(request.dataset.train.path)
    return max(1, file.stat().st_size // BYTES_PER_TOKEN) if file.is_file() else 0


def _answer(model: str, line: Mapping[str, Any], options: PredictOptions) -> Prediction:
    asked = {name: value for name, value in line.items() if name != "completion"}
    messages = asked.get("messages")
    if messages and messages[-1]["role"] == "assistant":
        asked["messages"] = messages[:-1]
    chance = random.Random(json.dumps([model, asked], sort_keys=True))
    if options.labels is None:
        words = [f"pretence{chance.randrange(100)}" for _ in range(min(options.max_tokens, 8))]
        return Prediction(" ".join(words))
    scores = [chance.gauss(0, 1) for _ in options.labels]
    total = math.log(sum(math.exp(each) for each in scores))
    logprobs = tuple(each - total for each in scores)
    return Prediction(options.labels[logprobs.index(max(logprobs))], logprobs)


if TYPE_CHECKING:
    _conforms: type[Backend] = FakeBackend
