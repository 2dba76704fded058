"""The estimate of a run: counted tokens, seconds from timed steps, disk from the model's size."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from backends.contract import Estimate
from backends.local import model_evaluation
from backends.local.encoded_data import CausalData, EncodedData
from backends.local.model_source import ModelSource, kept_bytes, peak_bytes
from backends.local.task_evaluation import TaskEvaluation
from backends.local.trainable_weights import TrainableWeights
from backends.local.training import TrainingLoop, TrainingPlan

_TIMED_STEPS = 3
_TIMED_EVALUATION_EXAMPLES = 64
_TIMED_TEXTS = 16
_TIMED_TOKENS = 8
_GENERATION_BASIS = (
    f"those of generation from the first tokens of {_TIMED_TEXTS} texts, if texts are as long as their references, "
    "without the time of the metrics; "
)


@dataclass(frozen=True)
class Speed:
    """Measured seconds per training token, per evaluated token, and of generating all texts of an
    evaluation.
    """

    training_s_per_token: float
    evaluation_s_per_token: float
    generation_s: float = 0.0


def measure_speed(plan: TrainingPlan, trainable: TrainableWeights, task: TaskEvaluation | None = None) -> Speed:
    """Time a few training steps, after one warm-up step, an evaluation of some validation examples,
    and the beginning of some texts.
    """
    loop = TrainingLoop(plan, trainable, "", lambda _: None)
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
    evaluation_s_per_token = (time.perf_counter() - began) / max(int(examples.lengths.sum()), 1)
    return Speed(training_s_per_token, evaluation_s_per_token, 0.0 if task is None else _generation_s(plan.valid, task))


def _generation_s(valid: EncodedData, task: TaskEvaluation) -> float:
    """Estimate the time of generating for all examples: from the first tokens of a few texts, and
    as many tokens as the references have on average.
    """
    if not isinstance(valid, CausalData):
        return 0.0
    examples = min(_TIMED_TEXTS, task.examples)
    durations_s = []
    for tokens in (1, 1, 1 + _TIMED_TOKENS):  # the first one warms up
        began = time.perf_counter()
        answers = task.generate(replace(task.settings.decoding, max_tokens=tokens), examples)
        durations_s.append(time.perf_counter() - began)
    further_tokens = sum(max(answer.tokens - 1, 0) for answer in answers)
    first_s, token_s = durations_s[1], max(durations_s[2] - durations_s[1], 0.0) / max(further_tokens, 1)
    reference_tokens = float((valid.lengths - valid.completion_starts).mean())
    tokens_per_text = min(reference_tokens, task.settings.decoding.max_tokens)
    seconds: float = task.examples * (first_s / examples + tokens_per_text * token_s)
    return seconds


def estimate(plan: TrainingPlan, speed: Speed, base: ModelSource, task: TaskEvaluation | None = None) -> Estimate:
    """Return the estimate of a complete run. Only `seconds` includes the generation of texts."""
    tokens = int(plan.train.lengths.sum()) * plan.settings.n_epochs
    tokens_per_evaluation = int(plan.valid.lengths.sum() + plan.train_sample.lengths.sum())
    evaluations = len(plan.evaluation_steps()) * plan.settings.n_epochs + 1
    generations = len(plan.generation_steps()) * plan.settings.n_epochs + 1
    rank = plan.settings.lora.rank if plan.settings.lora else None
    peak = peak_bytes(base, rank)
    return Estimate(
        tokens=tokens,
        seconds=tokens * speed.training_s_per_token
        + tokens_per_evaluation * evaluations * speed.evaluation_s_per_token
        + generations * speed.generation_s,
        usd=None,
        disk_bytes=kept_bytes(base, rank),
        basis=(
            f"tokens counted; seconds from {_TIMED_STEPS} timed steps on this machine, without loading; "
            f"{_GENERATION_BASIS if task else ''}"
            f"disk is the kept model; training needs up to {peak / 2**20:.0f} MiB"
        ),
    )
