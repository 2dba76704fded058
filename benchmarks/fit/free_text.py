"""Verdicts on runs whose answers are free text: do loss, metric and oracle agree?

    python -m benchmarks.fit.free_text             # tables from the stored runs
    python -m benchmarks.fit.free_text --write     # writes FREE_TEXT.md, too
    python -m benchmarks.fit.free_text --collect   # trains the runs that are not stored yet

Every run is judged twice: by its task metric, as in a sweep that maximises it, and by its
validation loss alone, as in a sweep that measures no task metric. The truth comes from the oracle's
examples, and a difference of two states counts beyond two standard errors of that difference.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from backends.training_logs.learning_curve import LearningCurve
from benchmarks import measure
from benchmarks.fit import free_text_runs
from benchmarks.fit.free_text_runs import METRICS, ORACLE, TASKS, TextRecipe, TextRun
from benchmarks.fit.stopping import StopRule, by_verdict
from sweeps.verdicts.advice import Advice
from sweeps.verdicts.judge import judge
from sweeps.verdicts.verdict import VerdictKind

RUNS = Path(__file__).resolve().parent / "free_text.jsonl.gz"
RESULTS = RUNS.with_name("FREE_TEXT.md")
COUNT = 48
"""The number of runs with settings of their own. The pool of `benchmarks.search.by_metric` adds
more."""

CLEAR = 2.0
"""The number of standard errors beyond which two states differ."""

MIN_FALL = 0.05
"""Answers that end five points below their best overfit."""

PATIENCE = 2

Truth: TypeAlias = Literal["overfits", "between", "fine"]

TASK_NAMES = ("fields", "opposites", "swaps", "sums")

ON_NOISE: tuple[dict[str, Any], ...] = (
    {"learning_rate": 5e-4},
    {"learning_rate": 1e-3},
    {"learning_rate": 1e-3, "further": {"prompt_loss_weight": 0.3}},
    {"learning_rate": 2e-3},
    {"learning_rate": 4e-3},
    {"learning_rate": 1e-3, "batch_size": 4},
    {"learning_rate": 2e-3, "batch_size": 16},
)
FAST_RATE = 0.003
"""With remarks, and too high for the pool of `benchmarks.search.by_metric`."""


SEEN = ("noisy-", "text-001", "text-002", "text-006", "pool-01", "pool-02", "pool-03", "fast-")
"""The beginnings of the ids of the runs that existed when `sweeps.verdicts.features.LEVEL` was
chosen."""

BestBy: TypeAlias = Literal["metric", "loss"]


def recipes() -> Iterator[TextRecipe]:
    """Yield the runs in a fixed order: drawn settings, then chosen ones on noisy examples."""
    for number in range(COUNT):
        rng, task = random.Random(f"free text {number}"), TASK_NAMES[number % len(TASK_NAMES)]
        yield TextRecipe(
            f"text-{number:03d}",
            task,
            train=rng.choice((50, 80, 120)),
            valid=rng.choice((100, 150, 200)),
            epochs=rng.choice((8, 10, 12)),
            learning_rate=round(8e-4 * 4 ** rng.random(), 5),
            noise=rng.choice((0.0, 0.15, 0.3, 0.45)),
            seed=1000 + number,
            data_seed=1000 + number,
            batch_size=rng.choice((4, 8)),
        )
    for seed, (nth, settings) in product((1, 2), enumerate(ON_NOISE)):
        yield TextRecipe(
            f"noisy-{seed}-{nth}", "opposites", train=100, valid=150, epochs=10, noise=0.3, seed=seed, data_seed=seed,
            **settings,
        )  # fmt: skip
    for seed in range(1, 5):
        yield TextRecipe(
            f"fast-{seed}", "remarks", train=120, valid=100, epochs=12, learning_rate=FAST_RATE, noise=0.0,
            seed=seed, data_seed=seed,
        )  # fmt: skip


# ------------------------------------------------------------------------------------------ truth
def kept(run: TextRun, metric: str, best_by: BestBy, evaluations: int | None = None) -> int:
    """Return the evaluation whose state the trainer keeps: the first of the best visible ones.

    Only the first `evaluations` count, without the base model's, which is number 0.
    """
    visible = [measured.values for measured in run.evaluations[1:]][:evaluations]
    values = [scores[f"valid_{metric}"] if best_by == "metric" else -scores["valid_loss"] for scores in visible]
    return 1 + values.index(max(values))


def is_better(run: TextRun, metric: str, one: int, other: int) -> bool:
    """Return whether the oracle finds the state of evaluation `one` clearly better."""
    values, errors = run.oracle[metric], run.oracle_errors[metric]
    if one == other:
        return False
    return values[one] - values[other] > CLEAR * errors[max(one, other)][min(one, other)]


def best_of(run: TextRun, metric: str) -> int:
    """Return the evaluation that the oracle finds best, without the base model's."""
    values = run.oracle[metric]
    return max(range(1, len(values)), key=lambda evaluation: values[evaluation])


