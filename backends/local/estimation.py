"""The estimate of a run: counted tokens, seconds from timed steps, disk from the model's size."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from backends.contract import Estimate
from backends.local import model_evaluation
from backends.local.model_source import ModelSource, kept_bytes, peak_bytes
from backends.local.trainable_weights import TrainableWeights
from backends.local.training import TrainingLoop, TrainingPlan

_TIMED_STEPS = 3
_TIMED_EVALUATION_EXAMPLES = 64


@dataclass(frozen=True)
class Speed:
    """Measured seconds per training token and per evaluated token."""

    training_s_per_token: float
    evaluation_s_per_token: float


def measure_speed(plan: TrainingPlan, trainable: TrainableWeights) -> Speed:
    """Time a few training steps, after one warm-up step, and an evaluation of some validation
    examples.
    """
    loop = TrainingLoop(plan, trainable, "", lambda: None)
    order = np.argsort(plan.train.lengths, kind="stable")
    batch = order[len(order) // 2 :][: plan.settings.batch_size]  # examples of median length
    loop.step(batch, 0.0)
    began, tokens = time.perf_counter(), 0
    for _ in range(_TIMED_STEPS):
        loop.step(batch, 0.0)
        tokens += int(plan.train.lengths[batch].sum())
    training_s_per_token = (time.perf_counter() - began) / max(tokens, 1)
    examples = plan.valid.take(range(min(_TIMED_EVALUATION_EXAMPLES, len(plan.valid.ids))))
    began = time.perf_counter()
    model_evaluation.evaluate(trainable.model, examples, "valid")
    return Speed(training_s_per_token, (time.perf_counter() - began) / max(int(examples.lengths.sum()), 1))


def estimate(plan: TrainingPlan, speed: Speed, base: ModelSource) -> Estimate:
    """Return the estimate of a complete run."""
    tokens = int(plan.train.lengths.sum()) * plan.settings.n_epochs
    tokens_per_evaluation = int(plan.valid.lengths.sum() + plan.train_sample.lengths.sum())
    evaluations = len(plan.evaluation_steps()) * plan.settings.n_epochs + 1
    rank = plan.settings.lora.rank if plan.settings.lora else None
    peak = peak_bytes(base, rank)
    return Estimate(
        tokens=tokens,
        seconds=tokens * speed.training_s_per_token
        + tokens_per_evaluation * evaluations * speed.evaluation_s_per_token,
        usd=None,
        disk_bytes=kept_bytes(base, rank),
        basis=(
            f"tokens counted; seconds from {_TIMED_STEPS} timed steps on this machine, without loading; "
            f"disk is the kept model; training needs up to {peak / 2**20:.0f} MiB"
        ),
    )
