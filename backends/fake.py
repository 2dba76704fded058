"""The fake backend: a deterministic simulated service for tests, demonstrations and benchmarks.

It trains nothing, and every model name says so (`fake-small`, `fake:<key>`). The service outlives
its clients: its state is a file below the workspace (`fake_service`). The events of a run follow
from the terms under which it was submitted (`fake_curve`).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self, TypeAlias

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
from backends.fake_curve import (
    DEFAULTS,
    MODELS,
    PRETRAINING_RATE,
    Breakdown,
    RunTerms,
    TimedEvent,
    model_name,
    resolve,
    simulated_events,
    skill_of,
)
from backends.fake_service import FakeRun, FakeService
from backends.fake_texts import text_evaluations
from backends.hyperparameter_checks import check_hyperparameters
from backends.metrics import requested_metric
from backends.metrics.kept_metric import may_be_measured

NAME = "fake"
BYTES_PER_TOKEN = 4
"""The assumed size of a token, a rule of thumb for English."""

_LABEL_METRICS = ("valid_accuracy", "valid_macro_f1", "train_accuracy", "train_macro_f1")
_METRICS = ("valid_loss", "valid_token_accuracy", "train_loss", "train_token_accuracy", *_LABEL_METRICS)

_HYPERPARAMETERS = (
    Hyperparameter("n_epochs", "int", "passes over the training set", 1, 50, default=DEFAULTS["n_epochs"]),
    Hyperparameter("batch_size", "int", "examples in one step", 1, 256, default=DEFAULTS["batch_size"]),
    Hyperparameter(
        "learning_rate_multiplier",
        "float",
        "the learning rate relative to the pre-training rate",
        low=1e-9,
        default=DEFAULTS["learning_rate_multiplier"],
        excludes=("learning_rate",),
    ),
    Hyperparameter(
        "learning_rate",
        "float",
        "the absolute learning rate",
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


Operation: TypeAlias = Literal["submit", "answer", "events", "train"]
"""An operation in which a fault can happen. `answer` is the answer to `submit`, and `train` is the
decision, on acceptance, how the run ends."""


class Fault(BaseModel):
    """An injected fault, in the first `times` matching operations of all clients (None: in all).

    A fault on `submit` or `events` raises BackendError; with the kind `lost_answer`, `submit`
    accepts the run before it raises. A fault on `train` ends the run with `Failed` after
    `after_epoch`, or makes it hang forever (`hang`). The fault applies only to requests with the
    hyperparameter values in `match`. `after_epoch` also delays an `events` fault.
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
        """The kind of failure that a client sees; None for `hang` and `lost_answer`."""
        return self.kind if isinstance(self.kind, FailureKind) else None

    def applies_to(self, operation: Operation, request: TrainingRequest, reached_epoch: float) -> bool:
        """Return whether the fault may happen now."""
        return (
            operation == ("answer" if self.kind == "lost_answer" else self.on)
            and (self.on == "train" or self.after_epoch <= reached_epoch)
            and all(request.hyperparameters.get(name) == value for name, value in self.match.items())
        )


