"""`python -m benchmarks.run`: run the speed measurements and write JSON and tables.

README.md explains the method.
"""

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

from benchmarks import generation, measure, noop, peers, report
from benchmarks.workloads import TRAIN_SAMPLE, Job, Workload, embedded, encoder
from sweeps.data import prepare
from sweeps.spec.loading import load

OURS = "sweep"
WAYS = (OURS, *peers.WAYS)
COMPARISONS = tuple((peer, OURS) for peer in peers.WAYS)
"""Pairs of ways. The first of each pair should take longer."""

_TIMEOUT_S = 900.0
_LOSS_TOLERANCE = 0.25
"""The largest relative difference of mean final validation losses over the grid.

Only the order of examples differs.
"""

_CLEAN = {"MLFLOW_TRACKING_URI": "", "SWEEP_STORAGE": "", "RAY_ADDRESS": "", "RAY_USAGE_STATS_ENABLED": "0"}


class UnequalWorkError(Exception):
    """Two ways did not do the same work, so that their times are not comparable."""


@dataclass(frozen=True)
class WayResult:
    """One run of a way: the work of each trial in grid order, and the duration with and without
    start-up.
    """

    way: str
    trials: list[dict[str, Any]]
    process: measure.ProcessUsage
    seconds_without_start: float


# ---------------------------------------------------------------------------------------- same work
def same_work(workload: Workload, rounds: int, ways: Sequence[str] = WAYS, threads: int = 0) -> dict[str, Any]:
    """Run all ways `rounds` times in turn and compare them.

    Raises UnequalWorkError if their work differs.
    """
    runs: list[measure.TimedRun] = []
    runs_without_start: list[measure.TimedRun] = []
    way_results: list[WayResult] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        job = _prepare(workload, folder, threads)
        for number in range(rounds):
            before = measure.calibrate()
            for way in ways:
                result = _run_sweep(workload, folder / f"root-{number}") if way == OURS else _run_peer(way, folder)
                after = measure.calibrate()
                runs.append(measure.TimedRun(way, number, result.process.seconds, before, after))
                runs_without_start.append(replace(runs[-1], seconds=result.seconds_without_start))
                way_results.append(result)
                print(
                    f"  {workload.name} round {number + 1}: {way:10} {result.process.seconds:6.1f} s, without start-up"
                    f" {result.seconds_without_start:6.1f} s, calibration {before:.0f} -> {after:.0f} GFLOP/s",
                    flush=True,
                )
                before = after
            verify_equal_work(way_results[-len(ways) :])
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
        "runs": [asdict(run) for run in runs],
        "runs_without_start": [asdict(run) for run in runs_without_start],
        "ratios": [measure.ratios(runs, *pair).to_json() for pair in comparisons],
        "ratios_without_start": [measure.ratios(runs_without_start, *pair).to_json() for pair in comparisons],
        "processes": [{"way": result.way, **asdict(result.process)} for result in way_results],
        "work": {result.way: result.trials for result in way_results[: len(ways)]},
    }


def verify_equal_work(results: Sequence[WayResult]) -> None:
    """Raise UnequalWorkError unless all ways did the same steps, examples and evaluations, with
    similar losses.
    """

    def amount(result: WayResult) -> list[tuple[str, int, int, int, int]]:
        return [
            (
                json.dumps(trial["point"], sort_keys=True),
                trial["steps"],
                trial["examples"],
                trial["evaluations"],
                trial["scored"],
            )
            for trial in result.trials
        ]

    def loss(result: WayResult) -> float:
        return statistics.fmean(trial["valid_loss"] for trial in result.trials)

    first = results[0]
    for other in results[1:]:
        for first_amount, other_amount in zip(amount(first), amount(other), strict=True):
            if first_amount != other_amount:
                raise UnequalWorkError(f"{first.way} did {first_amount}, {other.way} did {other_amount}")
        if abs(loss(other) / loss(first) - 1) > _LOSS_TOLERANCE:
            raise UnequalWorkError(f"mean loss: {first.way} {loss(first):.3f}, {other.way} {loss(other):.3f}")


