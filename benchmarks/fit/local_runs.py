"""Runs of our own trainer: the embedded language model, fine-tuned on generated sentence pairs.

The runs use the training loop of `LocalBackend` directly, because after each evaluation the model
must also be scored on the oracle's pairs, which no backend does.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from backends.contract import DataFile, Dataset, EvaluationSettings, Failed, Measured, Placement, TrainingRequest
from backends.local import model_evaluation, run_setup, training
from backends.local.encoded_data import CausalData
from backends.local.model_cache import MODEL_CACHE
from backends.local.options import LocalOptions
from backends.local.request_resolution import resolve
from backends.training_logs.learning_curve import LearningCurve
from benchmarks.fit.hidden_information import hide_information
from benchmarks.fit.records import GENERATION_OFFSET, Record
from benchmarks.fit.tracing import ExampleScores, State, Trace, oracle_of
from sweeps.data.builtin.nli import LABELS, generate
from sweeps.trials.curve import thin_loop_reports

ORACLE = 600
"""The number of the oracle's pairs.

Scoring one takes a millisecond, and every evaluation of every run scores all.
"""

TRAIN_SAMPLE = 200
LATER_RATE = 0.1
"""The rate of the continuation as a share of the peak rate, if the schedule has lowered the
rate.
"""


@dataclass(frozen=True)
class LocalRecipe:
    """One fine-tuning run."""

    number: int
    cause: str
    detail: str
    epochs: int
    later: int
    train: int
    valid: int
    rate: float
    batch: int = 8
    per_epoch: int = 1
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup: float = 0.0
    max_norm: float = 1.0
    noise: float = 0.0
    random_labels: bool = False
    ended: Literal["complete", "stopped", "failed"] = "complete"

    @property
    def id(self) -> str:
        return f"local-{self.number:04d}"

    @property
    def seed(self) -> int:
        return 10_000 + self.number


# a table, one line per case
def _draw_settings(cause: str, detail: str, rng: random.Random) -> dict[str, Any]:
    def log(low: float, high: float) -> float:
        return float(low * (high / low) ** rng.random())

    plain = {
        "epochs": rng.choice([3, 3, 4]), "train": round(log(500, 800)), "rate": log(1e-3, 2e-3),
        "batch": 8, "valid": rng.choice([50, 100, 100, 200]),
        "schedule": "linear", "warmup": rng.choice([0.0, 0.1]), "later": 2,
        "per_epoch": rng.choice([1, 1, 2]),
    }  # fmt: skip
    few = {
        "train": round(log(70, 160)), "rate": log(6e-4, 1.2e-3), "later": 0,
        "schedule": "constant", "noise": rng.choice([0.2, 0.3]), "per_epoch": 1,
        **rng.choice([{"batch": 2, "epochs": 6}, {"batch": 4, "epochs": 10}, {"batch": 4, "epochs": 12}]),
    }  # fmt: skip
    short = {
        "epochs": 1, "per_epoch": rng.choice([2, 3, 4]), "train": round(log(150, 300)), "rate": log(3e-4, 1e-3),
        "schedule": "constant", "later": 4, "warmup": 0.0,
    }  # fmt: skip
    if rng.random() < 0.5:
        short |= {"epochs": rng.choice([2, 3]), "per_epoch": 1}
    changes: dict[str, dict[str, Any]] = {
        "good settings": {},
        "few validation examples": {"valid": rng.choice([50, 60])},
        "rate far too small": {"rate": log(1e-7, 2e-5), "train": 200, "later": 0, "schedule": "constant"},
        "too few epochs": short,
        "random labels, not memorised": {"random_labels": True, "rate": log(5e-5, 3e-4), "train": 250, "later": 0},
        "too many epochs on few examples": few,
        "random labels memorised": {
            **few, "random_labels": True, "noise": 0.0, "train": round(log(40, 90)), "batch": 4,
            "epochs": rng.choice([10, 12]),
        },
        "collapsed at once": {
            "rate": log(8e-3, 8e-2), "train": round(log(150, 250)), "later": 0, "schedule": "constant",
            "batch": rng.choice([4, 8]), "per_epoch": rng.choice([1, 1, 2]),
        },
        "stopped after it turned": {**few, "ended": "stopped"},
        "rate far too large": {
            "rate": log(0.4, 1.0), "train": 120, "later": 0, "schedule": "constant",
            "max_norm": rng.choice([0.0, 1.0]), "per_epoch": 1,
        },
        "blown up on the way": {
            "rate": log(0.008, 0.06), "train": 250, "later": 0, "schedule": "constant", "warmup": 1.0,
            "epochs": rng.choice([4, 5, 6]), "per_epoch": 1,
        },
        "no validation": {**few, "epochs": 3},
        "one evaluation": {
            "epochs": 1, "per_epoch": 1, "train": 200, "later": 0, "ended": rng.choice(["complete", "stopped"]),
        },
        "stopped while going": {**short, "ended": "stopped"},
        "within the noise of few examples": {
            **few, "valid": rng.choice([8, 10, 12, 15, 20]), "train": round(log(100, 250)), "batch": 4,
            "epochs": rng.choice([5, 6]), "rate": log(8e-4, 2e-3),
        },
    }  # fmt: skip
    if detail == "too few epochs, rate brought down":
        return {
            **plain, "epochs": rng.choice([2, 3]), "per_epoch": 1, "train": round(log(300, 600)), "warmup": 0.0,
            "rate": log(1e-4, 4e-4), "schedule": "linear", "later": 4,
        }  # fmt: skip
    return {**plain, **changes[detail]}


PLANS = (
    ("healthy", "good settings", 16),
    ("healthy", "few validation examples", 5),
    ("underfit", "rate far too small", 6),
    ("underfit", "too few epochs", 9),
    ("underfit", "random labels, not memorised", 4),
    ("underfit", "collapsed at once", 9),
    ("overfit", "too many epochs on few examples", 14),
    ("overfit", "random labels memorised", 7),
    ("overfit", "stopped after it turned", 4),
    ("diverged", "rate far too large", 6),
    ("diverged", "blown up on the way", 12),
    ("unsettled", "no validation", 2),
    ("unsettled", "one evaluation", 3),
    ("unsettled", "stopped while going", 6),
    ("unsettled", "within the noise of few examples", 8),
    ("underfit", "too few epochs, rate brought down", 6),
)
"""Cause, detail and number of candidates."""


def recipes(share: float = 1.0, generation: int = 1) -> Iterator[LocalRecipe]:
    """Yield all runs of a generation, or an even share of them, in a fixed order."""
    number, offset = 0, GENERATION_OFFSET * (generation - 1)
    for cause, detail, count in PLANS:
        for nth in range(count):
            number += 1
            if int(number * share) > int((number - 1) * share):
                drawn = _draw_settings(cause, detail, random.Random(f"local {detail} {offset + nth}"))
                yield LocalRecipe(offset + number, cause, detail, **drawn)


def all_runs(share: float, generation: int, work: Path, known: Set[str]) -> Iterator[Record]:
    """Train every recipe of a generation whose id is not in `known`.

    Write the data files below `work`.
    """
    MODEL_CACHE.add_backend()
    try:
        for recipe in recipes(share, generation):
            if recipe.id not in known:
                yield run(recipe, work)
    finally:
        MODEL_CACHE.remove_backend()


def run(recipe: LocalRecipe, work: Path) -> Record:
    """Train by the recipe and return the record."""
    measurements, trace, chance = _trace(recipe, work)
    curve = LearningCurve.from_measurements(
        _as_recorded(measurements),
        metric="valid_accuracy",
        train_examples=min(TRAIN_SAMPLE, recipe.train),
        valid_examples=recipe.valid,
        classes=len(LABELS),
        chance=chance,
        ended="diverged" if trace.broke_down else recipe.ended,
    )
    curve = hide_information(curve, recipe.cause, recipe.detail, recipe.seed)
    settings = {k: v for k, v in asdict(recipe).items() if k not in {"number", "cause", "detail"}}
    return Record(recipe.id, "local", "builtin:nli", recipe.cause, recipe.detail, curve, oracle_of(trace), settings)


def _as_recorded(measurements: Sequence[Measured]) -> tuple[Measured, ...]:
    """Return the measurements that a trial's record keeps."""
    evaluations = [measurement for measurement in measurements if measurement.scope == "evaluation"]
    loop_reports = [measurement for measurement in measurements if measurement.scope == "step"]
    return (*evaluations, *thin_loop_reports(loop_reports))