class FakeOptions(BaseModel):
    """The options of `backend: {type: fake}`.

    An epoch takes `seconds_per_epoch` of real time. If that is 0, each `events` call reveals
    `events_per_poll` more events (None: all of them).
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
    """A client of the fake service of a workspace."""

    options_model: ClassVar[type[BaseModel]] = FakeOptions

    _workspace = Path()
    """Task metrics write only below it. `open` sets it: subclasses have their own constructors."""

    def __init__(self, options: FakeOptions, service: FakeService, clock: Callable[[], float] = time.time) -> None:
        self.capabilities = self.describe(options)
        self._options = options
        self._service = service
        self._clock = clock

    @classmethod
    def describe(cls, options: BaseModel) -> Capabilities:
        """Return the capabilities under these options."""
        options = _fake_options(options)
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
            task_metrics=True,
        )

    @classmethod
    def open(cls, options: BaseModel, workspace: Path, placement: Placement) -> FakeBackend:
        """Connect to the service of this workspace. The first client creates it."""
        backend = cls(_fake_options(options), FakeService(workspace / "fake-service.sqlite"))
        backend._workspace = workspace
        return backend

    def close(self) -> None:
        """Disconnect. The runs continue."""
        self._service.close()

    # --------------------------------------------------------------------------------- before a run
    def check(self, request: TrainingRequest) -> Sequence[Failure]:
        """Return the problems of model, hyperparameters, data files and evaluation."""
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
        yield from requested_metric.failures(request.evaluation.metrics)
        metric = request.evaluation.keep_metric
        is_measured = metric in _METRICS and (metric not in _LABEL_METRICS or request.dataset.labels)
        if not is_measured and not may_be_measured(metric, request.evaluation.metrics):
            yield Failure(FailureKind.USER, f"keep_metric: the fake service does not measure {metric} on this data set")
        if request.evaluation.per_epoch < 1:
            yield Failure(FailureKind.USER, "per_epoch: must be at least 1")
        if request.resume_from is not None:
            yield Failure(FailureKind.USER, "resume_from: the fake service cannot resume from a model")

    def estimate(self, request: TrainingRequest) -> Estimate:
        """Return exactly the tokens and the cost that the complete run will be charged.

        Raises BackendError if the hyperparameters are not accepted.
        """
        for failure in check_hyperparameters(request.hyperparameters, self.capabilities):
            raise BackendError(failure)
        n_epochs = int(request.hyperparameters.get("n_epochs", DEFAULTS["n_epochs"]))
        tokens = _tokens_per_epoch(request) * n_epochs
        price = self._options.price_usd_per_token
        return Estimate(
            tokens=tokens,
            seconds=n_epochs * self._options.seconds_per_epoch,
            usd=None if price is None else tokens * price,
            disk_bytes=0,
            basis=f"simulated: {n_epochs} epochs of the training file, {BYTES_PER_TOKEN} bytes per token",
        )

    # ---------------------------------------------------------------------------------------- a run
    def submit(self, request: TrainingRequest) -> Handle:
        """Accept the run, or adopt it by its key.

        Refuses every request that `check` refuses, and more than `max_concurrent` runs at once.
        """
        self._raise_fault("submit", request)
        handle = Handle(NAME, "fakejob-" + hashlib.sha256(request.key.encode()).hexdigest()[:16])
        if self._service.run(handle.id) is None:
            for failure in self._problems(request):
                raise BackendError(failure)
            self._accept(handle.id, request)
        self._raise_fault("answer", request)
        return handle

    def _accept(self, id_: str, request: TrainingRequest) -> None:
        limit, now = self._options.max_concurrent, self._clock()
        # Checked first, so that a refused run uses up no fault. `accept` decides.
        full = limit is not None and self._service.active(now) >= limit
        if full or not self._service.accept(self._new_run(id_, request), limit, now):
            raise BackendError(
                Failure(FailureKind.QUOTA, f"the fake service accepts no more than {limit} runs at once")
            )

    def _new_run(self, id_: str, request: TrainingRequest) -> FakeRun:
        fault = self._fault("train", request)
        breakdown = Breakdown(fault.failure_kind, fault.after_epoch) if fault else None
        seconds_per_epoch = self._options.seconds_per_epoch
        resolved = resolve(request)
        texts = text_evaluations(
            request,
            int(resolved["n_epochs"]),
            int(resolved["steps_per_epoch"]),
            skill_of(request),
            self._workspace,
        )
        terms = RunTerms(
            request=request,
            texts=texts,
            tokens_per_epoch=_tokens_per_epoch(request),
            usd_per_token=self._options.price_usd_per_token,
            breakdown=breakdown,
            seconds_per_epoch=seconds_per_epoch,
            events_per_poll=self._options.events_per_poll,
        )
        stored_terms = json.dumps(codec.to_json(terms))
        timeline, now = simulated_run(stored_terms).timeline, self._clock()
        return FakeRun(
            id=id_,
            key=request.key,
            terms=stored_terms,
            submitted_at=now,
            ends_at=now + timeline[-1].epoch * seconds_per_epoch if seconds_per_epoch else None,
            total=len(timeline),
            hangs=breakdown is not None and breakdown.kind is None,
        )

    def events(self, handle: Handle, after: int) -> Sequence[Event]:
        """Return the events so far from number `after` on; without real time, reveal more first."""
        run = self._run(handle)
        terms, timeline = simulated_run(run.terms)
        self._raise_fault("events", terms.request, timeline[max(0, run.revealed - 1)].epoch)
        visible = self._visible(run)
        if run.stopped_after is None and (visible > run.revealed or terms.events_per_poll):
            run = self._service.reveal(handle.id, visible, terms.events_per_poll or 0) or run
        if run.stopped_after is None:
            return [timed.event for timed in timeline[after : run.revealed]]
        events = [timed.event for timed in timeline[: run.stopped_after]]
        has_model = any(isinstance(event, Checkpointed) for event in events)
        return [*events, Stopped(model_name(run.key) if has_model else None)][after:]

    def stop(self, handle: Handle) -> None:
        """End the run now, unless it has ended."""
        run = self._run(handle)
        in_real_time = bool(simulated_run(run.terms).terms.seconds_per_epoch)
        self._service.stop(handle.id, self._visible(run) if in_real_time else 0)

    def discard(self, handle: Handle) -> None:
        """Delete the models of the run."""
        self._service.discard(self._run(handle).id)

    def _visible(self, run: FakeRun) -> int:
        """Return the number of events that have happened by now, seen or not."""
        terms, timeline = simulated_run(run.terms)
        if terms.events_per_poll:
            return run.revealed
        if not terms.seconds_per_epoch:
            return run.total
        elapsed_epochs = (self._clock() - run.submitted_at) / terms.seconds_per_epoch
        return max(run.revealed, sum(timed.epoch <= elapsed_epochs for timed in timeline))

    def _run(self, handle: Handle) -> FakeRun:
        run = self._service.run(handle.id)
        if run is None:
            raise BackendError(Failure(FailureKind.LOST, f"the fake service has no run {handle.id}"))
        return run

    # --------------------------------------------------------------------------------------- faults
    def _raise_fault(self, operation: Operation, request: TrainingRequest, reached_epoch: float = math.inf) -> None:
        if fault := self._fault(operation, request, reached_epoch):
            kind = fault.failure_kind or FailureKind.TRANSIENT
            raise BackendError(Failure(kind, f"injected fault: {fault.kind} on {fault.on}"))

    def _fault(self, operation: Operation, request: TrainingRequest, reached_epoch: float = math.inf) -> Fault | None:
        """Return the first fault that happens now, and count it as fired."""
        for position, fault in enumerate(self._options.faults):
            # the position distinguishes two equal faults
            identity = f"{position} {fault.model_dump_json()}"
            if fault.applies_to(operation, request, reached_epoch) and self._service.fire(identity, fault.times):
                return fault
        return None

    # -------------------------------------------------------------------------------------- predict
    def predict(
        self, model: str, prompts: Sequence[Mapping[str, Any]], options: PredictOptions
    ) -> Sequence[Prediction]:
        """Return meaningless predictions that depend only on the model name and the prompt."""
        key = model.removeprefix("fake:").partition("@")[0]
        run = self._service.run_by_key(key) if model.startswith("fake:") else None
        if model not in MODELS and (run is None or run.discarded):
            raise BackendError(Failure(FailureKind.LOST, f"the fake service has no model {model!r}"))
        return [_prediction(model, prompt, options) for prompt in prompts]


class SimulatedRun(NamedTuple):
    """The terms of a run, and the events that follow from them."""

    terms: RunTerms
    timeline: tuple[TimedEvent, ...]


@lru_cache(maxsize=64)
def simulated_run(stored_terms: str) -> SimulatedRun:
    """Decode the `terms` of a FakeRun and simulate the run."""
    terms = codec.from_json(RunTerms, json.loads(stored_terms))
    return SimulatedRun(terms, simulated_events(terms))


def _fake_options(options: BaseModel) -> FakeOptions:
    if not isinstance(options, FakeOptions):
        raise TypeError(f"the fake backend takes FakeOptions, not {type(options).__name__}")
    return options


def _tokens_per_epoch(request: TrainingRequest) -> int:
    """Return the tokens of one epoch, or 0 for a missing file, which `check` reports."""
    file = Path(request.dataset.train.path)
    return max(1, file.stat().st_size // BYTES_PER_TOKEN) if file.is_file() else 0


def _prediction(model: str, line: Mapping[str, Any], options: PredictOptions) -> Prediction:
    prompt = {name: value for name, value in line.items() if name != "completion"}
    messages = prompt.get("messages")
    if messages and messages[-1]["role"] == "assistant":
        prompt["messages"] = messages[:-1]
    rng = random.Random(json.dumps([model, prompt], sort_keys=True))
    if options.labels is None:
        words = [f"pretence{rng.randrange(100)}" for _ in range(min(options.max_tokens, 8))]
        return Prediction(" ".join(words))
    scores = [rng.gauss(0, 1) for _ in options.labels]
    log_sum = math.log(sum(math.exp(score) for score in scores))
    logprobs = tuple(score - log_sum for score in scores)
    return Prediction(options.labels[logprobs.index(max(logprobs))], logprobs)


if TYPE_CHECKING:
    _conforms: type[Backend] = FakeBackend
