"""Does a sweep find a better model if it selects by what the models write?

    python -m benchmarks.search.by_metric             # the table from the stored runs
    python -m benchmarks.search.by_metric --write     # writes BY_METRIC.md, too
    python -m benchmarks.search.by_metric --collect   # trains the runs that are not stored yet

Each seed is one sweep over the same trials, with data and a seed of training of its own. The sweep
is decided twice: by `valid_loss`, and by the task metric. As in the trainer, what decides also
chooses the epoch that a trial keeps.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.fit import free_text
from benchmarks.fit.free_text import BestBy, kept
from benchmarks.fit.free_text_runs import METRICS, ORACLE, TextRecipe, TextRun, read
from benchmarks.search.run import interval

RUNS = Path(__file__).resolve().parent / "by_metric.jsonl.gz"
RESULTS = RUNS.with_name("BY_METRIC.md")
SEEDS = 10
TASK, TRAIN, VALID, NOISE = "opposites", 100, 150, 0.3

TRAINED: Mapping[str, Mapping[str, Any]] = {
    "rate 0.0005": {"learning_rate": 5e-4},
    "rate 0.001": {"learning_rate": 1e-3},
    "rate 0.001, prompt_loss_weight 0.3": {"learning_rate": 1e-3, "further": {"prompt_loss_weight": 0.3}},
    "rate 0.002": {"learning_rate": 2e-3},
    "rate 0.004": {"learning_rate": 4e-3},
}
"""The settings that are trained, by their names."""

EPOCHS = (5, 10)
"""The numbers of epochs of the trials. The schedule is constant, so that the run of 5 epochs is
exactly the beginning of that of 10."""


def recipes(seed: int) -> Iterator[TextRecipe]:
    """Yield the runs of one sweep."""
    for name, settings in TRAINED.items():
        yield TextRecipe(
            f"pool-{seed:02d}-{name}",
            TASK,
            train=TRAIN,
            valid=VALID,
            epochs=max(EPOCHS),
            noise=NOISE,
            seed=seed,
            data_seed=seed,
            **settings,
        )


@dataclass(frozen=True)
class Winner:
    """The selected trial, the epoch that it keeps, and the oracle's metric of that state."""

    settings: str
    epochs: int
    epoch: int
    truth: float

    def __str__(self) -> str:
        return f"{self.settings}, {self.epochs} epochs; keeps {self.epoch}"


def winner(runs: Sequence[TextRun], metric: str, best_by: BestBy) -> Winner:
    """Return what the sweep over these runs selects: the first of the best trials."""
    found: list[tuple[float, Winner]] = []
    for run in runs:
        for epochs in EPOCHS:
            epoch = kept(run, metric, best_by, epochs)
            values = run.evaluations[epoch].values
            score = values[f"valid_{metric}"] if best_by == "metric" else -values["valid_loss"]
            settings = run.recipe.id.split("-", 2)[2]
            found.append((score, Winner(settings, epochs, epoch, run.oracle[metric][epoch])))
    return max(found, key=lambda pair: pair[0])[1]


def sweeps_of(runs: Sequence[TextRun]) -> dict[int, list[TextRun]]:
    """Return the runs of each complete sweep, by seed, in the order of the trials."""
    by_id = {run.recipe.id: run for run in runs}
    wanted = {seed: [recipe.id for recipe in recipes(seed)] for seed in range(1, SEEDS + 1)}
    return {
        seed: [by_id[name] for name in names] for seed, names in wanted.items() if all(name in by_id for name in names)
    }


_HEAD = """# Selecting by what the model writes

`python -m benchmarks.search.by_metric --write` generates this page from {runs} real runs of the embedded model: {seeds}
sweeps over the same {trials} trials ({settings} settings with {epochs} epochs each), with data and a seed of their own.
The task is to copy a short text with the opposite of its adjective, from {train} training examples of which {noise:.0%}
have the completion of another one. Each sweep selects on {valid} validation examples, once by `valid_loss` and once by
the metric; what decides also chooses the epoch that a trial keeps. The truth is the metric of the selected state on
{oracle} further examples.
{machine}
"""


def tables(runs: Sequence[TextRun], machine: str) -> str:
    """Return the results as Markdown."""
    sweeps = sweeps_of(runs)
    lines = [
        _HEAD.format(
            runs=len(sweeps) * len(TRAINED),
            seeds=len(sweeps),
            trials=len(TRAINED) * len(EPOCHS),
            settings=len(TRAINED),
            epochs=" and ".join(map(str, EPOCHS)),
            train=TRAIN,
            valid=VALID,
            noise=NOISE,
            oracle=ORACLE,
            machine=machine,
        ),
        "| metric | sweeps that select another state | of these, the metric selects the better one | another trial | "
        "by the loss | by the metric | metric - loss |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for metric in METRICS:
        pairs = [(winner(own, metric, "loss"), winner(own, metric, "metric")) for own in sweeps.values()]
        differ = [(by_loss, by_metric) for by_loss, by_metric in pairs if by_loss != by_metric]
        better = sum(by_metric.truth > by_loss.truth for by_loss, by_metric in differ)
        other_trial = [(by_loss, by_metric) for by_loss, by_metric in differ if by_loss.settings != by_metric.settings]
        better_trial = sum(by_metric.truth > by_loss.truth for by_loss, by_metric in other_trial)
        mean, low, high = interval([by_metric.truth - by_loss.truth for by_loss, by_metric in pairs])
        lines.append(
            f"| {metric} | {len(differ)} of {len(pairs)} | {better} of {len(differ)} | "
            f"{better_trial} of {len(other_trial)} better | "
            f"{statistics.fmean(one.truth for one, _ in pairs):.3f} | "
            f"{statistics.fmean(two.truth for _, two in pairs):.3f} | {mean:+.3f} ({low:+.3f} .. {high:+.3f}) |"
        )
    lines += [
        "",
        f"## Sweep by sweep, {METRICS[0]}",
        "",
        "| seed | selected by valid_loss | truth | selected by the metric | truth |",
        "|---:|---|---:|---|---:|",
    ]
    for seed, own in sweeps.items():
        one, two = winner(own, METRICS[0], "loss"), winner(own, METRICS[0], "metric")
        lines.append(f"| {seed} | {one} | {one.truth:.3f} | {two} | {two.truth:.3f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table, or train the missing runs first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collect", action="store_true", help="train the runs that are not stored yet")
    parser.add_argument("--write", action="store_true", help="write BY_METRIC.md")
    options = parser.parse_args()
    if options.collect:
        free_text.collect([recipe for seed in range(1, SEEDS + 1) for recipe in recipes(seed)], RUNS)
    machine = measure.machine()
    packages = machine["packages"]
    text = tables(read(RUNS), f"{machine['cpu']}, torch {packages['torch']}, revision {machine['revision']}.")
    print(text)
    if options.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
