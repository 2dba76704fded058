"""Selection bias: how optimistic is the score of the best of N runs?

    python -m benchmarks.search.selection_bias

The benchmark trains a pool of real runs once: configurations of a well placed space, several seeds
per configuration. It scores every model example by example on a large sample. It then replays
sweeps from the pool: a choice of configurations, a validation set drawn from the sample, the best
single run on it, and the product's own ranking of the finals. A model's true quality is its
accuracy on all examples of the sample outside the validation set.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import measure
from benchmarks.search.label_answers import correct_answers
from benchmarks.search.run import BATCH, FINALS, SPACES, interval
from benchmarks.search.sweep_driver import DATA, finished_sweep
from sweeps.champions.answer_scoring import ACCURACY as VALID_ACCURACY
from sweeps.spec.objective import Objective
from sweeps.study.finals import FinalsCandidate, rank

HERE = Path(__file__).resolve().parent
CONFIGURATIONS, SEEDS, SAMPLE = 20, 5, 3000
TRIALS = (4, 8, 16)
VALIDATION = (50, 150, 500)
ACCURACY = Objective(VALID_ACCURACY, "maximize")

Bits = NDArray[np.bool_]


@dataclass(frozen=True)
class RunPool:
    """The runs on one data set.

    `correct` (configurations, 1 + SEEDS, SAMPLE) says which run answers which example correctly.
    `cost` holds the training tokens of one run of each configuration.
    """

    data_seed: int
    cost: tuple[float, ...]
    correct: Bits


@dataclass(frozen=True)
class ReplayedSweep:
    """One replayed sweep: validation score and true quality of the best single run and of the
    finals' winner.

    `finals_true` is the mean over the winner's repetitions, which the product reports.
    `selected_true` is the true quality of the model that the product selects: the repetition with
    the best validation score.
    """

    data_seed: int
    single: float
    single_true: float
    finals: float
    finals_true: float
    selected_true: float


def train_pool(data_seed: int) -> RunPool:
    """Train the pool of one data set."""
    import torch

    torch.set_num_threads(1)
    with (
        tempfile.TemporaryDirectory(prefix="bench-selection-bias-") as folder,
        finished_sweep(
            Path(folder),
            data_seed,
            {**SPACES["well placed"], **BATCH},
            data={"test_examples": SAMPLE},
            search={"sampler": "random", "trials": CONFIGURATIONS},
            finals={"candidates": CONFIGURATIONS, "seeds": SEEDS},
            steering="off",
        ) as finished,
    ):
        study, data = finished.study, finished.plan.data
        assert data.test is not None
        rows, cost = [], []
        for trial in study.search_trials:
            runs = [trial, *(repeat for repeat in study.repeats if repeat.repeat_of == trial.number)]
            models = [run.model for run in runs if run.model]
            if len(models) == 1 + SEEDS:  # a diverged run has no model; skip its configuration
                rows.append(correct_answers(finished.backend, models, data.test, data.dataset))
                cost.append(float(trial.spend.tokens))
    return RunPool(data_seed, tuple(cost), np.stack(rows))


def replay(pool: RunPool, trials: int, validation_examples: int, draws: int) -> Iterator[ReplayedSweep]:
    """Replay `draws` sweeps of `trials` trials with a validation set of `validation_examples`
    examples.
    """
    for draw in range(draws):
        random = np.random.default_rng([pool.data_seed, trials, validation_examples, draw])
        chosen = random.choice(len(pool.cost), trials, replace=False)
        in_validation = np.zeros(pool.correct.shape[2], dtype=np.bool_)
        in_validation[random.choice(in_validation.size, validation_examples, replace=False)] = True
        runs = random.permuted(np.tile(np.arange(1 + SEEDS), (trials, 1)), axis=1)
        validation = pool.correct[:, :, in_validation].astype(np.float64)
        true = pool.correct[:, :, ~in_validation].mean(axis=2)
        search_scores = {int(c): float(validation[c, runs[n, 0]].mean()) for n, c in enumerate(chosen)}
        run_of = dict(zip(map(int, chosen), runs, strict=True))
        best = sorted(search_scores, key=lambda c: (-search_scores[c], c))[: FINALS["candidates"]]
        repeats = {c: run_of[c][1 : 1 + FINALS["seeds"]] for c in best}
        candidates = [
            FinalsCandidate(
                c, tuple(map(float, validation[c, repeats[c]].mean(axis=1))), pool.cost[c], validation[c, repeats[c]]
            )
            for c in best
        ]
        result = rank(candidates, ACCURACY, search_scores, draw)
        winner_runs = repeats[result.winner]
        standing = next(standing for standing in result.standings if standing.number == result.winner)
        yield ReplayedSweep(
            pool.data_seed,
            search_scores[best[0]],
            float(true[best[0], run_of[best[0]][0]]),
            standing.mean,
            float(true[result.winner, winner_runs].mean()),
            float(true[result.winner, winner_runs[int(np.argmax(standing.values))]]),
        )


def table(pools: Sequence[RunPool], draws: int, machine: Mapping[str, Any]) -> str:
    """Replay all sweeps and return the results as Markdown."""
    runs = sum(pool.correct.shape[0] * pool.correct.shape[1] for pool in pools)
    accuracies = [pool.correct.mean(axis=2) for pool in pools]  # (configurations, 1 + SEEDS) each
    seed_deviation = np.concatenate([accuracy.std(axis=1, ddof=1) for accuracy in accuracies])
    lines = [
        "# Selection bias: the optimism of the best of N",
        "",
        f"`python -m benchmarks.search.selection_bias` generates this page from {runs} real runs of the embedded "
        f"model on {DATA['train_examples']} pairs: {len(pools)} data sets, "
        f"{sum(len(pool.cost) for pool in pools)} random configurations of the well placed space, and "
        f"{1 + SEEDS} seeds for each of them. A configuration's accuracy varies from seed to seed with a standard "
        f"deviation of {np.median(seed_deviation):.3f} (median). The benchmark replays {draws} sweeps for each data "
        "set and row. The 95 % bootstrap intervals are over data sets.",
        f"{machine['cpu']}, torch {machine['packages']['torch']}, revision {machine['revision']}.",
        "",
        "*Optimism* is the score on the validation set minus the accuracy on all other examples of the same "
        "distribution: for the best single run, and for the finals' winner (mean over its repetitions; "
        f"{FINALS['candidates']} candidates, {FINALS['seeds']} seeds). *Removed* is the share of the optimism that the "
        "finals remove, if the optimism is certainly above zero. *Gained* is the true accuracy of the model that the "
        "finals select minus that of the best single run's model.",
        "",
        "| trials | validation examples | optimism of the single run | optimism of the finals | removed | gained |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for trials in TRIALS:
        for validation in VALIDATION:
            by_pool = [list(replay(pool, trials, validation, draws)) for pool in pools]
            single = [float(np.mean([r.single - r.single_true for r in rows])) for rows in by_pool]
            finals = [float(np.mean([r.finals - r.finals_true for r in rows])) for rows in by_pool]
            gained = [float(np.mean([r.selected_true - r.single_true for r in rows])) for rows in by_pool]
            a, b, c = interval(single), interval(finals), interval(gained)
            removed = f"{1 - b[0] / a[0]:.0%}" if a[1] > 0 else "-"
            lines.append(
                f"| {trials} | {validation} | {a[0]:+.3f} ({a[1]:+.3f} .. {a[2]:+.3f}) | "
                f"{b[0]:+.3f} ({b[1]:+.3f} .. {b[2]:+.3f}) | {removed} | "
                f"{c[0]:+.3f} ({c[1]:+.3f} .. {c[2]:+.3f}) |"
            )
    return "\n".join(lines) + "\n"


def save_pool(folder: Path, pool: RunPool) -> None:
    """Write a pool to `pool-SEED.npz`."""
    np.savez_compressed(
        folder / f"pool-{pool.data_seed}.npz",
        cost=np.array(pool.cost),
        right=np.packbits(pool.correct, axis=2),
        examples=pool.correct.shape[2],
    )


def load_pools(folder: Path) -> list[RunPool]:
    """Return the pools that `save_pool` wrote, ordered by data seed."""
    pools = []
    for path in folder.glob("pool-*.npz"):
        with np.load(path) as arrays:
            correct = np.unpackbits(arrays["right"], axis=2, count=int(arrays["examples"])).astype(np.bool_)
            pools.append(RunPool(int(path.stem.split("-")[1]), tuple(map(float, arrays["cost"])), correct))
    return sorted(pools, key=lambda pool: pool.data_seed)


def main() -> None:
    """Train the missing pools and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search.selection_bias", description=__doc__)
    parser.add_argument("--data-sets", type=int, default=4)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--results", type=Path, default=HERE)
    options = parser.parse_args()
    known = {pool.data_seed for pool in load_pools(options.results)}
    missing = [seed for seed in range(1, options.data_sets + 1) if seed not in known]
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as processes:
        for pool in processes.map(train_pool, missing):
            save_pool(options.results, pool)
            print(f"data set {pool.data_seed}: {pool.correct.shape[0]} configurations", flush=True)
    text = table(load_pools(options.results), options.draws, measure.machine())
    (options.results / "SELECTION_BIAS.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