def truth(run: TextRun, metric: str) -> Truth:
    """Return whether the answers ended worse than they had been.

    `between`: clearly worse, but by less than `MIN_FALL`, as a single unlucky epoch can be.
    """
    best, last = best_of(run, metric), len(run.oracle[metric]) - 1
    if not is_better(run, metric, best, last):
        return "fine"
    return "overfits" if run.oracle[metric][best] - run.oracle[metric][last] >= MIN_FALL else "between"


# ---------------------------------------------------------------------------------------- questions
@dataclass(frozen=True)
class Epochs:
    """How much of the oracle's metric the kept epoch loses, on average and in clear cases.

    `other_epoch` is the share of runs in which the kept epoch is not the oracle's best, and
    `clearly_worse` that in which it is clearly worse than it. `lost` is the mean difference.
    """

    other_epoch: float
    clearly_worse: float
    lost: float


def measure_epochs(runs: Sequence[TextRun], metric: str, best_by: BestBy) -> Epochs:
    """Compare the kept epochs with those that the oracle finds best."""
    pairs = [(run, kept(run, metric, best_by), best_of(run, metric)) for run in runs]
    return Epochs(
        statistics.fmean(own != best for _, own, best in pairs),
        statistics.fmean(is_better(run, metric, best, own) for run, own, best in pairs),
        statistics.fmean(run.oracle[metric][best] - run.oracle[metric][own] for run, own, best in pairs),
    )


@dataclass(frozen=True)
class Calls:
    """How many runs of each truth there are, and how many of them have the verdict `overfit`."""

    runs: Mapping[Truth, int]
    called: Mapping[Truth, int]


def measure_calls(runs: Sequence[TextRun], metric: str, best_by: BestBy) -> Calls:
    """Judge all runs."""
    runs_by_truth = Counter(truth(run, metric) for run in runs)
    called = Counter(
        truth(run, metric) for run in runs if judge(run.curve(metric, best_by), Advice()).kind is VerdictKind.OVERFIT
    )
    return Calls(runs_by_truth, called)


@dataclass(frozen=True)
class Stops:
    """Stopped runs, the share of epochs that this saves, and what it misses.

    `missed` counts the runs with a later state whose answers the oracle finds clearly better than
    those of the state kept at the stop; `lost` is the mean over all runs of the oracle's metric
    that the stop costs the kept state.
    """

    stopped: int
    saved: float
    missed: int
    lost: float


def stop_of(run: TextRun, curve: LearningCurve, stops: StopRule) -> int | None:
    """Return the number of evaluations after which the rule stops the run; None if it does not."""
    counts = range(1, len(curve.points))
    return next(
        (at for at in counts if stops(dataclasses.replace(curve, points=curve.points[:at], ended="complete"))), None
    )


def measure_stops(runs: Sequence[TextRun], metric: str, best_by: BestBy, stops: StopRule) -> Stops:
    """Replay all runs. The state with the best metric is kept, whatever stops the run."""
    at = [stop_of(run, run.curve(metric, best_by), stops) for run in runs]
    stopped = [(run, end) for run, end in zip(runs, at, strict=True) if end is not None]
    lengths = [len(run.evaluations) - 1 for run in runs]
    saved = sum(len(run.evaluations) - 1 - end for run, end in stopped) / sum(lengths)
    lost = [
        run.oracle[metric][kept(run, metric, "metric")] - run.oracle[metric][kept(run, metric, "metric", end)]
        for run, end in stopped
    ]
    return Stops(
        len(stopped), saved, sum(missed_later(run, metric, end) for run, end in stopped), sum(lost) / len(runs)
    )


def missed_later(run: TextRun, metric: str, end: int) -> bool:
    """Return whether a state after `end` evaluations answers clearly better than the kept one."""
    own = kept(run, metric, "metric", end)
    return any(is_better(run, metric, later, own) for later in range(end + 1, len(run.oracle[metric])))


def by_patience(curve: LearningCurve) -> bool:
    """Stop after `PATIENCE` evaluations without a new best value of what decides."""
    by_metric = curve.best_by == "metric"
    known = [point.valid_metric if by_metric else point.valid_loss for point in curve.points]
    values = [(value if by_metric else -value) for value in known if value is not None]
    return bool(values) and len(values) - 1 - values.index(max(values)) >= PATIENCE


# ------------------------------------------------------------------------------------------- tables
_HEAD = """# Verdicts on free text

`python -m benchmarks.fit.free_text --write` generates this page from {runs} real runs of the embedded model
({tasks}): {train} training examples, {valid} validation examples, {epochs} epochs, learning rates from {low:g} to
{high:g}, and up to {noise:.0%} of the training examples with the completion of another one. The metrics are measured
after each epoch on all validation examples, and for the truth on {oracle} further examples (*oracle*). A difference
counts if it exceeds two standard errors.
{machine}
"""


