"""The training loop: a generator of events that can be interrupted between any two of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from backends.contract import (
    BackendError,
    Charged,
    Checkpointed,
    EvaluationSettings,
    Event,
    Failed,
    Failure,
    FailureKind,
    Finished,
    Measured,
)
from backends.local import loss, model_evaluation
from backends.local.encoded_data import EncodedData, Ids
from backends.local.encoding import epoch_batches
from backends.local.failures import is_out_of_memory
from backends.local.hyperparameters import Settings
from backends.local.lr_schedule import lr_factor
from backends.local.model import BatchLimits
from backends.local.optimizers import make_optimizer
from backends.local.task_evaluation import TaskEvaluation
from backends.local.trainable_weights import TrainableWeights

REPORTS_PER_EPOCH = 10
MIN_STEPS_PER_REPORT = 10

_MICRO_BATCH_TOKENS = {"cpu": 4096, "mps": 8192, "cuda": 16384}
_MICRO_BATCH_LOGITS = 2**27
"""The most tokens, and the most logits (tokens times vocabulary), of the first micro-batch to try.

The logits take 2 GiB with their gradients.
"""


@dataclass
class Progress:
    """The state of a run after `step` optimizer steps.

    `best` is the best `keep_metric` so far. `tokens` counts training tokens since the last Charged
    event. `loss_sum` and `loss_steps` add up the loss (nats) since the last report.
    """

    micro_batch_size: int
    step: int = 0
    best: float | None = None
    tokens: int = 0
    loss_sum: float | torch.Tensor = 0.0
    loss_steps: int = 0


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that determines a training run except the model.

    The evaluations measure `keep_metric`. `train_sample` holds the training examples that each
    evaluation measures, too.
    """

    train: EncodedData
    valid: EncodedData
    train_sample: EncodedData
    settings: Settings
    peak_learning_rate: float
    evaluation: EvaluationSettings
    keep_metric: str
    seed: int
    micro_batch_size: int

    @property
    def steps_per_epoch(self) -> int:
        """The optimizer steps of an epoch. One batch of an epoch may be smaller than the others."""
        return math.ceil(len(self.train.ids) / self.settings.batch_size)

    @property
    def total_steps(self) -> int:
        """The optimizer steps of the run."""
        return self.steps_per_epoch * self.settings.n_epochs

    def evaluation_steps(self) -> frozenset[int]:
        """Return the steps of an epoch (1, 2, ...) after which to evaluate: evenly spread, the last
        one included.
        """
        return self._spread(self.evaluation.per_epoch)

    def generation_steps(self) -> frozenset[int]:
        """Return those of the evaluation steps at which to measure task metrics, too."""
        if not self.evaluation.metrics:
            return frozenset()
        return self._spread(self.evaluation.generation_in_use.per_epoch)

    def _spread(self, times: int) -> frozenset[int]:
        steps, times = self.steps_per_epoch, max(1, times)
        return frozenset(max(1, round(n * steps / times)) for n in range(1, times + 1))

    def report_steps(self) -> frozenset[int]:
        """Return the steps of an epoch after which to report loss and gradient norm.

        The clock has no influence.
        """
        every = max(MIN_STEPS_PER_REPORT, math.ceil(self.steps_per_epoch / REPORTS_PER_EPOCH))
        return frozenset({*range(every, self.steps_per_epoch + 1, every), self.steps_per_epoch})


