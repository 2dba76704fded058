"""Runs of our own trainer on tasks whose answers are free text, and the truth about them.

The runs use the training loop of `LocalBackend` directly, because after each epoch the model must
also answer the oracle's examples, which no judge sees.
"""

from __future__ import annotations

import gzip
import json
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

from backends.contract import (
    DataFile,
    Dataset,
    Decoding,
    EvaluationSettings,
    Measured,
    MetricRequest,
    Placement,
    TrainingRequest,
)
from backends.local import generation, run_setup, training
from backends.local.example_template import ExampleTemplate
from backends.local.failures import is_out_of_memory
from backends.local.model_cache import MODEL_CACHE
from backends.local.options import LocalOptions
from backends.local.request_resolution import resolve
from backends.metrics.measurement import MetricSet
from backends.model_packages import text_generation
from backends.training_logs.learning_curve import LearningCurve
from sweeps.data.builtin.nli_words import SPLITS, Words, words_of
from sweeps.trials.curve import thin_loop_reports

ORACLE = 500
"""The number of the oracle's examples."""

TRAIN_SAMPLE = 64
"""Each evaluation measures the training loss on this many examples."""

RIGHT = "right"
METRICS = (RIGHT, "token_f1")
"""The share of right answers, and the overlap of the words. Where a remark precedes the answer,
`regex` finds the answer; elsewhere the whole text must be right (`exact_match`)."""

DECODING = Decoding(max_tokens=10)

Row: TypeAlias = tuple[str, str]
"""A prompt and its completion."""


# -------------------------------------------------------------------------------------------- tasks
def _fields(rng: random.Random, words: Words) -> Row:
    """Find the two people in a sentence."""
    (one, other), act = rng.sample(words.names, 2), rng.choice(words.acts)
    place = rng.choice([place for places in words.places.values() for place in places])
    return f"{one} is {act} {other} {place}.\n", f" {one}, {other}"


def _opposites(rng: random.Random, words: Words) -> Row:
    """Copy a short text, with the opposite of its adjective."""
    name, quality, thing = rng.choice(words.names), rng.choice(words.qualities), rng.choice(_things(words))
    return f"{name}: {quality} {thing}\n", f" {name} {words.opposite[quality]} {thing}"


def _swaps(rng: random.Random, words: Words) -> Row:
    """Swap the two people, and undo what they do."""
    (one, other), act = rng.sample(words.names, 2), rng.choice(words.acts)
    return f"{one} is {act} {other}.\n", f" {other} is {words.opposite[act]} {one}"


def _sums(rng: random.Random, words: Words) -> Row:
    """Add two numbers, and copy who counts."""
    one, other = rng.randint(1, 5), rng.randint(1, 5)
    name, thing = rng.choice(words.names), rng.choice(_things(words))
    return f"{name}: {one} + {other} {thing}\n", f" {name} {one + other}"


def _remarks(rng: random.Random, words: Words) -> Row:
    """The same as `opposites`, after a remark that nobody can predict: two names.

    The loss counts every token of the remark; who reads the answer does not mind it.
    """
    name, quality, thing = rng.choice(words.names), rng.choice(words.qualities), rng.choice(_things(words))
    remark = " ".join(rng.sample(words.names, 2))
    return f"{name}: {quality} {thing}\n", f" {remark}: {words.opposite[quality]} {thing}"


def _things(words: Words) -> tuple[str, ...]:
    return tuple(thing for members in words.things.values() for thing in members)


TASKS: Mapping[str, Callable[[random.Random, Words], Row]] = {
    "fields": _fields,
    "opposites": _opposites,
    "swaps": _swaps,
    "sums": _sums,
    "remarks": _remarks,
}


_ANSWER_AFTER_REMARK = r": (.+)"


def metric_requests(task: str) -> list[MetricRequest]:
    """Return the metrics of a task, in the order of `METRICS`."""
    right = (
        MetricRequest(RIGHT, "regex", {"pattern": _ANSWER_AFTER_REMARK})
        if task == "remarks"
        else MetricRequest(RIGHT, "exact_match")
    )
    return [right, MetricRequest("token_f1", "token_f1")]


