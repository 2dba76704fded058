"""`python -m benchmarks.search.run`: measure steering, and finals against single runs.

Steering is measured in well and badly placed spaces.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure
from benchmarks.search.sweep_driver import DATA, SweepResult, run_sweep

HERE = Path(__file__).resolve().parent
TRIALS = 8
FINALS = {"candidates": 3, "seeds": 3}

BATCH = {"batch_size": [8, 16]}
SPACES: dict[str, dict[str, Any]] = {
    "well placed": {
        "n_epochs": {"low": 2, "high": 4},
        "learning_rate_multiplier": {"low": 0.05, "high": 0.3, "log": True},
    },
    "too few epochs": {
        "n_epochs": {"low": 1, "high": 2},
        "learning_rate_multiplier": {"low": 0.05, "high": 0.3, "log": True},
    },
    "rate ten times too small": {
        "n_epochs": {"low": 2, "high": 4},
        "learning_rate_multiplier": {"low": 0.005, "high": 0.03, "log": True},
    },
    "rate ten times too large": {
        "n_epochs": {"low": 2, "high": 4},
        "learning_rate_multiplier": {"low": 0.5, "high": 3.0, "log": True},
    },
}


def run_job(job: tuple[str, str, int]) -> dict[str, Any]:
    """Run one sweep. The job is a space's name, a mode (`off`, `act` or `finals`) and a seed."""
    import torch

    torch.set_num_threads(1)
    name, mode, seed = job
    started = time.perf_counter()
    sections: dict[str, Any] = {"steering": "off" if mode == "finals" else mode, "search": {"trials": TRIALS}}
    if mode == "finals":
        sections["finals"] = FINALS
    with tempfile.TemporaryDirectory(prefix="bench-search-") as folder:
        result = run_sweep(Path(folder), seed, {**SPACES[name], **BATCH}, score=mode == "finals", **sections)
    return {"space": name, "what": mode, "seed": seed, "seconds": time.perf_counter() - started, **_summary(result)}


def _summary(result: SweepResult) -> dict[str, Any]:
    finals = result.finals
    return {
        "best": result.best,
        "tokens": result.tokens,
        "changes": [change.text for change in result.changes],
        "best_test": result.best_test,
        "verdicts": [trial.verdict.kind.value if trial.verdict else None for trial in result.trials],
        "finals_mean": next((e.mean for e in finals.standings if e.number == finals.winner), None) if finals else None,
        "finals_test": finals.test[0] if finals is not None and finals.test is not None else None,
    }


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Return the mean and its 95 % bootstrap interval."""
    sample = np.asarray(values)
    draws = sample[np.random.default_rng(seed).integers(0, len(sample), (4000, len(sample)))].mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(sample.mean()), float(low), float(high)


def tables(results: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    by_job = {(result["space"], result["what"], result["seed"]): result for result in results}
    seeds = sorted({seed for _, _, seed in by_job})
    lines = [
        "# Benefit of a sweep's own decisions",
        "",
        "`python -m benchmarks.search.run` generates this page. It trains the embedded model on "
        f"{DATA['train_examples']} generated pairs: {TRIALS} trials per sweep, TPE, no scheduler, one trial at a time, "
        f"{len(seeds)} seeds (of data, sampler and training). The tables contain means with 95 % bootstrap intervals "
        "over seeds.",
        f"{machine['cpu']}, torch {machine['packages']['torch']}, optuna {machine['packages']['optuna']}, revision "
        f"{machine['revision']}.",
        "",
        "## Steering: best validation accuracy of the sweep",
        "",
        "| space | off | act | act - off | changes per sweep | tokens, act / off |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in SPACES:
        both = [s for s in seeds if (name, "off", s) in by_job and (name, "act", s) in by_job]
        pairs = [(by_job[name, "off", s], by_job[name, "act", s]) for s in both]
        if not pairs:
            continue
        off, act = ([pair[side]["best"] or 0.0 for pair in pairs] for side in (0, 1))
        change = interval([b - a for a, b in zip(off, act, strict=True)])
        moves = statistics.fmean(len(act_result["changes"]) for _, act_result in pairs)
        tokens = sum(b["tokens"] for _, b in pairs) / sum(a["tokens"] for a, _ in pairs)
        lines.append(
            f"| {name} | {statistics.fmean(off):.3f} | {statistics.fmean(act):.3f} | {change[0]:+.3f} "
            f"({change[1]:+.3f} .. {change[2]:+.3f}) | {moves:.1f} | {tokens:.2f} |"
        )
    finals = [result for result in results if result["what"] == "finals" and result["finals_test"] is not None]
    if finals:
        single = interval([final["best"] - final["best_test"] for final in finals])
        repeated = interval([final["finals_mean"] - final["finals_test"] for final in finals])
        gain = interval([final["finals_test"] - final["best_test"] for final in finals])
        lines += [
            "",
            "## Finals: the optimism of a validation score",
            "",
            f"In the well placed space, the best of {TRIALS} single runs competes with finals of "
            f"{FINALS['candidates']} candidates with {FINALS['seeds']} seeds each. Validation and test use different "
            "words and sentence patterns, so that part of each difference is the difficulty of the test. Both rows "
            "share that part; the difference "
            "between them comes from selection.",
            "",
            "| | validation - test |",
            "|---|---:|",
            f"| the best single run | {single[0]:+.3f} ({single[1]:+.3f} .. {single[2]:+.3f}) |",
            f"| the winner of the finals | {repeated[0]:+.3f} ({repeated[1]:+.3f} .. {repeated[2]:+.3f}) |",
            "",
            f"Test accuracy of the finals' winner minus that of the best single run: {gain[0]:+.3f} "
            f"({gain[1]:+.3f} .. {gain[2]:+.3f}).",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the selected jobs, and write results and tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search.run", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", choices=("steering", "finals"))
    parser.add_argument("--go-on", action="store_true", help="continue an interrupted run")
    parser.add_argument("--results", type=Path, default=HERE)
    options = parser.parse_args()
    jobs = [
        (name, mode, seed)
        for seed in range(1, options.seeds + 1)
        for name in SPACES
        for mode in ("off", "act", "finals")
        if (mode != "finals" or name == "well placed")
        and options.only in (None, "finals" if mode == "finals" else "steering")
    ]
    file = options.results / "results.json"
    body: dict[str, Any] = {"machine": measure.machine(), "results": []}
    if options.go_on:
        body = json.loads(file.read_text(encoding="utf-8"))
    finished_jobs = {(result["space"], result["what"], result["seed"]) for result in body["results"]}
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for result in pool.map(run_job, [job for job in jobs if job not in finished_jobs]):
            body["results"].append(result)
            body["date"] = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
            file.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
            head = f"  {result['space']:26} {result['what']:6} seed {result['seed']:2}"
            print(f"{head}: best {result['best']}, {result['seconds']:.0f} s", flush=True)
    (options.results / "RESULTS.md").write_text(tables(body["results"], body["machine"]), encoding="utf-8")


if __name__ == "__main__":
    main()
