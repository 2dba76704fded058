"""The training loop, in the open: a generator of events that can be interrupted between any two."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from backends.contract import (
    BackendError,
    Charged,
    Checkpointed,
    Evaluation,
    Event,
    Failed,
    Failure,
    FailureKind,
    Finished,
    Measured,
)
from backends.local import loss, model_evaluation
from backends.local.encoding import Data, Ids, epoch_batches
from backends.local.failures import is_out_of_memory
from backends.local.hyperparameters import Settings
from backends.local.lr_schedule import factor
from backends.local.model import LoadedModel
from backends.local.trainable_weights import TrainableWeights

REPORTS_PER_EPOCH = 10
MIN_STEPS_PER_REPORT = 10

_MICRO_TOKENS = {"cpu": 4096, "mps": 8192, "cuda": 16384}
_MICRO_LOGITS = 2**27
"""Tokens, and tokens times vocabulary, of the first micro-batch that is tried: 2 GiB of logits with their gradients."""


@dataclass
class Progress:
    """Where a run is, after `step` optimizer steps. `tokens` and `loss_*` count since they were last reported."""

    micro_batch_size: int
    step: int = 0
    best: float | None = None
    tokens: int = 0
    loss_sum: float | torch.Tensor = 0.0
    loss_steps: int = 0


@dataclass(frozen=True)
class Plan:
    """What a training run is made of besides the model. `keep_metric` is one that the evaluations carry."""

    train: Data
    valid: Data
    sample: Data
    settings: Settings
    peak_rate: float
    evaluation: Evaluation
    keep_metric: str
    seed: int
    micro_batch_size: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch; the last batch cut may be smaller."""
        return math.ceil(len(self.train.ids) / self.settings.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.steps_per_epoch * self.settings.n_epochs

    def evaluation_steps(self) -> frozenset[int]:
        """Return after which steps of an epoch (1, 2, ...) the model is measured: evenly spread, the last included."""
        steps, times = self.steps_per_epoch, max(1, self.evaluation.per_epoch)
        return frozenset(max(1, round(n * steps / times)) for n in range(1, times + 1))

    def report_steps(self) -> frozenset[int]:
        """Return after which steps of an epoch the loop's running values are reported; never chosen by the clock."""
        every = max(MIN_STEPS_PER_REPORT, math.ceil(self.steps_per_epoch / REPORTS_PER_EPOCH))
        return frozenset({*range(every, self.steps_per_epoch + 1, every), self.steps_per_epoch})


def first_micro_batch(data: Data, batch_size: int, model: LoadedModel) -> int:
    """Return how many examples to compute at once, before memory has had its say."""
    tokens = min(_MICRO_TOKENS.get(model.device.type, 4096), _MICRO_LOGITS // model.vocabulary, model.tokens_in_cache)
    return max(1, min(batch_size, tokens // int(data.lengths.max())))


class Training:
    """A run on a trainee. `events` goes on from `progress`; between two of its results `snapshot` is consistent."""

    def __init__(self, plan: Plan, trainee: TrainableWeights, model_name: str, keep: Callable[[], None]) -> None:
        """`keep` saves the trainee's current state as the kept model, `model_name` in events."""
        self.plan = plan
        self.trainee = trainee
        self.progress = Progress(plan.micro_batch_size)
        self._model_name, self._keep = model_name, keep
        self._model = trainee.model
        self._evaluation_steps, self._report_steps = plan.evaluation_steps(), plan.report_steps()
        self._has_dropout = self._model.has_dropout
        # Decay pulls matrices towards zero; biases and norms have no reason to be small.
        parameters = list(trainee.parameters.values())
        groups = [
            {"params": [each for each in parameters if each.ndim >= 2], "weight_decay": plan.settings.weight_decay},
            {"params": [each for each in parameters if each.ndim < 2], "weight_decay": 0.0},
        ]
        fused = self._model.device.type in {"cpu", "cuda"}
        self.optimizer = torch.optim.AdamW([each for each in groups if each["params"]], lr=0.0, fused=fused)

    # --------------------------------------------------------------------------------------------------------- snapshot
    def snapshot(self) -> dict[str, Any]:
        """Return everything that the rest of the run depends on; shares memory with the run."""
        return {
            "progress": dataclasses.asdict(self.progress),
            "parameters": {name: each.detach() for name, each in self.trainee.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self.progress = Progress(**snapshot["progress"])
        self.trainee.load(snapshot["parameters"])
        self.optimizer.load_state_dict(snapshot["optimizer"])

    # ------------------------------------------------------------------------------------------------------------- loop
    def events(self) -> Iterator[list[Event]]:
        """Train to the end, yielding events as they come; the last one is Finished, or Failed where the run diverged.

        Order of the data and dropout are functions of the seed and of the step, so that a run that was interrupted
        has the course of one that was not. Raises BackendError (out_of_memory) where one example does not fit.
        """
        plan, progress = self.plan, self.progress
        while progress.step < plan.total_steps:
            epoch = progress.step // plan.steps_per_epoch
            batches = epoch_batches(plan.train.lengths, plan.settings.batch_size, plan.seed, epoch)
            for batch in batches[progress.step - epoch * plan.steps_per_epoch :]:
                rate = plan.peak_rate * factor(
                    plan.settings.schedule, progress.step, plan.total_steps, plan.settings.warmup_ratio
                )
                norm, healthy = self.step(batch, rate)
                at = progress.step - epoch * plan.steps_per_epoch
                events: list[Event] = []
                if at in self._report_steps or not healthy:
                    events.append(self._report(rate, norm))
                    healthy = healthy and math.isfinite(events[0].values["batch_loss"])  # type: ignore[union-attr]
                if not healthy:
                    yield [*events, Failed(self._divergence("the training loss"))]
                    return
                if at in self._evaluation_steps:
                    measured = self.evaluate()
                    events += [Charged(None, progress.tokens), measured]
                    progress.tokens = 0
                    if not math.isfinite(measured.values["valid_loss"]):
                        yield [*events, Failed(self._divergence("the validation loss"))]
                        return
                    if self._is_best(measured.values[plan.keep_metric]):
                        self._keep()
                        events.append(Checkpointed(measured.step, measured.epoch, self._model_name))
                if events:
                    yield events
        yield [Finished(self._model_name)]

    def evaluate(self) -> Measured:
        """Measure the current state on the validation set and on the training sample."""
        values = model_evaluation.evaluate(self._model, self.plan.valid, "valid")
        values |= model_evaluation.evaluate(self._model, self.plan.sample, "train")
        return Measured(self.progress.step, self._epoch, values, "evaluation")

    @property
    def _epoch(self) -> float:
        return self.progress.step / self.plan.steps_per_epoch

    def _is_best(self, value: float) -> bool:
        best = self.progress.best
        if best is not None and not (value > best if self.plan.evaluation.keep_maximum else value < best):
            return False
        self.progress.best = value
        return True

    def _report(self, rate: float, norm: torch.Tensor) -> Measured:
        progress = self.progress
        values = {
            "batch_loss": float(progress.loss_sum) / max(progress.loss_steps, 1),
            "learning_rate": rate,
            "grad_norm": float(norm),
        }
        progress.loss_sum, progress.loss_steps = 0.0, 0
        return Measured(progress.step, self._epoch, values, "step")

    def _divergence(self, what: str) -> Failure:
        message = f"{what} is not finite after step {self.progress.step}"
        return Failure(FailureKind.DIVERGED, message, "lower the learning rate, or raise warmup_ratio")

    # ------------------------------------------------------------------------------------------------------------- step
    def step(self, batch: Ids, rate: float) -> tuple[torch.Tensor, bool]:
        """Do one optimizer step; return the gradient's norm and whether the loss is known to be finite (or unknown)."""
        progress, settings = self.progress, self.plan.settings
        mean_loss = self._accumulate(batch)
        # Asking a GPU for a number makes it wait; there the loss is looked at when it is reported.
        on_cpu = self._model.device.type == "cpu"
        progress.loss_sum = progress.loss_sum + (mean_loss.item() if on_cpu else mean_loss)
        progress.loss_steps += 1
        progress.step += 1
        progress.tokens += int(sum(len(self.plan.train.ids[i]) for i in batch))
        limit = settings.max_grad_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(list(self.trainee.parameters.values()), limit)
        healthy = not on_cpu or math.isfinite(progress.loss_sum)
        if healthy:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm, healthy

    def _accumulate(self, batch: Ids) -> torch.Tensor:
        """Accumulate the gradient of the effective batch's mean loss and return that loss.

        The micro-batch is halved, for the rest of the run, each time memory runs out; the result is the same.
        """
        while True:
            try:
                return self._backward(batch, self.progress.micro_batch_size)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.progress.micro_batch_size == 1:
                    remedy = "lower backend.max_length, use method: lora, or take a smaller model"
                    message = "one training example does not fit into memory"
                    raise BackendError(Failure(FailureKind.OUT_OF_MEMORY, message, remedy)) from error
            self.optimizer.zero_grad(set_to_none=True)
            if self._model.device.type == "cuda":
                torch.cuda.empty_cache()
            self.progress.micro_batch_size = max(1, self.progress.micro_batch_size // 2)

    def _backward(self, batch: Ids, micro_batch_size: int) -> torch.Tensor:
        plan, model = self.plan, self._model
        weight = loss.total_weight(plan.train, batch, plan.settings.prompt_loss_weight)
        total = torch.zeros((), device=model.device)
        model.module.train()
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices, enabled=self._has_dropout):
            if self._has_dropout:
                torch.manual_seed(int(np.random.SeedSequence([plan.seed, self.progress.step]).generate_state(1)[0]))
            for first in range(0, len(batch), micro_batch_size):
                part = batch[first : first + micro_batch_size]
                with model.arithmetic():
                    summed = loss.summed_loss(model, plan.train, part, plan.settings.prompt_loss_weight) / weight
                summed.backward()  # type: ignore[no-untyped-call]
                total += summed.detach()
        return total