@dataclass(frozen=True)
class TextRecipe:
    """One fine-tuning run.

    `data_seed` draws the examples, so that runs with the same one compete on the same data. `noise`
    is the share of the training examples that have the completion of another one.
    """

    id: str
    task: str
    train: int
    valid: int
    epochs: int
    learning_rate: float
    noise: float
    seed: int
    data_seed: int
    batch_size: int = 8
    further: Mapping[str, Any] | None = None

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """What the request says."""
        own = {"n_epochs": self.epochs, "batch_size": self.batch_size, "learning_rate": self.learning_rate}
        return {**own, **(self.further or {})}


@dataclass(frozen=True)
class TextRun:
    """A finished run: the measurements that its record keeps, and the oracle's.

    `oracle` has the values of each metric, of the base model first and then of each evaluation.
    `oracle_errors` has, for the evaluations `later` and `earlier` (at `[later][earlier]`), the
    standard error of the difference of their values: the same examples at both.
    """

    recipe: TextRecipe
    measurements: tuple[Measured, ...]
    oracle: Mapping[str, tuple[float, ...]]
    oracle_errors: Mapping[str, tuple[tuple[float, ...], ...]]

    @property
    def evaluations(self) -> tuple[Measured, ...]:
        """The base model's evaluation, and those after each epoch."""
        return tuple(measured for measured in self.measurements if measured.scope == "evaluation")

    def curve(self, metric: str, best_by: Literal["metric", "loss"]) -> LearningCurve:
        """Return what a judge sees of the run.

        By `loss` is a sweep that minimises `valid_loss` and measures no task metric.
        """
        return LearningCurve.from_measurements(
            self.measurements,
            metric=f"valid_{metric}" if best_by == "metric" else None,
            train_examples=min(TRAIN_SAMPLE, self.recipe.train),
            valid_examples=self.recipe.valid,
            metric_examples=self.recipe.valid if best_by == "metric" else None,
            best_by=best_by,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values with four significant digits."""
        value = asdict(self)
        value["measurements"] = [
            [measured.scope, measured.step, measured.epoch, dict(measured.values)] for measured in self.measurements
        ]
        rounded: dict[str, Any] = _rounded(value)
        return rounded

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuild a run from the result of `to_json`."""
        return cls(
            TextRecipe(**value["recipe"]),
            tuple(Measured(step, epoch, values, scope) for scope, step, epoch, values in value["measurements"]),
            {name: tuple(series) for name, series in value["oracle"].items()},
            {name: tuple(map(tuple, rows)) for name, rows in value["oracle_errors"].items()},
        )


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return value


# -------------------------------------------------------------------------------------------- files
def read(path: Path) -> list[TextRun]:
    """Read the stored runs; none if there is no file.

    The file may consist of several parts that `append` wrote.
    """
    if not path.is_file():
        return []
    return [TextRun.from_json(json.loads(line)) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]


def append(run: TextRun, path: Path) -> None:
    """Add a run to a file, so that an interrupted collection loses nothing."""
    line = json.dumps(run.to_json(), separators=(",", ":")) + "\n"
    with path.open("ab") as file:
        file.write(gzip.compress(line.encode(), mtime=0))


def write(runs: Sequence[TextRun], path: Path) -> None:
    """Write all runs in the order of their ids, as small as possible."""
    ordered = sorted(runs, key=lambda run: run.recipe.id)
    text = "".join(json.dumps(run.to_json(), separators=(",", ":")) + "\n" for run in ordered)
    path.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))


# --------------------------------------------------------------------------------------------- runs
@contextmanager
def training_session() -> Iterator[Path]:
    """Keep the base model in memory, and generate in large batches, because the model is small.

    Yield a folder for the data files.
    """
    MODEL_CACHE.add_backend()
    rows = text_generation.MAX_ROWS["cpu"]
    text_generation.MAX_ROWS["cpu"] = ORACLE
    try:
        with tempfile.TemporaryDirectory(prefix="bench-text-") as folder:
            yield Path(folder)
    finally:
        text_generation.MAX_ROWS["cpu"] = rows
        MODEL_CACHE.remove_backend()