def initial_micro_batch_size(data: EncodedData, batch_size: int, model: BatchLimits) -> int:
    """Return how many examples to compute at once until memory runs out."""
    tokens = min(
        _MICRO_BATCH_TOKENS.get(model.device.type, 4096),
        _MICRO_BATCH_LOGITS // model.vocabulary_size,
        model.max_tokens_in_cache,
    )
    return max(1, min(batch_size, tokens // int(data.lengths.max())))


class TrainingLoop:
    """A run in progress.

    `events` continues from `progress`. Between two of its results, `snapshot` is consistent.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        trainable: TrainableWeights,
        model_name: str,
        save_model: Callable[[Mapping[str, str]], None],
        task: TaskEvaluation | None = None,
    ) -> None:
        """Create the optimizer.

        `save_model` saves the current state as the kept model, with further text files by name.
        Events call that model `model_name`. `task` is set if evaluations measure task metrics.
        """
        self.plan = plan
        self.trainable = trainable
        self.task = task
        self.progress = Progress(plan.micro_batch_size)
        self._model_name, self._save_model = model_name, save_model
        self._model = trainable.model
        self._evaluation_steps, self._report_steps = plan.evaluation_steps(), plan.report_steps()
        self._generation_steps = plan.generation_steps()
        self._draws_numbers = self._model.has_dropout or plan.settings.neftune_noise_alpha > 0
        self.optimizer = make_optimizer(plan.settings, trainable.parameters.values(), self._model.device)

    # ------------------------------------------------------------------------------------- snapshot
    def snapshot(self) -> dict[str, Any]:
        """Return everything on which the rest of the run depends.

        The tensors share memory with the run.
        """
        return {
            "progress": dataclasses.asdict(self.progress),
            "parameters": {name: parameter.detach() for name, parameter in self.trainable.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Continue from a snapshot."""
        self.progress = Progress(**snapshot["progress"])
        self.trainable.load(snapshot["parameters"])
        self.optimizer.load_state_dict(snapshot["optimizer"])

    # ----------------------------------------------------------------------------------------- loop
    def events(self) -> Iterator[list[Event]]:
        """Train to the end and yield events as they occur.

        The last one is Finished, or Failed after a divergence.

        Data order, dropout and noise are functions of the seed and the step, so that an interrupted
        run yields the same events as an uninterrupted one. Raises BackendError (out_of_memory) if
        one example does not fit into memory.
        """
        plan, progress = self.plan, self.progress
        while progress.step < plan.total_steps:
            epoch = progress.step // plan.steps_per_epoch
            batches = epoch_batches(plan.train.lengths, plan.settings.batch_size, plan.seed, epoch)
            for batch in batches[progress.step - epoch * plan.steps_per_epoch :]:
                learning_rate = plan.peak_learning_rate * lr_factor(
                    plan.settings.schedule, progress.step, plan.total_steps, plan.settings.warmup_ratio
                )
                grad_norm, healthy = self.step(batch, learning_rate)
                step_in_epoch = progress.step - epoch * plan.steps_per_epoch
                events: list[Event] = []
                if step_in_epoch in self._report_steps or not healthy:
                    report = self._report(learning_rate, grad_norm)
                    events.append(report)
                    healthy = healthy and math.isfinite(report.values["batch_loss"])
                if not healthy:
                    yield [*events, Failed(self._divergence("the training loss"))]
                    return
                if step_in_epoch in self._evaluation_steps:
                    events += self._evaluation_events(step_in_epoch)
                    if isinstance(events[-1], Failed):
                        yield events
                        return
                if events:
                    yield events
        yield [Finished(self._model_name)]

    def _evaluation_events(self, step_in_epoch: int) -> list[Event]:
        """Evaluate, and keep the state if it is the best.

        The last event is Failed if the run must end.
        """
        plan, measured = self.plan, self.evaluate()
        files: Mapping[str, str] = {}
        events: list[Event] = [Charged(None, self.progress.tokens)]
        self.progress.tokens = 0
        if not math.isfinite(measured.values["valid_loss"]):
            return [*events, measured, Failed(self._divergence("the validation loss"))]
        if self.task is None or step_in_epoch not in self._generation_steps:
            events.append(measured)
        else:
            try:
                measurement = self.task.measure()
            except BackendError as error:
                return [*events, measured, Failed(error.failure)]
            events += measurement.events(measured, is_paid=self.task.is_paid)
            measured, files = measurement.added_to(measured), measurement.files()
        # An evaluation without task metrics has no value of a `keep_metric` that is one.
        if plan.keep_metric in measured.values and self._is_best(measured.values[plan.keep_metric]):
            self._save_model(files)
            events.append(Checkpointed(measured.step, measured.epoch, self._model_name))
        return events

    def evaluate(self) -> Measured:
        """Measure the current state on the validation set and on the training sample."""
        values = model_evaluation.evaluate(self._model, self.plan.valid, "valid")
        values |= model_evaluation.evaluate(self._model, self.plan.train_sample, "train")
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

    def _report(self, learning_rate: float, grad_norm: torch.Tensor) -> Measured:
        progress = self.progress
        values = {
            "batch_loss": float(progress.loss_sum) / max(progress.loss_steps, 1),
            "learning_rate": learning_rate,
            "grad_norm": float(grad_norm),
        }
        progress.loss_sum, progress.loss_steps = 0.0, 0
        return Measured(progress.step, self._epoch, values, "step")

    def _divergence(self, loss_name: str) -> Failure:
        message = f"{loss_name} is not finite after step {self.progress.step}"
        return Failure(FailureKind.DIVERGED, message, "lower the learning rate, or raise warmup_ratio")

    # ----------------------------------------------------------------------------------------- step
    def step(self, batch: Ids, learning_rate: float) -> tuple[torch.Tensor, bool]:
        """Do one optimizer step.

        Return the gradient norm (a scalar), and False if the loss is known to be non-finite.

        On a CPU the loss is known at once, and a non-finite loss leaves the weights unchanged. On a
        GPU it is known only at the next report.
        """
        progress, settings = self.progress, self.plan.settings
        mean_loss = self._accumulate_gradient(batch)
        # Reading a number from a GPU makes the CPU wait for it. There, only a report reads the
        # loss.
        on_cpu = self._model.device.type == "cpu"
        progress.loss_sum = progress.loss_sum + (mean_loss.item() if on_cpu else mean_loss)
        progress.loss_steps += 1
        progress.step += 1
        progress.tokens += int(sum(len(self.plan.train.ids[i]) for i in batch))
        max_norm = settings.max_grad_norm or math.inf
        grad_norm = torch.nn.utils.clip_grad_norm_(list(self.trainable.parameters.values()), max_norm)
        healthy = not on_cpu or math.isfinite(progress.loss_sum)
        if healthy:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return grad_norm, healthy

    def _accumulate_gradient(self, batch: Ids) -> torch.Tensor:
        """Accumulate the gradient of the effective batch's mean loss.

        Return that loss, a scalar in nats.

        Each time memory runs out, the micro-batch size is halved for the rest of the run. The
        result stays the same.
        """
        while True:
            try:
                return self._backward(batch, self.progress.micro_batch_size)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.progress.micro_batch_size == 1:
                    remedy = "lower backend.max_length, use method: lora, or use a smaller model"
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
        with torch.random.fork_rng(devices, enabled=self._draws_numbers):
            if self._draws_numbers:
                torch.manual_seed(int(np.random.SeedSequence([plan.seed, self.progress.step]).generate_state(1)[0]))
            for first in range(0, len(batch), micro_batch_size):
                micro_batch = batch[first : first + micro_batch_size]
                with model.autocast():
                    summed = loss.summed_loss(model, plan.train, micro_batch, plan.settings.prompt_loss_weight) / weight
                summed.backward()  # type: ignore[no-untyped-call]
                total += summed.detach()
        return total
