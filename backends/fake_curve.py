"""The course of a pretended run: a smooth, seeded learning curve, as a pure function of what was agreed.

The formula, in the words of a real run. With n training examples, batch size b, multiplier m, and epoch e of N:

    m*(b)  = 0.06 * sqrt(b / b*),  b* = max(1, 0.004 n)            the rate that suits the batch
    r      = m / m*(b)                                              the relative rate
    t(e)   = 1.5 r * (sum of the schedule's factor over the epochs so far)      progress
    floor  = F + 0.04 log10(b/b*)^2 + 0.02 log10((w + 0.001) / 0.08)^2 + 0.3 / rank + 0.15 max(0, ln(r / 2))^2
    valid_loss(e) = floor + (start - floor) exp(-t) + 2 (1 - exp(-max(0, t - 6)^2 / 80)) + noise
    train_loss(e) = floor exp(-max(0, t - 6) / 6) + (start - floor) exp(-t) + noise

so that a low rate under-fits, three to four epochs at r = 1 are best, more of them (or a higher rate) over-fit, and
r > 10 diverges: its losses are not numbers. The rank counts only where `method` is `lora`. Noise is Gaussian with a
deviation of 0.01 nats, drawn from the seed, the data, the model and the hyperparameters other than n_epochs: under a
constant schedule, a run of four epochs passes exactly through the run of two. The base model's own score has no noise.
All constants are inventions of this module and mean nothing elsewhere.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

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

MODELS: Mapping[str, float] = {"fake-small": 0.35, "fake-large": 0.25}
"""The pretended base models, each with the loss that its best fine-tuning approaches (F above), in nats per token."""

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
"""What `learning_rate_multiplier` multiplies."""

_DIVERGES_ABOVE = 10.0
_NOISE_NATS = 0.01
_START_NATS = 3.0


@dataclass(frozen=True)
class Breakdown:
    """An injected end of a run after an epoch: a failure of this kind, or silence for ever (None)."""

    kind: FailureKind | None
    after_epoch: float


@dataclass(frozen=True)
class Terms:
    """What a run was submitted under: all that its course depends on."""

    request: TrainingRequest
    tokens_per_epoch: int
    usd_per_token: float | None = None
    breakdown: Breakdown | None = None


@dataclass(frozen=True)
class Moment:
    """An event and when it happens, in epochs since the start."""

    epoch: float
    event: Event


def course(terms: Terms) -> tuple[Moment, ...]:
    """Return everything that happens in a run that is not stopped. The last moment is terminal, except in a hang."""
    return tuple(_until_breakdown(_moments(terms), terms.breakdown))


def kept_model(key: str, epoch: float | None = None) -> str:
    """Return the name of a run's kept model, or of its checkpoint at an epoch."""
    return f"fake:{key}" if epoch is None else f"fake:{key}@{epoch:g}"


def resolve(request: TrainingRequest) -> dict[str, Scalar]:
    """Return the hyperparameters with the defaults filled in, both learning rates, and the steps per epoch."""
    resolved: dict[str, Scalar] = {**DEFAULTS, **request.hyperparameters}
    if "learning_rate" in request.hyperparameters:
        resolved["learning_rate_multiplier"] = float(resolved["learning_rate"]) / PRETRAINING_RATE
    else:
        resolved["learning_rate"] = float(resolved["learning_rate_multiplier"]) * PRETRAINING_RATE
    resolved["steps_per_epoch"] = math.ceil(request.dataset.train.examples / int(resolved["batch_size"]))
    return resolved


def _until_breakdown(moments: Iterator[Moment], breakdown: Breakdown | None) -> Iterator[Moment]:
    for moment in moments:
        started = not isinstance(moment.event, Queued | Started)
        if (
            breakdown is not None
            and started
            and (moment.epoch > breakdown.after_epoch or isinstance(moment.event, Finished))
        ):
            if breakdown.kind is not None:
                failure = Failure(
                    breakdown.kind, f"injected fault: {breakdown.kind}", f"after epoch {breakdown.after_epoch:g}"
                )
                yield Moment(breakdown.after_epoch, Failed(failure))
            return
        yield moment