def train(recipe: TextRecipe, work: Path) -> TextRun:
    """Train by the recipe, and measure each epoch."""
    drawn = parts(recipe)
    train_file, valid_file = (_write(work, rows) for rows in drawn[:2])
    dataset = Dataset(train_file, valid_file, "completion")
    request = TrainingRequest(
        recipe.id,
        "builtin:tiny-lm",
        dataset,
        recipe.hyperparameters,
        recipe.seed,
        EvaluationSettings(1, TRAIN_SAMPLE),
    )
    options = LocalOptions(device="cpu")
    resolved = resolve(request, options)
    plan, trainable = run_setup.set_up_run(request, resolved, options, Placement())
    loop = training.TrainingLoop(plan, trainable, recipe.id, lambda files: None)
    template = ExampleTemplate(trainable.model.tokenizer, "completion", "")
    lines = [_line(row) for rows in drawn[1:] for row in rows]
    settings = generation.generation_settings(trainable.model, template, DECODING, resolved.max_length)
    prompts, _ = template.tokenize_prompts(lines, settings.max_prompt_tokens)
    measurements: list[Measured] = []
    truth: dict[str, list[tuple[float, ...]]] = {metric: [] for metric in METRICS}
    with MetricSet.open(metric_requests(recipe.task), work) as metrics:

        def measure(measured: Measured) -> None:
            answers = text_generation.generate(trainable.model, prompts, settings, is_out_of_memory)
            scores = metrics.measure([answer.text for answer in answers], lines).per_example
            visible = {f"valid_{metric}": statistics.fmean(scores[metric][: recipe.valid]) for metric in METRICS}
            measurements.append(Measured(measured.step, measured.epoch, {**measured.values, **visible}, "evaluation"))
            for metric in METRICS:
                truth[metric].append(scores[metric][recipe.valid :])

        try:
            measure(loop.evaluate())
            reports = []
            for event in (event for events in loop.events() for event in events):
                if isinstance(event, Measured) and event.scope == "evaluation":
                    measure(event)
                elif isinstance(event, Measured):
                    reports.append(event)
        finally:
            trainable.release()
    return TextRun(
        recipe,
        (*measurements, *thin_loop_reports(reports)),
        {metric: tuple(map(statistics.fmean, states)) for metric, states in truth.items()},
        {metric: _errors_of_differences(states) for metric, states in truth.items()},
    )


def _errors_of_differences(states: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    def error(one: Sequence[float], other: Sequence[float]) -> float:
        return statistics.stdev(a - b for a, b in zip(one, other, strict=True)) / len(one) ** 0.5

    return tuple(tuple(error(later, earlier) for earlier in states[:n]) for n, later in enumerate(states))


def parts(recipe: TextRecipe) -> list[list[Row]]:
    """Return the training, validation and oracle examples. No prompt occurs twice."""
    rng, words = random.Random(f"{recipe.task} {recipe.data_seed}"), words_of(*SPLITS)
    rows: dict[str, str] = {}
    while len(rows) < recipe.train + recipe.valid + ORACLE:
        rows.update([TASKS[recipe.task](rng, words)])
    drawn = list(rows.items())
    train_rows, rest = drawn[: recipe.train], drawn[recipe.train :]
    completions = [completion for _, completion in train_rows]
    noisy = [
        (prompt, rng.choice(completions) if rng.random() < recipe.noise else completion)
        for prompt, completion in train_rows
    ]
    return [noisy, rest[: recipe.valid], rest[recipe.valid :]]


def _line(row: Row) -> dict[str, str]:
    return {"prompt": row[0], "completion": row[1]}


def _write(directory: Path, rows: Sequence[Row]) -> DataFile:
    text = "".join(json.dumps({**_line(row), "segments": [row[0]]}) + "\n" for row in rows)
    digest = sha256(text.encode()).hexdigest()
    path = directory / f"{digest[:20]}.jsonl"
    path.write_text(text, encoding="utf-8")
    return DataFile(str(path), len(rows), digest)
