"""`python -m benchmarks.run`: every measurement, its results as JSON and as tables. See README.md for the method."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import measure, noop, peers, report
from benchmarks.workloads import TRAIN_SAMPLE, Job, Workload, embedded, encoder
from sweeps.data import prepare
from sweeps.spec.loading import load

OURS = "sweep"
WAYS = (OURS, *peers.WAYS)
COMPARISONS = tuple((peer, OURS) for peer in peers.WAYS)
"""Pairs of ways, the one that should take longer first."""

_TIMEOUT_S = 900.0
_LOSS_TOLERANCE = 0.25
"""Final validation losses, averaged over the grid, differ at most by this share: only the examples' order differs."""

_CLEAN = {"MLFLOW_TRACKING_URI": "", "SWEEP_STORAGE": "", "RAY_ADDRESS": "", "RAY_USAGE_STATS_ENABLED": "0"}


class UnequalWorkError(Exception):
    """Two ways did not do the same work, so their times cannot be compared."""


@dataclass(frozen=True)
class Done:
    """What one run did, trial by trial in the order of the grid, and how long it took with and without start-up."""

    way: str
    trials: list[dict[str, Any]]
    process: measure.Measured
    seconds_without_start: float


# ----------------------------------------------------------------------------------------------------------- same work
def same_work(workload: Workload, rounds: int, ways: Sequence[str] = WAYS, threads: int = 0) -> dict[str, Any]:
    """Run all ways `rounds` times in turn and compare them; raises UnequalWorkError where their work differs."""
    runs: list[measure.Run] = []
    inner: list[measure.Run] = []
    done: list[Done] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        job = _prepared(workload, folder, threads)
        for number in range(rounds):
            before = measure.calibrate()
            for way in ways:
                one = _ours(workload, folder / f"root-{number}") if way == OURS else _peer(way, folder)
                after = measure.calibrate()
                runs.append(measure.Run(way, number, one.process.seconds, before, after))
                inner.append(replace(runs[-1], seconds=one.seconds_without_start))
                done.append(one)
                print(
                    f"  {workload.name} round {number + 1}: {way:10} {one.process.seconds:6.1f} s, without start-up"
                    f" {one.seconds_without_start:6.1f} s, calibration {before:.0f} -> {after:.0f} GFLOP/s",
                    flush=True,
                )
                before = after
            verify(done[-len(ways) :])
    comparisons = [pair for pair in COMPARISONS if set(pair) <= set(ways)]
    return {
        "workload": {
            "name": workload.name,
            "trials": workload.trials,
            "grid": dict(workload.grid),
            "task": workload.task,
        }
        | {name: value for name, value in workload.data.items() if name.endswith("_examples")}
        | {
            "train_sample": TRAIN_SAMPLE,
            "model": Path(str(workload.backend["model"])).name,
            "labels": len(job.labels),
            "sequential_threads": job.threads or "torch's default",
        },
        "runs": [asdict(each) for each in runs],
        "runs_without_start": [asdict(each) for each in inner],
        "ratios": [measure.ratios(runs, *pair).to_json() for pair in comparisons],
        "ratios_without_start": [measure.ratios(inner, *pair).to_json() for pair in comparisons],
        "processes": [{"way": each.way, **asdict(each.process)} for each in done],
        "work": {each.way: each.trials for each in done[: len(ways)]},
    }


def verify(done: Sequence[Done]) -> None:
    """Raise UnequalWorkError unless all did the same steps, examples and evaluations, and came out alike."""

    def amount(one: Done) -> list[tuple[str, int, int, int, int]]:
        return [
            (
                json.dumps(each["point"], sort_keys=True),
                each["steps"],
                each["examples"],
                each["evaluations"],
                each["scored"],
            )
            for each in one.trials
        ]

    def loss(one: Done) -> float:
        return statistics.fmean(each["valid_loss"] for each in one.trials)

    first = done[0]
    for other in done[1:]:
        for mine, theirs in zip(amount(first), amount(other), strict=True):
            if mine != theirs:
                raise UnequalWorkError(f"{first.way} did {mine}, {other.way} did {theirs}")
        if abs(loss(other) / loss(first) - 1) > _LOSS_TOLERANCE:
            raise UnequalWorkError(f"mean loss: {first.way} {loss(first):.3f}, {other.way} {loss(other):.3f}")