def _trace(recipe: LocalRecipe, work: Path) -> tuple[list[Measured], Trace, float]:
    parts = _parts(recipe)
    train, valid, oracle = (_write(work / "data", rows) for rows in parts)
    dataset = Dataset(train, valid, "completion", tuple(f" {label}" for label in LABELS))
    request = TrainingRequest(
        recipe.id,
        "builtin:tiny-lm",
        dataset,
        {
            "n_epochs": recipe.epochs + (recipe.later if recipe.schedule == "constant" else 0),
            "batch_size": recipe.batch, "learning_rate": recipe.rate, "schedule": recipe.schedule,
            "warmup_ratio": recipe.warmup, "max_grad_norm": recipe.max_norm,
        },
        recipe.seed,
        EvaluationSettings(recipe.per_epoch, TRAIN_SAMPLE),
    )  # fmt: skip
    options = LocalOptions(device="cpu")
    resolved = resolve(request, options)
    plan, trainable = run_setup.set_up_run(request, resolved, options, Placement())
    data = MODEL_CACHE.encoded_data(
        resolved.base, resolved.task, replace(dataset, valid=oracle), "valid", resolved.length_rule
    )
    assert isinstance(data, CausalData)
    loop = training.TrainingLoop(plan, trainable, recipe.id, lambda files: None)
    try:
        measurements, states, later, broke_down = _follow(recipe, plan, loop, data)
    finally:
        trainable.release()
    counts = Counter(pair["label"] for pair in parts[1])
    trace = Trace(states[0], tuple(states[1:]), tuple(later), _prior_loss(data, parts[2]), broke_down)
    return measurements, trace, max(counts.values()) / len(parts[1])


