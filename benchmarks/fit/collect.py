"""Make the learning curves: run every recipe, screen the runs by the oracle, share them out, write curves.jsonl.gz.

    python -m benchmarks.fit.collect --work DIR [--share 0.1] [--families torch,sklearn,local] [--data SMS_SPAM_CSV]

Candidates are kept in DIR by family, so that one family can be made anew, and screened anew without any run.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
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
RUNNING_SHARE = 5
"""Every fifth torch run shows the mean loss of its batches instead of a scored training sample."""


def run(recipe: Recipe, sms: Path | None = None) -> Record | None:
    """Train as the recipe says; None where the run broke down before its first evaluation."""
    data = datasets.draw(recipe.dataset, recipe.seed, recipe.train, recipe.valid, sms=sms, **recipe.data)
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


def small(family: str, share: float, sms: Path | None, details: Sequence[str] | None) -> Iterable[Record]:
    """Run the recipes of a family, of some details only where there are any."""
    for recipe in recipes.recipes(share):
        if details and recipe.detail not in details:
            continue
        if recipe.family == family and (record := run(recipe, sms)) is not None:
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
    parser.add_argument("--families", default="torch,sklearn,local", help="which to run anew; none: screen only")
    parser.add_argument(
        "--details",
        type=lambda text: text.split(";"),
        help="only these details (a;b) are run anew, the other candidates stay",
    )
    parser.add_argument("--share", type=float, help="an even share of the runs, for trying out")
    parser.add_argument(
        "--data", type=Path, help="the SMS spam collection as CSV; without it that data set is left out"
    )
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    for family in filter(None, options.families.split(",")):
        start = time.process_time()
        path = options.work / f"{family}.jsonl.gz"
        kept = [each for each in _candidates(path) if options.details and each.detail not in options.details]
        made = list(_family(family, options))
        records.write([*kept, *made], path)
        print(f"{family}: {len(made)} candidates, {time.process_time() - start:.0f} CPU seconds", flush=True)
    candidates = [each for family in records.FAMILIES for each in _candidates(options.work / f"{family}.jsonl.gz")]
    kept, summary = screened(candidates)
    records.write(kept)
    SUMMARY.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(summary, indent=1))
    print(f"{len(kept)} records, {CURVES.stat().st_size / 2**20:.2f} MiB")


def _family(family: str, options: argparse.Namespace) -> Iterable[Record]:
    if family == "local":
        from benchmarks.fit import local_runs

        return local_runs.all_runs(options.share or 1.0, options.work)
    import torch

    torch.set_num_threads(1)
    return small(family, options.share or recipes.SHARE, options.data, options.details)


def _candidates(path: Path) -> list[Record]:
    return records.read(path) if path.is_file() else []


if __name__ == "__main__":
    main()