def _ordered(trials: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    as_numbers = [{**each, "point": {name: float(v) for name, v in each["point"].items()}} for each in trials]
    return sorted(as_numbers, key=lambda each: json.dumps(each["point"], sort_keys=True))


def _prepared(workload: Workload, folder: Path, threads: int = 0) -> Job:
    """Write the sweep file and the job; the peers read the files that a sweep prepares."""
    from backends.local import model_source

    file = folder / "sweep.yaml"
    file.write_text(workload.sweep_file(), encoding="utf-8")
    data = prepare(load(file).data, folder / "prepared", None).dataset
    model = model_source.find(str(workload.backend["model"])).directory
    job = Job(str(model), workload.task, data.train.path, data.valid.path, data.labels, data.stop, workload.grid)
    job = replace(job, threads=threads)
    job.write(folder / "job.json")
    return job


def _peer(way: str, folder: Path) -> Done:
    result = folder / "result.json"
    command = measure.python("-m", "benchmarks.peers", way, str(folder / "job.json"), str(result))
    process = measure.run_process(command, _TIMEOUT_S, _CLEAN)
    value = json.loads(result.read_text(encoding="utf-8"))
    return Done(way, _ordered(value["trials"]), process, value["seconds"])


def _ours(workload: Workload, root: Path) -> Done:
    """Run `sweep run` in a new folder: it prepares the data, makes its databases and starts Ray within the time."""
    output, file = root.with_suffix(".json"), root.parent / "sweep.yaml"
    command = measure.python("-m", "sweeps.cli", "--root", str(root), "run", str(file), "--json")
    process = measure.run_process(command, _TIMEOUT_S, _CLEAN, output)
    outcome = json.loads(output.read_text(encoding="utf-8"))
    trials = outcome["trials"]
    return Done(OURS, _ordered([_our_work(each) for each in trials]), process, outcome["seconds"])


def _our_work(trial: Mapping[str, Any]) -> dict[str, Any]:
    resolved, curve = trial["resolved"], [each for each in trial["curve"] if each["step"] > 0]
    if trial["state"] != "complete":
        raise UnequalWorkError(f"trial {trial['number']} ended as {trial['state']}: {trial['reason']}")
    sample = min(TRAIN_SAMPLE, resolved["training_examples"])
    return {
        "point": trial["hyperparameters"],
        "steps": curve[-1]["step"],
        "examples": round(curve[-1]["epoch"] * resolved["training_examples"]),
        "tokens": trial["spend"]["tokens"],
        "evaluations": len(curve),
        "scored": len(curve) * (resolved["validation_examples"] + sample),
        "valid_loss": curve[-1]["values"]["valid_loss"],
        "valid_accuracy": curve[-1]["values"]["valid_accuracy"],
    }


# ---------------------------------------------------------------------------------------------------------------- entry
def main() -> None:
    """Run what is asked for, and write results and tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of the embedded workload (default 5)")
    parser.add_argument("--encoder-rounds", type=int, default=3, help="of the encoder workload (default 3)")
    parser.add_argument(
        "--quick", action="store_true", help="one round, few examples, few no-op trials; writes nothing"
    )
    parser.add_argument("--model", type=Path, help="an encoder in the transformers layout, for the encoder workload")
    parser.add_argument("--data", type=Path, help="the directory of the official SNLI files, for the encoder workload")
    parser.add_argument("--embedded-model", type=Path, help="a language model instead of builtin:tiny-lm")
    parser.add_argument("--only", choices=("embedded", "encoder", "noop"), action="append")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--threads", type=int, default=0, help="of the sequential loop (default: torch's own)")
    parser.add_argument("--share", type=float, default=1.0, help="of the examples of a workload (default 1)")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(noop.SIZES), help="numbers of no-op trials")
    parser.add_argument("--results", type=Path, default=measure.REPOSITORY / "benchmarks" / "results")
    given = parser.parse_args()
    if (given.model is None) != (given.data is None):
        parser.error("--model and --data belong together")
    wanted = given.only or ["noop", "embedded", *(["encoder"] if given.model else [])]
    if "encoder" in wanted and given.model is None:
        parser.error("the encoder workload needs --model DIR and --data DIR")

    found: dict[str, dict[str, Any]] = {}
    machine = measure.machine()  # once: afterwards the load is our own
    for name in wanted:
        head = {"date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "machine": machine}
        if name == "noop":
            body = noop.benchmark((5, 20) if given.quick else given.sizes)
        else:
            workload = embedded() if name == "embedded" else encoder(given.model.resolve(), given.data.resolve())
            if name == "embedded" and given.embedded_model:
                workload = replace(workload, backend={"model": str(given.embedded_model.resolve())})
            rounds = given.rounds if name == "embedded" else given.encoder_rounds
            share, rounds = (0.25, 1) if given.quick else (given.share, rounds)
            body = same_work(workload.scaled(share), rounds, given.ways, given.threads)
        found[name] = {**head, **body}
        if not given.quick:
            given.results.mkdir(exist_ok=True)
            (given.results / f"{name}.json").write_text(json.dumps(found[name], indent=1) + "\n", encoding="utf-8")
    if given.quick:
        print(report.tables(found))
    else:
        report.write(given.results)


if __name__ == "__main__":
    main()
