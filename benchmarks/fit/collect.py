"""Create the learning curves: run all recipes, screen the runs, assign splits, write the curves.

python -m benchmarks.fit.collect --work DIR [--share 0.1] [--families torch,sklearn,local]
[--generation 2]

DIR keeps the candidates by family and generation. Runs that are already there are not repeated, so
that an interrupted collection continues and a finished one is only screened again. Delete a
family's file after its recipes change. For families and generations without a file in DIR, the
committed curves stay and are screened again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import asdict
from pathlib import Path

from benchmarks.fit import datasets, recipes, records
from benchmarks.fit.hidden_information import hide_information
from benchmarks.fit.recipes import Recipe
from benchmarks.fit.records import CURVES, Record
from benchmarks.fit.screening import objection
from benchmarks.fit.sklearn_runs import BoostedLearner, SteppedLearner
from benchmarks.fit.torch_runs import TorchLearner, TorchSettings
from benchmarks.fit.tracing import Learner, curve_of, follow, oracle_of

SUMMARY = CURVES.with_name("collected.json")
SAVE_INTERVAL = 10
BATCH_LOSS_EVERY = 5
"""Every fifth torch run shows the mean loss of its batches instead of a scored training sample."""


def run(recipe: Recipe) -> Record | None:
    """Train by the recipe. Return None if the run broke down before its first evaluation."""
    data = datasets.draw(recipe.dataset, recipe.seed, recipe.train, recipe.valid, **recipe.data)
    learner: Learner
    if isinstance(recipe.settings, TorchSettings):
        learner = TorchLearner(data, recipe.settings, recipe.evaluations, recipe.seed)
    elif recipe.settings.model == "boosting":
        learner = BoostedLearner(data, recipe.settings, recipe.evaluations + recipe.later, recipe.seed)
    else:
        learner = SteppedLearner(data, recipe.settings, recipe.seed)
    trace = follow(learner, recipe.evaluations, recipe.later, data.prior_loss)
    if not trace.states:
        return None
    curve = curve_of(
        trace,
        metric=None if data.classes is None else "accuracy",
        classes=data.classes,
        chance=data.chance,
        train_sample=256,
        use_batch_loss=recipe.family == "torch" and recipe.seed % BATCH_LOSS_EVERY == 0,
        ended=recipe.ended,
    )
    curve = hide_information(curve, recipe.cause, recipe.detail, recipe.seed)
    settings = {**asdict(recipe.settings), **recipe.data, "train": recipe.train, "seed": recipe.seed}
    return Record(
        recipe.id, recipe.family, recipe.dataset, recipe.cause, recipe.detail, curve, oracle_of(trace), settings
    )


def run_small_models(family: str, share: float, generation: int, known: Set[str]) -> Iterable[Record]:
    """Run the recipes of a family and a generation whose ids are not in `known`."""
    for recipe in recipes.recipes(share, generation):
        if recipe.family == family and recipe.id not in known and (record := run(recipe)) is not None:
            yield record


def screen(candidates: Sequence[Record]) -> tuple[list[Record], dict[str, object]]:
    """Return the records that pass, with their splits, and the numbers of rejected candidates."""
    kept, rejected = [], Counter[tuple[str, str]]()
    for candidate in candidates:
        reason = objection(candidate)
        if reason is None:
            kept.append(candidate)
        else:
            rejected[candidate.cause, reason] += 1
    split_records = records.assign_splits(kept)
    causes = {
        cause: {
            "candidates": sum(candidate.cause == cause for candidate in candidates),
            "kept": sum(record.cause == cause for record in kept),
            "no effect": _count(rejected, cause, "no effect"),
            "between": _count(rejected, cause, "between"),
            "not visible": _count(rejected, cause, "not visible"),
        }
        for cause in records.CAUSES
    }
    details = Counter((candidate.cause, candidate.detail) for candidate in candidates)
    kept_details = Counter((record.cause, record.detail) for record in kept)
    return split_records, {
        "candidates": len(candidates),
        "kept": len(kept),
        "causes": causes,
        "details": {f"{c}: {d}": [kept_details[c, d], n] for (c, d), n in sorted(details.items())},
        "reasons": {f"{cause}: {reason}": n for (cause, reason), n in sorted(rejected.items())},
    }


def _count(rejected: Counter[tuple[str, str]], cause: str, kind: str) -> int:
    return sum(n for (of_cause, reason), n in rejected.items() if of_cause == cause and reason.startswith(kind))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, required=True, help="the directory of the candidates")
    parser.add_argument("--families", default="torch,sklearn,local", help="families to run; empty: only screen")
    parser.add_argument("--generation", type=int, default=1, help="each generation has its own seeds")
    parser.add_argument("--share", type=float, help="an even share of the runs, for a trial run")
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    for family in filter(None, options.families.split(",")):
        start, path = time.process_time(), options.work / f"{family}-{options.generation}.jsonl.gz"
        candidates = _candidates(path)
        known = {candidate.id for candidate in candidates}
        for record in _family(family, options, known):
            candidates.append(record)
            if len(candidates) % SAVE_INTERVAL == 0:
                records.write(candidates, path)
        records.write(candidates, path)
        cpu_s, new = time.process_time() - start, len(candidates) - len(known)
        print(f"{family}: {len(candidates)} candidates, {new} of them new, {cpu_s:.0f} CPU seconds", flush=True)
    kept, summary = screen(_with_committed(options.work))
    records.write(kept)
    SUMMARY.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(summary, indent=1))
    print(f"{len(kept)} records, {CURVES.stat().st_size / 2**20:.2f} MiB")


def _family(family: str, options: argparse.Namespace, known: Set[str]) -> Iterable[Record]:
    if family == "local":
        from benchmarks.fit import local_runs

        return local_runs.all_runs(options.share or 1.0, options.generation, options.work, known)
    import torch

    torch.set_num_threads(1)
    return run_small_models(family, options.share or recipes.SHARE, options.generation, known)


def _with_committed(work: Path) -> list[Record]:
    candidates = [candidate for path in sorted(work.glob("*-*.jsonl.gz")) for candidate in _candidates(path)]
    collected = {(candidate.family, candidate.generation) for candidate in candidates}
    committed = _candidates(CURVES)
    return candidates + [record for record in committed if (record.family, record.generation) not in collected]


def _candidates(path: Path) -> list[Record]:
    return records.read(path) if path.is_file() else []


if __name__ == "__main__":
    main()
