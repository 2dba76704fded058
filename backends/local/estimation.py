"""What a run will use: tokens by counting, seconds by timing a few steps on this machine, disk by the model's size."""

from __future__ import annotations

import time

import numpy as np

from backends.contract import Estimate
from backends.local import model_evaluation
from backends.local.model_source import ModelSource, kept_bytes, peak_bytes
from backends.local.trainable_weights import TrainableWeights
from backends.local.training import Plan, Training

_TIMED_STEPS = 3
_TIMED_EVALUATION = 64


def time_run(plan: Plan, trainee: TrainableWeights) -> tuple[float, float]:
    """Return seconds a training token and seconds an evaluated token, from a few steps after a warm-up."""
    training = Training(plan, trainee, "", lambda: None)
    order = np.argsort(plan.train.lengths, kind="stable")
    middle = order[len(order) // 2 :][: plan.settings.batch_size]
    training.step(middle, 0.0)
    began, tokens = time.perf_counter(), 0
    for _ in range(_TIMED_STEPS):
        training.step(middle, 0.0)
        tokens += int(plan.train.lengths[middle].sum())
    train_s = (time.perf_counter() - began) / max(tokens, 1)
    some = plan.valid.take(range(min(_TIMED_EVALUATION, len(plan.valid.ids))))
    began = time.perf_counter()
    model_evaluation.evaluate(trainee.model, some, "valid")
    return train_s, (time.perf_counter() - began) / max(int(some.lengths.sum()), 1)


def estimate(plan: Plan, speed: tuple[float, float], base: ModelSource) -> Estimate:
    """Return the estimate of a complete run."""
    train_s, evaluation_s = speed
    tokens = int(plan.train.lengths.sum()) * plan.settings.n_epochs
    evaluated = int(plan.valid.lengths.sum() + plan.sample.lengths.sum())
    times = len(plan.evaluation_steps()) * plan.settings.n_epochs + 1
    rank = plan.settings.lora.rank if plan.settings.lora else None
    peak = peak_bytes(base, rank)
    return Estimate(
        tokens=tokens,
        seconds=tokens * train_s + evaluated * times * evaluation_s,
        usd=None,
        disk_bytes=kept_bytes(base, rank),
        basis=(
            f"tokens counted; seconds from {_TIMED_STEPS} timed steps on this machine, loading left out; "
            f"disk is what stays, up to {peak / 2**20:.0f} MiB while training"
        ),
    )