def tables(runs: Sequence[TextRun], machine: str) -> str:
    """Return the results as Markdown."""
    recipes = [run.recipe for run in runs]

    def span(values: Sequence[int]) -> str:
        return f"{min(values)} to {max(values)}"

    counts = {task: sum(recipe.task == task for recipe in recipes) for task in TASKS}
    text = _HEAD.format(
        runs=len(runs),
        tasks=", ".join(f"{count} {task}" for task, count in counts.items() if count),
        train=span([recipe.train for recipe in recipes]),
        valid=span([recipe.valid for recipe in recipes]),
        epochs=span([recipe.epochs for recipe in recipes]),
        low=min(recipe.learning_rate for recipe in recipes),
        high=max(recipe.learning_rate for recipe in recipes),
        noise=max(recipe.noise for recipe in recipes),
        oracle=ORACLE,
        machine=machine,
    )
    return "\n".join([text, _epochs_table(runs), _calls_table(runs), _stops_table(runs)])


def _epochs_table(runs: Sequence[TextRun]) -> str:
    lines = [
        "## The epoch to keep\n",
        "*Lost*: the oracle's metric at its best epoch minus that at the kept one (mean over runs). The oracle's own "
        "noise makes its best epoch look too good, equally for both ways.\n",
        "| metric | kept by | another epoch than the best | clearly worse than the best | lost |",
        "|---|---|---:|---:|---:|",
    ]
    for metric in METRICS:
        for best_by in _WAYS:
            result = measure_epochs(runs, metric, best_by)
            lines.append(
                f"| {metric} | {_name(metric, best_by)} | {result.other_epoch:.0%} | {result.clearly_worse:.0%} | "
                f"{result.lost:.3f} |"
            )
    return "\n".join(lines) + "\n"


def _calls_table(runs: Sequence[TextRun]) -> str:
    lines = [
        "## The verdict `overfit`\n",
        "A run *overfits* if its answers ended clearly worse than they were at their best epoch, by at least "
        f"{MIN_FALL:g}. It is *fine* if they did not end clearly worse; the others lie *between*.\n",
        "| runs | metric | judged by | called overfit: of those that overfit | of those between | of those that are "
        "fine |",
        "|---|---|---|---:|---:|---:|",
    ]
    unseen = [run for run in runs if not run.recipe.id.startswith(SEEN)]
    for name, group in (("all", runs), ("made after the last change of a rule", unseen)):
        for metric in METRICS:
            for best_by in _WAYS:
                calls = measure_calls(group, metric, best_by)
                shares = " | ".join(f"{calls.called[kind]} of {calls.runs[kind]}" for kind in get_args(Truth))
                lines.append(f"| {name} ({len(group)}) | {metric} | {_name(metric, best_by)} | {shares} |")
    return "\n".join(lines) + "\n"


def _stops_table(runs: Sequence[TextRun]) -> str:
    lines = [
        "## Early stopping\n",
        "Each run is replayed epoch by epoch until the rule stops it. *Missed*: a later state answers clearly better "
        "than the kept one, which is that with the best metric so far. *Lost*: what the stops cost the kept state, "
        f"mean over all {len(runs)} runs.\n",
        "| metric | stopped by | runs stopped | epochs saved | better state missed | lost |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for metric in METRICS:
        for rule, stops in _RULES.items():
            for best_by in _WAYS:
                result = measure_stops(runs, metric, best_by, stops)
                lines.append(
                    f"| {metric} | {rule}, {_name(metric, best_by)} | {result.stopped} | {result.saved:.0%} | "
                    f"{result.missed} | {result.lost:.3f} |"
                )
    return "\n".join(lines) + "\n"


_WAYS: tuple[BestBy, ...] = ("loss", "metric")
_RULES: dict[str, Callable[[LearningCurve], bool]] = {"verdict": by_verdict, f"patience {PATIENCE}": by_patience}


def _name(metric: str, best_by: BestBy) -> str:
    return metric if best_by == "metric" else "valid_loss"


def stored_runs() -> list[TextRun]:
    """Return all stored runs: those with settings of their own, and the pool of the search."""
    from benchmarks.search import by_metric

    return [*free_text_runs.read(RUNS), *free_text_runs.read(by_metric.RUNS)]


def collect(wanted: Sequence[TextRecipe], path: Path) -> None:
    """Train what is not stored yet, and store each run at once."""
    known = {run.recipe.id for run in free_text_runs.read(path)}
    with free_text_runs.training_session() as work:
        for recipe in wanted:
            if recipe.id not in known:
                free_text_runs.append(run := free_text_runs.train(recipe, work), path)
                print(recipe.id, recipe.task, [round(value, 2) for value in run.oracle[METRICS[0]]], flush=True)
    free_text_runs.write(free_text_runs.read(path), path)


def main() -> None:
    """Print the tables, or train the missing runs first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collect", action="store_true", help="train the runs that are not stored yet")
    parser.add_argument("--write", action="store_true", help="write FREE_TEXT.md")
    options = parser.parse_args()
    if options.collect:
        collect(list(recipes()), RUNS)
    machine = measure.machine()
    text = tables(
        stored_runs(), f"{machine['cpu']}, torch {machine['packages']['torch']}, revision {machine['revision']}."
    )
    print(text)
    if options.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
