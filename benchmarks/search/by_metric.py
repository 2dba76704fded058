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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measure
from benchmarks.fit import free_text
from benchmarks.fit.free_text import BestBy, kept
from benchmarks.fit.free_text_runs import METRICS, ORACLE, TextRecipe, TextRun, read
from benchmarks.search.run import interval

RUNS = Path(__file__).resolve().parent / "by_metric.jsonl.gz"
RESULTS = RUNS.with_name("BY_METRIC.md")
SEEDS = 13
TASK, TRAIN, VALID = "remarks", 120, 100

RATES = (0.001, 0.0015, 0.002)
"""The learning rates that are trained."""

EPOCHS = (4, 8, 12)
"""The numbers of epochs of the trials. The schedule is constant, so that a shorter run is
exactly the beginning of the longest."""


def recipes(seed: int) -> Iterator[TextRecipe]:
    """Yield the runs of one sweep."""
    for rate in RATES:
        yield TextRecipe(
            f"pool-{seed:02d}-{rate:g}",
            TASK,
            train=TRAIN,
            valid=VALID,
            epochs=max(EPOCHS),
            learning_rate=rate,
            noise=0.0,
            seed=seed,
            data_seed=seed,
        )


@dataclass(frozen=True)
class Winner:
    """The selected trial, the epoch that it keeps, and the oracle's metric of that state."""

    learning_rate: float
    epochs: int
    epoch: int
    truth: float

    @property
    def trial(self) -> tuple[float, int]:
        """The trial without the epoch that it keeps."""
        return self.learning_rate, self.epochs

    @property
    def state(self) -> tuple[float, int]:
        """The state of the weights: trials of the same rate pass through the same states."""
        return self.learning_rate, self.epoch

    def __str__(self) -> str:
        return f"{self.learning_rate:g}, {self.epochs} epochs; keeps {self.epoch}"


def winner(runs: Sequence[TextRun], metric: str, best_by: BestBy) -> Winner:
    """Return what the sweep over these runs selects: the first of the best trials."""
    found: list[tuple[float, Winner]] = []
    for run in runs:
        for epochs in EPOCHS:
            epoch = kept(run, metric, best_by, epochs)
            values = run.evaluations[epoch].values
            score = values[f"valid_{metric}"] if best_by == "metric" else -values["valid_loss"]
            found.append((score, Winner(run.recipe.learning_rate, epochs, epoch, run.oracle[metric][epoch])))
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
sweeps over the same {trials} trials (learning rates {rates}; {epochs} epochs), with data and a seed of their own. The
task is to write the opposite of an adjective and a copied noun after two names that nobody can predict, from {train}
training examples: *right* is the share of texts whose answer after the names is right. The loss counts the names, too.
Each sweep selects on {valid} validation examples, once by `valid_loss` and once by the metric; what decides also
chooses the epoch that a trial keeps. The truth is the metric of the selected state on {oracle} further examples.
{machine}
"""


def tables(runs: Sequence[TextRun], machine: str) -> str:
    """Return the results as Markdown."""
    sweeps = sweeps_of(runs)
    lines = [
        _HEAD.format(
            runs=len(sweeps) * len(RATES),
            seeds=len(sweeps),
            trials=len(RATES) * len(EPOCHS),
            rates=", ".join(f"{rate:g}" for rate in RATES),
            epochs=", ".join(map(str, EPOCHS)),
            train=TRAIN,
            valid=VALID,
            oracle=ORACLE,
            machine=machine,
        ),
        "| metric | sweeps that select another state | of these, the metric selects the better one | the same among "
        "sweeps that select another trial | by the loss | by the metric | metric - loss |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for metric in METRICS:
        pairs = [(winner(own, metric, "loss"), winner(own, metric, "metric")) for own in sweeps.values()]
        differ = [(by_loss, by_metric) for by_loss, by_metric in pairs if by_loss.state != by_metric.state]
        better = sum(by_metric.truth > by_loss.truth for by_loss, by_metric in differ)
        other_trial = [(by_loss, by_metric) for by_loss, by_metric in differ if by_loss.trial != by_metric.trial]
        better_trial = sum(by_metric.truth > by_loss.truth for by_loss, by_metric in other_trial)
        mean, low, high = interval([by_metric.truth - by_loss.truth for by_loss, by_metric in pairs])
        lines.append(
            f"| {metric} | {len(differ)} of {len(pairs)} | {better} of {len(differ)} | "
            f"{better_trial} of {len(other_trial)} | "
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