def _in_grid_order(trials: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    as_numbers = [{**trial, "point": {name: float(v) for name, v in trial["point"].items()}} for trial in trials]
    return sorted(as_numbers, key=lambda trial: json.dumps(trial["point"], sort_keys=True))


def _prepare(workload: Workload, folder: Path, threads: int = 0) -> Job:
    """Prepare the data as a sweep does.

    Write the sweep file and the job from which the peers read.
    """
    from backends.local import model_source

    file = folder / "sweep.yaml"
    file.write_text(workload.sweep_file(), encoding="utf-8")
    data = prepare(load(file).data, folder / "prepared", None).dataset
    model = model_source.find(str(workload.backend["model"])).directory
    job = Job(str(model), workload.task, data.train.path, data.valid.path, data.labels, data.stop, workload.grid)
    job = replace(job, threads=threads)
    job.write(folder / "job.json")
    return job


def _run_peer(way: str, folder: Path) -> WayResult:
    result = folder / "result.json"
    command = measure.python("-m", "benchmarks.peers", way, str(folder / "job.json"), str(result))
    process = measure.run_process(command, _TIMEOUT_S, _CLEAN)
    value = json.loads(result.read_text(encoding="utf-8"))
    return WayResult(way, _in_grid_order(value["trials"]), process, value["seconds"])


def _run_sweep(workload: Workload, root: Path) -> WayResult:
    """Run `sweep run` in a new folder.

    The time includes data preparation, new databases and the start of Ray.
    """
    output, file = root.with_suffix(".json"), root.parent / "sweep.yaml"
    command = measure.python("-m", "sweeps.cli", "--root", str(root), "run", str(file), "--json")
    process = measure.run_process(command, _TIMEOUT_S, _CLEAN, output)
    outcome = json.loads(output.read_text(encoding="utf-8"))
    trials = outcome["trials"]
    return WayResult(OURS, _in_grid_order([_sweep_work(trial) for trial in trials]), process, outcome["seconds"])


def _sweep_work(trial: Mapping[str, Any]) -> dict[str, Any]:
    resolved, curve = trial["resolved"], [evaluation for evaluation in trial["curve"] if evaluation["step"] > 0]
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


# -------------------------------------------------------------------------------------------- entry
def main() -> None:
    """Run the selected measurements, and write results and tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the embedded workload (default 5)")
    parser.add_argument("--encoder-rounds", type=int, default=3, help="rounds of the encoder workload (default 3)")
    parser.add_argument("--quick", action="store_true", help="one round, few examples, few no-op trials; write nothing")
    parser.add_argument("--model", type=Path, help="an encoder in the transformers layout, for the encoder workload")
    parser.add_argument("--data", type=Path, help="the directory of the official SNLI files, for the encoder workload")
    parser.add_argument("--embedded-model", type=Path, help="a language model instead of builtin:tiny-lm")
    parser.add_argument("--only", choices=("embedded", "encoder", "noop", "generation"), action="append")
    parser.add_argument(
        "--generators", nargs="+", default=["builtin:tiny-lm"], help="models of the generation benchmark"
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument(
        "--threads", type=int, default=0, help="of the sequential loop and of generation (default: torch's own number)"
    )
    parser.add_argument("--share", type=float, default=1.0, help="share of a workload's examples (default 1)")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(noop.SIZES), help="numbers of no-op trials")
    parser.add_argument("--results", type=Path, default=measure.REPOSITORY / "benchmarks" / "results")
    options = parser.parse_args()
    if (options.model is None) != (options.data is None):
        parser.error("give --model and --data together")
    selected = options.only or ["noop", "embedded", *(["encoder"] if options.model else [])]
    if "encoder" in selected and options.model is None:
        parser.error("the encoder workload needs --model DIR and --data DIR")

    results: dict[str, dict[str, Any]] = {}
    machine = measure.machine()  # only once: later the load would be our own
    for name in selected:
        head = {"date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "machine": machine}
        if name == "noop":
            body = noop.benchmark((5, 20) if options.quick else options.sizes)
        elif name == "generation":
            examples, rounds = (8, 1) if options.quick else (generation.EXAMPLES, generation.ROUNDS)
            body = generation.benchmark(options.generators, examples, generation.MAX_TOKENS, rounds, options.threads)
        else:
            workload = embedded() if name == "embedded" else encoder(options.model.resolve(), options.data.resolve())
            if name == "embedded" and options.embedded_model:
                workload = replace(workload, backend={"model": str(options.embedded_model.resolve())})
            rounds = options.rounds if name == "embedded" else options.encoder_rounds
            share, rounds = (0.25, 1) if options.quick else (options.share, rounds)
            body = same_work(workload.scaled(share), rounds, options.ways, options.threads)
        results[name] = {**head, **body}
        if not options.quick:
            options.results.mkdir(exist_ok=True)
            (options.results / f"{name}.json").write_text(json.dumps(results[name], indent=1) + "\n", encoding="utf-8")
    if options.quick:
        print(report.tables(results))
    else:
        report.write(options.results)


if __name__ == "__main__":
    main()