def _follow(
    recipe: LocalRecipe, plan: training.TrainingPlan, loop: training.TrainingLoop, oracle: CausalData
) -> tuple[list[Measured], list[State], list[State], bool]:
    measurements = [loop.evaluate()]
    states: list[State] = [_state(measurements[0], loop, oracle)]
    later: list[State] = []
    last_step = recipe.epochs * plan.steps_per_epoch
    for event in (event for events in loop.events() for event in events):
        if isinstance(event, Failed):
            if loop.progress.step <= last_step:
                states.append(_broken(states[0], event, loop))
                return measurements, states, later, True
            break
        if not isinstance(event, Measured):
            continue
        if event.step <= last_step:
            measurements.append(event)
            if event.scope == "evaluation":
                states.append(_state(event, loop, oracle))
        elif event.scope == "evaluation" and event.step % plan.steps_per_epoch == 0:
            later.append(_state(event, loop, oracle))
    if recipe.schedule != "constant" and recipe.later:
        rate = LATER_RATE * plan.peak_learning_rate
        settings = replace(plan.settings, n_epochs=recipe.later, schedule="constant", warmup_ratio=0.0)
        continuation = training.TrainingLoop(
            replace(plan, settings=settings, peak_learning_rate=rate, seed=plan.seed + 1),
            loop.trainable,
            recipe.id,
            lambda files: None,
        )
        for event in (event for events in continuation.events() for event in events):
            if isinstance(event, Measured) and event.scope == "evaluation" and event.step % plan.steps_per_epoch == 0:
                later.append(_state(event, continuation, oracle))
    return measurements, states, later, False


def _state(event: Measured, loop: training.TrainingLoop, oracle: CausalData) -> State:
    """Return a state: example by example for the oracle, and the trainer's means for training and
    validation.
    """
    values = event.values
    train, valid = (
        ExampleScores(np.full(size, values[f"{side}_loss"]), np.full(size, values[f"{side}_accuracy"]))
        for side, size in (("train", len(loop.plan.train_sample.ids)), ("valid", len(loop.plan.valid.ids)))
    )
    return State(event.epoch, event.step, train, valid, _scores(loop, oracle))


def _broken(before: State, event: Failed, loop: training.TrainingLoop) -> State:
    parts = (
        ExampleScores(np.full(len(scores.loss), np.nan), np.zeros(len(scores.loss)))
        for scores in (before.train, before.valid, before.oracle)
    )
    return State(loop.progress.step / loop.plan.steps_per_epoch, loop.progress.step, *parts)


def _scores(loop: training.TrainingLoop, data: CausalData) -> ExampleScores:
    assert data.labels is not None
    assert data.label_ids is not None
    prompts = [ids[:start] for ids, start in zip(data.ids, data.completion_starts, strict=True)]
    scores = model_evaluation.score_continuations(loop.trainable.model, prompts, [data.label_ids] * len(prompts))
    label_logprobs = scores.logprobs[np.arange(len(prompts)), data.labels]
    return ExampleScores(-label_logprobs / _tokens(data), (scores.logprobs.argmax(1) == data.labels).astype(np.float64))


def _tokens(data: CausalData) -> float:
    """Return the mean number of tokens of a completion."""
    return float(sum(len(ids) for ids in data.ids) - data.completion_starts.sum()) / len(data.ids)


def _prior_loss(data: CausalData, rows: Sequence[dict[str, str]]) -> float:
    shares = np.array(list(Counter(row["label"] for row in rows).values())) / len(rows)
    return -float((shares * np.log(shares)).sum()) / _tokens(data)


# --------------------------------------------------------------------------------------------- data
def _parts(recipe: LocalRecipe) -> list[list[dict[str, str]]]:
    train = generate("train", recipe.train, recipe.seed, recipe.noise)
    rest = generate("valid", recipe.valid + ORACLE, recipe.seed)
    random.Random(recipe.seed).shuffle(rest)
    if recipe.random_labels:
        rng = random.Random(f"labels {recipe.seed}")
        for pair in (*train, *rest):
            pair["label"] = rng.choice(LABELS)
    return [train, rest[: recipe.valid], rest[recipe.valid :]]


def _write(directory: Path, rows: Sequence[dict[str, str]]) -> DataFile:
    text = "".join(
        json.dumps(
            {
                "prompt": f"{row['premise']}\n{row['hypothesis']}\n\n###\n\n",
                "completion": f" {row['label']}",
                "segments": [row["premise"], row["hypothesis"]],
            }
        )
        + "\n"
        for row in rows
    )
    digest = hashlib.sha256(text.encode()).hexdigest()
    path = directory / f"{digest[:20]}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return DataFile(str(path), len(rows), digest)
