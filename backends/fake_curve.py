"""The events of a simulated run: a smooth learning curve with seeded noise, as a pure function.

The formulas use these names: n training examples, batch size b, learning-rate multiplier m,
prompt-loss weight w, epoch e of N, and F from `MODELS`.

    m*(b)  = 0.06 * sqrt(b / b*),  b* = max(1, 0.004 n)            the best multiplier for the batch
    r      = m / m*(b)                                             the relative learning rate
    t(e)   = 1.5 r * (integral of the schedule's factor from 0 to e)                    the progress
    floor  = F + 0.04 log10(b/b*)^2 + 0.02 log10((w + 0.001) / 0.08)^2 + 0.3 / rank
             + 0.15 max(0, ln(r / 2))^2
    valid_loss(e) = floor + (start - floor) exp(-t) + 2 (1 - exp(-max(0, t - 6)^2 / 80)) + noise
    train_loss(e) = floor exp(-max(0, t - 6) / 6) + (start - floor) exp(-t) + noise

So a low rate underfits, three to four epochs at r = 1 are best, and more epochs or a higher rate
overfit. A run with r > 10 diverges: its losses are NaN. The rank counts only if `method` is
`lora`.

The noise is Gaussian with a standard deviation of 0.01 nats. Its seed derives from the run's seed,
the data, the model and all hyperparameters except n_epochs. So under a constant schedule, a run of
four epochs passes exactly through the points of a run of two. The score of the base model has no
noise. All constants are inventions of this module and have no meaning elsewhere.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from backends.contract import (
    Charged,
    Checkpointed,
    Event,
    Failed,
    Failure,
    FailureKind,
    Finished,
    Measured,
    Queued,
    Scalar,
    Started,
    TrainingRequest,
)
from backends.fake_texts import TextEvaluation

MODELS: Mapping[str, float] = {"fake-small": 0.35, "fake-large": 0.25}
"""The base models with their F: the loss in nats per token that the best runs approach."""

DEFAULTS: Mapping[str, Scalar] = {
    "n_epochs": 4,
    "batch_size": 8,
    "learning_rate_multiplier": 0.05,
    "prompt_loss_weight": 0.01,
    "schedule": "constant",
    "method": "full",
    "lora_rank": 8,
}
PRETRAINING_RATE = 1e-3
"""The learning rate that `learning_rate_multiplier` multiplies."""

_DIVERGES_ABOVE = 10.0
_NOISE_NATS = 0.01
_START_NATS = 3.0


@dataclass(frozen=True)
class Breakdown:
    """An injected end of a run after an epoch: a failure of this kind, or a hang (None)."""

    kind: FailureKind | None
    after_epoch: float


@dataclass(frozen=True)
class RunTerms:
    """Everything that the events of a run depend on, fixed when the run is submitted.

    `seconds_per_epoch` and `events_per_poll` are the options of the same names. `texts` are the
    evaluations that generate, in their order.
    """

    request: TrainingRequest
    tokens_per_epoch: int
    usd_per_token: float | None = None
    breakdown: Breakdown | None = None
    seconds_per_epoch: float = 0.0
    events_per_poll: int | None = None
    texts: tuple[TextEvaluation, ...] = ()


@dataclass(frozen=True)
class TimedEvent:
    """An event, and its time in epochs since the start of the run."""

    epoch: float
    event: Event


def simulated_events(terms: RunTerms) -> tuple[TimedEvent, ...]:
    """Return all events of a run that nobody stops. The last one is terminal, except in a hang."""
    return tuple(_until_breakdown(_events(terms), terms.breakdown))


def model_name(key: str, epoch: float | None = None) -> str:
    """Return the name of the kept model of a run, or of its checkpoint at an epoch."""
    return f"fake:{key}" if epoch is None else f"fake:{key}@{epoch:g}"


def resolve(request: TrainingRequest) -> dict[str, Scalar]:
    """Return the hyperparameters with defaults, both learning rates, and the steps per epoch."""
    resolved: dict[str, Scalar] = {**DEFAULTS, **request.hyperparameters}
    if "learning_rate" in request.hyperparameters:
        resolved["learning_rate_multiplier"] = float(resolved["learning_rate"]) / PRETRAINING_RATE
    else:
        resolved["learning_rate"] = float(resolved["learning_rate_multiplier"]) * PRETRAINING_RATE
    resolved["steps_per_epoch"] = math.ceil(request.dataset.train.examples / int(resolved["batch_size"]))
    return resolved


def _until_breakdown(events: Iterator[TimedEvent], breakdown: Breakdown | None) -> Iterator[TimedEvent]:
    for timed in events:
        if breakdown is not None and _is_prevented(timed, breakdown):
            if breakdown.kind is not None:
                detail = f"after epoch {breakdown.after_epoch:g}"
                failure = Failure(breakdown.kind, f"injected fault: {breakdown.kind}", detail)
                yield TimedEvent(breakdown.after_epoch, Failed(failure))
            return
        yield timed


def _is_prevented(timed: TimedEvent, breakdown: Breakdown) -> bool:
    if isinstance(timed.event, Queued | Started):
        return False
    return timed.epoch > breakdown.after_epoch or isinstance(timed.event, Finished)


def _events(terms: RunTerms) -> Iterator[TimedEvent]:
    request = terms.request
    resolved = resolve(request)
    n_epochs, steps_per_epoch = int(resolved["n_epochs"]), int(resolved["steps_per_epoch"])
    per_epoch = request.evaluation.per_epoch
    curve = _Curve(request, resolved)
    texts = {evaluation.generated.epoch: evaluation for evaluation in terms.texts}
    yield TimedEvent(0.0, Queued())
    yield TimedEvent(0.0, Started({**resolved, "pretended": True}))
    yield from _evaluation(Measured(0, 0.0, curve.scores(0.0), "evaluation"), texts.get(0.0))
    for n in range(1, n_epochs * per_epoch + 1):
        epoch = n / per_epoch
        step = round(epoch * steps_per_epoch)
        scores = curve.scores(epoch)
        loop_report = {"batch_loss": curve.train_loss(epoch), "learning_rate": curve.learning_rate(epoch)}
        yield TimedEvent(epoch, Measured(step, epoch, loop_report, "step"))
        if n % per_epoch == 0:
            usd = None if terms.usd_per_token is None else terms.usd_per_token * terms.tokens_per_epoch
            yield TimedEvent(epoch, Charged(usd, terms.tokens_per_epoch))
        yield from _evaluation(Measured(step, epoch, scores, "evaluation"), texts.get(epoch))
        if n % per_epoch:
            continue
        if not math.isfinite(scores["valid_loss"]):
            failure = Failure(FailureKind.DIVERGED, f"the validation loss is {scores['valid_loss']} at epoch {epoch:g}")
            yield TimedEvent(epoch, Failed(failure))
            return
        yield TimedEvent(epoch, Checkpointed(step, epoch, model_name(request.key, epoch)))
    yield TimedEvent(float(n_epochs), Finished(model_name(request.key)))


def _evaluation(measured: Measured, texts: TextEvaluation | None) -> Iterator[TimedEvent]:
    if texts is not None:
        yield TimedEvent(measured.epoch, texts.generated)
        measured = replace(measured, values={**measured.values, **texts.values})
    yield TimedEvent(measured.epoch, measured)


def skill_of(request: TrainingRequest) -> Callable[[float], float]:
    """Return the share of the validation examples that a run answers rightly, by epoch."""
    curve = _Curve(request, resolve(request))

    def skill(epoch: float) -> float:
        return max(0.0, (curve.scores(epoch)["valid_token_accuracy"] - 0.3) / 0.7)

    return skill


class _Curve:
    """The formulas of the module docstring, for one run."""

    def __init__(self, request: TrainingRequest, resolved: Mapping[str, Scalar]) -> None:
        self._request = request
        self._n_epochs = int(resolved["n_epochs"])
        self._schedule = str(resolved["schedule"])
        self._learning_rate = float(resolved["learning_rate"])
        batch = int(resolved["batch_size"])
        best_batch = max(1.0, 0.004 * request.dataset.train.examples)
        best_rate = 0.06 * math.sqrt(batch / best_batch)
        # far beyond divergence nothing depends on the rate: a bound keeps the formulas finite
        self._relative_rate = min(1e6, float(resolved["learning_rate_multiplier"]) / best_rate)
        self._floor = (
            MODELS[request.base_model]
            + 0.04 * math.log10(batch / best_batch) ** 2
            + 0.02 * math.log10((float(resolved["prompt_loss_weight"]) + 0.001) / 0.08) ** 2
            + (0.3 / int(resolved["lora_rank"]) if resolved["method"] == "lora" else 0.0)
            + 0.15 * max(0.0, math.log(self._relative_rate / 2)) ** 2
        )
        self._classes = len(request.dataset.labels)
        self._start = math.log(self._classes) if self._classes > 1 else _START_NATS
        ignored = {"n_epochs", "steps_per_epoch"} | ({"lora_rank"} if resolved["method"] != "lora" else set())
        point = {name: value for name, value in resolved.items() if name not in ignored}
        self._noise_key = json.dumps(
            [request.seed, request.base_model, request.dataset.train.sha256, sorted(point.items())]
        )

    def learning_rate(self, epoch: float) -> float:
        """Return the learning rate at `epoch`."""
        return self._learning_rate * self._factor(epoch)

    def train_loss(self, epoch: float) -> float:
        """Return the training loss in nats per token, without noise; NaN after divergence."""
        if self._diverged(epoch):
            return math.nan
        t = self._progress(epoch)
        return self._floor * math.exp(-max(0.0, t - 6) / 6) + self._remaining_loss(t)

    def scores(self, epoch: float) -> dict[str, float]:
        """Return the values of an evaluation. Label metrics appear only if there are labels."""
        gauss = random.Random(f"{self._noise_key}@{epoch}").gauss
        noise = [gauss(0, _NOISE_NATS) if epoch > 0 else 0.0 for _ in range(4)]
        diverged = self._diverged(epoch)
        t = self._progress(epoch)
        overfitting = 0.0 if diverged else max(0.0, t - 6)
        valid_loss = (
            math.nan
            if diverged
            else self._floor + self._remaining_loss(t) + 2 * (1 - math.exp(-(overfitting**2) / 80)) + noise[0]
        )
        learned = 0.0 if diverged else 1 - math.exp(-t)
        forgotten = 0.15 * (1 - math.exp(-overfitting / 10))
        ceiling = math.exp(-self._floor / 3)
        scores = {
            "valid_loss": valid_loss if diverged else max(1e-6, valid_loss),
            "valid_token_accuracy": _accuracy(0.3, learned * ceiling - forgotten + noise[1]),
        }
        if self._classes:
            chance = 1 / self._classes
            scores["valid_accuracy"] = _accuracy(chance, learned * ceiling - forgotten + noise[2])
            scores["valid_macro_f1"] = scores["valid_accuracy"] * (0.5 + 0.5 * learned)
        if self._request.evaluation.train_examples:
            scores["train_loss"] = math.nan if diverged else max(1e-6, self.train_loss(epoch) + noise[3])
            fitted = learned * (ceiling + (1 - ceiling) * (1 - math.exp(-overfitting / 6)))
            scores["train_token_accuracy"] = _accuracy(0.3, fitted)
            if self._classes:
                scores["train_accuracy"] = _accuracy(1 / self._classes, fitted)
                scores["train_macro_f1"] = scores["train_accuracy"] * (0.5 + 0.5 * learned)
        return scores

    def _diverged(self, epoch: float) -> bool:
        return epoch > 0 and self._relative_rate > _DIVERGES_ABOVE

    def _remaining_loss(self, t: float) -> float:
        return (self._start - self._floor) * math.exp(-t)

    def _progress(self, epoch: float) -> float:
        """Return t(e) of the module docstring."""
        share = epoch / self._n_epochs
        match self._schedule:
            case "linear":
                integral = epoch * (1 - share / 2)
            case "cosine":
                integral = (epoch + self._n_epochs / math.pi * math.sin(math.pi * share)) / 2
            case _:
                integral = epoch
        return 1.5 * self._relative_rate * integral

    def _factor(self, epoch: float) -> float:
        share = epoch / self._n_epochs
        match self._schedule:
            case "linear":
                return 1 - share
            case "cosine":
                return (1 + math.cos(math.pi * share)) / 2
            case _:
                return 1.0


def _accuracy(chance: float, learned: float) -> float:
    """Return an accuracy between 0 and 1: `chance` for `learned` = 0, and 1 for `learned` = 1."""
    return min(1.0, max(0.0, chance + (1 - chance) * learned))
