"""Make the learning curves: run every recipe, screen the runs by the oracle, share them out, write curves.jsonl.gz.

    python -m benchmarks.fit.collect --work DIR [--share 0.1] [--families torch,sklearn,local] [--generation 2]

Candidates are kept in DIR by family and generation. What is there is not run again, so that an interrupted collection
goes on, and a finished one is only screened anew. A family whose recipes have changed needs its file deleted. Of the
families and generations of which DIR has no file, the committed curves stay, screened anew.
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
from benchmarks.fit.recipes import Recipe
from benchmarks.fit.records import CURVES, Record
from benchmarks.fit.screening import objection
from benchmarks.fit.showing import shown
from benchmarks.fit.sklearn_runs import BoostedLearner, SteppedLearner
from benchmarks.fit.torch_runs import TorchLearner, TorchSettings
from benchmarks.fit.tracing import Learner, curve_of, follow, oracle_of

SUMMARY = CURVES.with_name("collected.json")
SAVED_EVERY = 10
RUNNING_SHARE = 5
"""Every fifth torch run shows the mean loss of its batches instead of a scored training sample."""


def run(recipe: Recipe) -> Record | None:
    """Train as the recipe says; None where the run broke down before its first evaluation."""
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
        running=recipe.family == "torch" and recipe.seed % RUNNING_SHARE == 0,
        ended=recipe.ended,
    )
    curve = shown(curve, recipe.cause, recipe.detail, recipe.seed)
    settings = {**asdict(recipe.settings), **recipe.data, "train": recipe.train, "seed": recipe.seed}
    return Record(
        recipe.id, recipe.family, recipe.dataset, recipe.cause, recipe.detail, curve, oracle_of(trace), settings
    )


def small(family: str, share: float, generation: int, known: Set[str]) -> Iterable[Record]:
    """Run the recipes of a family and a generation but those that are known."""
    for recipe in recipes.recipes(share, generation):
        if recipe.family == family and recipe.id not in known and (record := run(recipe)) is not None:
            yield record


def screened(candidates: Sequence[Record]) -> tuple[list[Record], dict[str, object]]:
    """Return the records that pass, with their splits, and in numbers what was left out."""
    kept, left_out = [], Counter[tuple[str, str]]()
    for each in candidates:
        why = objection(each)
        if why is None:
            kept.append(each)
        else:
            left_out[each.cause, why] += 1
    found = records.shared_out(kept)
    causes = {
        cause: {
            "candidates": sum(each.cause == cause for each in candidates),
            "kept": sum(each.cause == cause for each in kept),
            "no effect": sum(n for (of, why), n in left_out.items() if of == cause and why.startswith("no effect")),
            "between": sum(n for (of, why), n in left_out.items() if of == cause and why.startswith("between")),
            "not visible": sum(n for (of, why), n in left_out.items() if of == cause and why.startswith("not visible")),
        }
        for cause in records.CAUSES
    }
    details = Counter((each.cause, each.detail) for each in candidates)
    kept_details = Counter((each.cause, each.detail) for each in kept)
    return found, {
        "candidates": len(candidates),
        "kept": len(kept),
        "causes": causes,
        "details": {f"{c}: {d}": [kept_details[c, d], n] for (c, d), n in sorted(details.items())},
        "reasons": {f"{cause}: {why}": n for (cause, why), n in sorted(left_out.items())},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, required=True, help="directory for the candidates")
    parser.add_argument("--families", default="torch,sklearn,local", help="which to run; none: screen only")
    parser.add_argument("--generation", type=int, default=1, help="runs of another generation have other seeds")
    parser.add_argument("--share", type=float, help="an even share of the runs, for trying out")
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    for family in filter(None, options.families.split(",")):
        start, path = time.process_time(), options.work / f"{family}-{options.generation}.jsonl.gz"
        found = _candidates(path)
        before = len(found)
        for record in _family(family, options, {each.id for each in found}):
            found.append(record)
            if len(found) % SAVED_EVERY == 0:
                records.write(found, path)
        records.write(found, path)
        took = time.process_time() - start
        print(
            f"{family}: {len(found)} candidates, {len(found) - before} of them new, {took:.0f} CPU seconds", flush=True
        )
    kept, summary = screened(_with_committed(options.work))
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
    return small(family, options.share or recipes.SHARE, options.generation, known)


def _with_committed(work: Path) -> list[Record]:
    found = [each for path in sorted(work.glob("*-*.jsonl.gz")) for each in _candidates(path)]
    made = {(each.family, each.generation) for each in found}
    return found + [each for each in _candidates(CURVES) if (each.family, each.generation) not in made]


def _candidates(path: Path) -> list[Record]:
    return records.read(path) if path.is_file() else []


if __name__ == "__main__":
    main()