def _moments(terms: Terms) -> Iterator[Moment]:
    request = terms.request
    resolved = resolve(request)
    n_epochs, steps_per_epoch = int(resolved["n_epochs"]), int(resolved["steps_per_epoch"])
    per_epoch = request.evaluation.per_epoch
    curve = _Curve(request, resolved)
    yield Moment(0.0, Queued())
    yield Moment(0.0, Started({**resolved, "pretended": True}))
    yield Moment(0.0, Measured(0, 0.0, curve.scores(0.0), "evaluation"))
    for n in range(1, n_epochs * per_epoch + 1):
        epoch = n / per_epoch
        step = round(epoch * steps_per_epoch)
        scores = curve.scores(epoch)
        running = {"batch_loss": curve.train_loss(epoch), "learning_rate": curve.rate(epoch)}
        yield Moment(epoch, Measured(step, epoch, running, "step"))
        if n % per_epoch == 0:
            usd = None if terms.usd_per_token is None else terms.usd_per_token * terms.tokens_per_epoch
            yield Moment(epoch, Charged(usd, terms.tokens_per_epoch))
        yield Moment(epoch, Measured(step, epoch, scores, "evaluation"))
        if n % per_epoch:
            continue
        if not math.isfinite(scores["valid_loss"]):
            failure = Failure(FailureKind.DIVERGED, f"the validation loss is {scores['valid_loss']} at epoch {epoch:g}")
            yield Moment(epoch, Failed(failure))
            return
        yield Moment(epoch, Checkpointed(step, epoch, kept_model(request.key, epoch)))
    yield Moment(float(n_epochs), Finished(kept_model(request.key)))


class _Curve:
    """The formula of this module's docstring for one run."""

    def __init__(self, request: TrainingRequest, resolved: Mapping[str, Scalar]) -> None:
        self._request = request
        self._n_epochs = int(resolved["n_epochs"])
        self._schedule = str(resolved["schedule"])
        self._learning_rate = float(resolved["learning_rate"])
        batch = int(resolved["batch_size"])
        best_batch = max(1.0, 0.004 * request.dataset.train.examples)
        best_rate = 0.06 * math.sqrt(batch / best_batch)
        # far beyond divergence nothing depends on the rate any more: keep the formulas finite
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
        silent = {"n_epochs", "steps_per_epoch"} | ({"lora_rank"} if resolved["method"] != "lora" else set())
        point = {name: value for name, value in resolved.items() if name not in silent}
        self._noise_key = json.dumps(
            [request.seed, request.base_model, request.dataset.train.sha256, sorted(point.items())]
        )

    def rate(self, epoch: float) -> float:
        """Return the learning rate just before `epoch`."""
        return self._learning_rate * self._factor(epoch)

    def train_loss(self, epoch: float) -> float:
        """Return the training loss in nats per token, without noise; not a number where the run has diverged."""
        if self._diverged(epoch):
            return math.nan
        t = self._progress(epoch)
        return self._floor * math.exp(-max(0.0, t - 6) / 6) + self._left(t)

    def scores(self, epoch: float) -> dict[str, float]:
        """Return the values of an evaluation; the label metrics only where there are labels."""
        gauss = random.Random(f"{self._noise_key}@{epoch}").gauss
        noise = [gauss(0, _NOISE_NATS) if epoch > 0 else 0.0 for _ in range(4)]
        lost = self._diverged(epoch)
        t = self._progress(epoch)
        beyond = 0.0 if lost else max(0.0, t - 6)
        valid_loss = (
            math.nan if lost else self._floor + self._left(t) + 2 * (1 - math.exp(-(beyond**2) / 80)) + noise[0]
        )
        learned = 0.0 if lost else 1 - math.exp(-t)
        forgotten = 0.15 * (1 - math.exp(-beyond / 10))
        ceiling = math.exp(-self._floor / 3)
        scores = {
            "valid_loss": valid_loss if lost else max(1e-6, valid_loss),
            "valid_token_accuracy": _share(0.3, learned * ceiling - forgotten + noise[1]),
        }
        if self._classes:
            chance = 1 / self._classes
            scores["valid_accuracy"] = _share(chance, learned * ceiling - forgotten + noise[2])
            scores["valid_macro_f1"] = scores["valid_accuracy"] * (0.5 + 0.5 * learned)
        if self._request.evaluation.train_examples:
            scores["train_loss"] = math.nan if lost else max(1e-6, self.train_loss(epoch) + noise[3])
            fitted = learned * (ceiling + (1 - ceiling) * (1 - math.exp(-beyond / 6)))
            scores["train_token_accuracy"] = _share(0.3, fitted)
            if self._classes:
                scores["train_accuracy"] = _share(1 / self._classes, fitted)
                scores["train_macro_f1"] = scores["train_accuracy"] * (0.5 + 0.5 * learned)
        return scores

    def _diverged(self, epoch: float) -> bool:
        return epoch > 0 and self._relative_rate > _DIVERGES_ABOVE

    def _left(self, t: float) -> float:
        return (self._start - self._floor) * math.exp(-t)

    def _progress(self, epoch: float) -> float:
        """Return t: 1.5 r times the integral of the schedule's factor from 0 to `epoch`."""
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


def _share(chance: float, learned: float) -> float:
    """Return an accuracy between 0 and 1: `chance` where nothing is learned, 1 where everything is."""
    return min(1.0, max(0.0, chance + (1 - chance) * learned))
