"""`python -m benchmarks.search.chance`: how much the best of N single runs promises too much, and the finals too.

A pool of real runs is trained once: configurations of a well placed space, each with several seeds, every model scored
example by example on a large sample. Sweeps are then replayed from the pool: some of its configurations, a validation
set drawn from the sample, the best single run on it, and the product's own ranking of the finals. What a model is truly
worth is its accuracy on all examples of the sample that the validation set did not take.
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
from benchmarks.search.drive import DATA, driven
from benchmarks.search.run import BATCH, FINALS, SPACES, interval
from sweeps.execution import finals_scoring
from sweeps.spec.objective import Objective
from sweeps.study.finals import FinalsCandidate, rank

HERE = Path(__file__).resolve().parent
CONFIGURATIONS, SEEDS, SAMPLE = 20, 5, 3000
TRIALS = (4, 8, 16)
VALIDATION = (50, 150, 500)
ACCURACY = Objective(finals_scoring.ACCURACY, "maximize")

Bits = NDArray[np.bool_]


@dataclass(frozen=True)
class Pool:
    """Runs on one data set: `right` is (configurations, 1 + SEEDS, SAMPLE), `cost` the tokens of a run of each."""

    data_seed: int
    cost: tuple[float, ...]
    right: Bits


@dataclass(frozen=True)
class Replayed:
    """One replayed sweep: what was promised, and what is true, of the single run and of the finals' winner.

    `finals_true` is the mean over the winner's repetitions, which is what the product reports, and `selected_trial` that
    of the model which it hands over: the repetition that is best on the validation set.
    """

    data_seed: int
    single: float
    single_true: float
    finals: float
    finals_true: float
    selected_trial: float


def trained(data_seed: int) -> Pool:
    """Train the pool of one data set."""
    import torch

    torch.set_num_threads(1)
    with (
        tempfile.TemporaryDirectory(prefix="bench-chance-") as folder,
        driven(
            Path(folder),
            data_seed,
            {**SPACES["well placed"], **BATCH},
            data={"test_examples": SAMPLE},
            search={"sampler": "random", "trials": CONFIGURATIONS},
            finals={"candidates": CONFIGURATIONS, "seeds": SEEDS},
            steering="off",
        ) as ended,
    ):
        study, data = ended.study, ended.plan.data
        assert data.test is not None
        rows, cost = [], []
        for trial in study.search_trials:
            runs = [trial, *(each for each in study.repeats if each.repeat_of == trial.number)]
            models = [each.model for each in runs if each.model]
            if len(models) == 1 + SEEDS:  # a run that diverged has no model to be scored: its configuration is left out
                rows.append(finals_scoring.correct_answers(ended.backend, models, data.test, data.dataset))
                cost.append(float(trial.spend.tokens))
    return Pool(data_seed, tuple(cost), np.stack(rows))


def replayed(pool: Pool, trials: int, validation: int, draws: int) -> Iterator[Replayed]:
    """Replay `draws` sweeps of so many trials with a validation set of so many examples."""
    for draw in range(draws):
        random = np.random.default_rng([pool.data_seed, trials, validation, draw])
        chosen = random.choice(len(pool.cost), trials, replace=False)
        seen = np.zeros(pool.right.shape[2], dtype=np.bool_)
        seen[random.choice(seen.size, validation, replace=False)] = True
        runs = random.permuted(np.tile(np.arange(1 + SEEDS), (trials, 1)), axis=1)
        shown, true = pool.right[:, :, seen], pool.right[:, :, ~seen].mean(axis=2)
        searched = {int(c): float(shown[c, runs[n, 0]].mean()) for n, c in enumerate(chosen)}
        run_of = dict(zip(map(int, chosen), runs, strict=True))
        best = sorted(searched, key=lambda c: (-searched[c], c))[: FINALS["candidates"]]
        repeats = {c: run_of[c][1 : 1 + FINALS["seeds"]] for c in best}
        candidates = [
            FinalsCandidate(c, tuple(map(float, shown[c, repeats[c]].mean(axis=1))), pool.cost[c], shown[c, repeats[c]])
            for c in best
        ]
        result = rank(candidates, ACCURACY, searched, draw)
        of_winner = repeats[result.winner]
        standing = next(each for each in result.standings if each.number == result.winner)
        yield Replayed(
            pool.data_seed,
            searched[best[0]],
            float(true[best[0], run_of[best[0]][0]]),
            standing.mean,
            float(true[result.winner, of_winner].mean()),
            float(true[result.winner, of_winner[int(np.argmax(standing.values))]]),
        )


def table(pools: Sequence[Pool], draws: int, machine: Mapping[str, Any]) -> str:
    """Replay everything and return the results as Markdown."""
    runs = sum(pool.right.shape[0] * pool.right.shape[1] for pool in pools)
    spread = [pool.right.mean(axis=2) for pool in pools]
    luck = np.concatenate([each.std(axis=1, ddof=1) for each in spread])
    lines = [
        "# What chance adds to the best of N",
        "",
        f"Generated by `python -m benchmarks.search.chance` from {runs} real runs of the embedded model on "
        f"{DATA['train_examples']} pairs: {len(pools)} data sets, {sum(len(p.cost) for p in pools)} random "
        f"configurations of the well placed space, {1 + SEEDS} seeds each. A configuration's accuracy varies from "
        f"seed to seed with a standard deviation of {np.median(luck):.3f} (median). {draws} sweeps are replayed for "
        "each data set and row; intervals (95 %, bootstrap) are over data sets.",
        f"{machine['cpu']}, torch {machine['packages']['torch']}, revision {machine['revision']}.",
        "",
        "*Promised too much* is the score on the validation set less the accuracy on the examples that it did not "
        "take (both of one distribution): of the best single run, and of the finals' winner (mean over its "
        f"repetitions; {FINALS['candidates']} candidates, {FINALS['seeds']} seeds). *Removed* is the share that the "
        "finals take away, where there is something to remove beyond doubt. *Gained* is the true accuracy of the model "
        "that the finals hand over, less that of the best single run's model.",
        "",
        "| trials | validation examples | single run promises too much | finals promise too much | removed | gained |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for trials in TRIALS:
        for validation in VALIDATION:
            by_pool = [list(replayed(pool, trials, validation, draws)) for pool in pools]
            single = [float(np.mean([r.single - r.single_true for r in rows])) for rows in by_pool]
            finals = [float(np.mean([r.finals - r.finals_true for r in rows])) for rows in by_pool]
            gained = [float(np.mean([r.selected_trial - r.single_true for r in rows])) for rows in by_pool]
            a, b, c = interval(single), interval(finals), interval(gained)
            removed = f"{1 - b[0] / a[0]:.0%}" if a[1] > 0 else "-"
            lines.append(
                f"| {trials} | {validation} | {a[0]:+.3f} ({a[1]:+.3f} .. {a[2]:+.3f}) | "
                f"{b[0]:+.3f} ({b[1]:+.3f} .. {b[2]:+.3f}) | {removed} | "
                f"{c[0]:+.3f} ({c[1]:+.3f} .. {c[2]:+.3f}) |"
            )
    return "\n".join(lines) + "\n"


def store(folder: Path, pool: Pool) -> None:
    """Write a pool to `chance-SEED.npz`."""
    np.savez_compressed(
        folder / f"chance-{pool.data_seed}.npz",
        cost=np.array(pool.cost),
        right=np.packbits(pool.right, axis=2),
        examples=pool.right.shape[2],
    )


def stored(folder: Path) -> list[Pool]:
    """Return the pools that `store` wrote, by seed of the data."""
    found = []
    for path in folder.glob("chance-*.npz"):
        with np.load(path) as kept:
            right = np.unpackbits(kept["right"], axis=2, count=int(kept["examples"])).astype(np.bool_)
            found.append(Pool(int(path.stem.split("-")[1]), tuple(map(float, kept["cost"])), right))
    return sorted(found, key=lambda each: each.data_seed)


def main() -> None:
    """Train the pools that are not there yet, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search.chance", description=__doc__)
    parser.add_argument("--data-sets", type=int, default=4)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--results", type=Path, default=HERE)
    given = parser.parse_args()
    there = {pool.data_seed: pool for pool in stored(given.results)}
    missing = [seed for seed in range(1, given.data_sets + 1) if seed not in there]
    with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as processes:
        for pool in processes.map(trained, missing):
            store(given.results, pool)
            print(f"data set {pool.data_seed}: {pool.right.shape[0]} configurations", flush=True)
    text = table(stored(given.results), given.draws, measure.machine())
    (given.results / "CHANCE.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
