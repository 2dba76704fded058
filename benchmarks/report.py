"""Tables of the speed results: RESULTS.md, generated from results/*.json."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_HEAD = """# Results

`python -m benchmarks.run` generates this page from `results/*.json`; `README.md` explains the method. A ratio is a
peer's time divided by our sweep's: above 1, our sweep is faster. It is the median over the accepted pairs, with the
range.
"""

_TITLES = {
    "noop": "The cost of a no-op trial",
    "embedded": "Same work, embedded: the built-in language model on generated pairs",
    "encoder": "Same work, real: an encoder on SNLI pairs",
    "generation": "Text generation: tokens per second",
}


def write(results: Path) -> Path:
    """Write RESULTS.md beside the folder `results` and return its path."""
    results_by_name = {
        name: json.loads(path.read_text()) for name in _TITLES if (path := results / f"{name}.json").is_file()
    }
    target = results.parent / "RESULTS.md"
    target.write_text(tables(results_by_name), encoding="utf-8")
    return target


def tables(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the text of RESULTS.md for results by name."""
    parts = [_HEAD]
    for name, result in results.items():
        parts += [f"## {_TITLES[name]}\n", _machine(result)]
        tables_of = {"noop": _noop, "generation": _generation}.get(name, _same_work)
        parts += tables_of(result)
    return "\n".join(parts)


def _machine(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    busy = machine["load_before"] > 0.5 * machine["cpus"]
    warning = " **The machine was busy with other work: these numbers are provisional.**" if busy else ""
    return (
        f"{result['date']}, revision {machine['revision']}, {machine['cpus']} x {machine['cpu']}, "
        f"{machine['memory_gib']} GiB, {machine['system']}, "
        f"Python {machine['python']}, {versions}; load average before: {machine['load_before']}.{warning}\n"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


# ---------------------------------------------------------------------------------------- same work
def _same_work(result: Mapping[str, Any]) -> list[str]:
    workload = result["workload"]
    grid = ", ".join(f"{name} {{{', '.join(f'{v:g}' for v in values)}}}" for name, values in workload["grid"].items())
    text = (
        f"{workload['trials']} trials ({grid}), model `{workload['model']}`, all weights, "
        f"{workload['train_examples']} training pairs. Each way scores {workload['valid_examples']} validation pairs "
        f"and up to {workload['train_sample']} training pairs after each epoch. "
        f"Threads of the sequential loop: {workload['sequential_threads']}.\n"
    )
    ways = list(result["work"])
    return [text, _times(result, ways), _ratios(result), _work(result, ways)]


def _times(result: Mapping[str, Any], ways: Sequence[str]) -> str:
    def of(key: str, way: str, field: str = "seconds") -> float:
        return float(statistics.median(run[field] for run in result[key] if run["way"] == way))

    rows = [
        (
            f"`{way}`",
            f"{of('runs', way):.1f}",
            f"{of('runs_without_start', way):.1f}",
            f"{of('processes', way, 'cpu_seconds'):.0f}",
            f"{of('processes', way, 'tree_peak_bytes') / 2**20:.0f}",
        )
        for way in ways
    ]
    return _table(("way (medians of all rounds)", "s", "s without start-up", "CPU s", "peak MiB, all processes"), rows)


def _ratios(result: Mapping[str, Any]) -> str:
    rows = []
    for whole, inner in zip(result["ratios"], result["ratios_without_start"], strict=True):
        pairs = f"{len(whole['accepted'])} ({whole['rejected']} rejected)"
        names = (whole["slow"], whole["fast"])
        rows.append(
            (" / ".join(f"`{name}`" for name in names), _ratio(whole), _ratio(inner), _cpu(result, *names), pairs)
        )
    return _table(("ratio", "whole process", "without start-up", "CPU seconds, all rounds", "pairs"), rows)


def _cpu(result: Mapping[str, Any], slow: str, fast: str) -> str:
    """Return the ratio of the medians of CPU seconds, which hardly depends on the load of the
    machine.
    """
    medians = [
        statistics.median(process["cpu_seconds"] for process in result["processes"] if process["way"] == way)
        for way in (slow, fast)
    ]
    return f"{medians[0] / medians[1]:.2f}"


def _ratio(value: Mapping[str, Any]) -> str:
    if value["median"] is None:
        return "no accepted pair"
    return f"**{value['median']:.2f}** ({value['low']:.2f}-{value['high']:.2f})"


def _work(result: Mapping[str, Any], ways: Sequence[str]) -> str:
    def total(way: str, field: str) -> str:
        return f"{sum(trial[field] for trial in result['work'][way]):,}"

    def mean(way: str, field: str) -> str:
        return f"{statistics.fmean(trial[field] for trial in result['work'][way]):.3f}"

    rows = [
        (
            f"`{way}`",
            *(total(way, field) for field in ("steps", "examples", "tokens", "evaluations", "scored")),
            *(mean(way, field) for field in ("valid_loss", "valid_accuracy")),
        )
        for way in ways
    ]
    head = ("work of all trials (round 1)", "steps", "examples", "tokens", "evaluations", "scored examples")
    return _table((*head, "mean final validation loss", "accuracy"), rows)


# -------------------------------------------------------------------------------------------- no-op
def _noop(result: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            f"`{result['way']}`",
            f"{result['trials']:,}",
            f"{result['seconds']:.1f}",
            f"{result['cpu_seconds']:.0f}",
            f"{result['driver_peak_bytes'] / 2**20:.0f}",
            f"{result['files']:,}",
            f"{result['bytes'] / 2**20:.1f}",
            f"{result['before']:.0f} -> {result['after']:.0f}",
        )
        for result in result["results"]
    ]
    head = ("way", "trials", "s", "CPU s", "driver peak MiB", "files", "MiB on disk", "calibration GFLOP/s")
    marginal = [
        (f"`{slope['way']}`", f"{slope['few']:,} to {slope['many']:,}", f"{slope['ms']:.0f}")
        for slope in result["marginal"]
    ]
    text = (
        "`sweep` is a whole sweep on the fake backend (study, Ray Tune, verdicts, one MLflow run per trial) with a "
        f"random sampler and {result['concurrency']} trials at once. `ray-tune` is Ray Tune alone with a "
        "no-op class, reused actors and no loggers.\n"
    )
    return [text, _table(head, rows), _table(("marginal cost", "trials", "ms per trial"), marginal)]


# --------------------------------------------------------------------------------------- generation
def _generation(result: Mapping[str, Any]) -> list[str]:
    first = result["models"][0]
    text = (
        f"{first['prompts']} prompts, greedy, {first['max_tokens']} tokens for each, key-value cache, float32. "
        "A ratio is the time of `model.generate` for one prompt after the other, divided by ours.\n"
    )
    rows = []
    for measured in result["models"]:
        speeds = [
            measured["tokens"][way] / min(run["seconds"] for run in measured["runs"] if run["way"] == way)
            for way in ("one by one", "ours")
        ]
        rows.append(
            (
                f"`{measured['model']}`, {measured['parameters'] / 1e6:.1f} M parameters",
                measured["instructions"],
                str(measured["threads"]),
                *(f"{speed:.0f}" for speed in speeds),
                _ratio(measured["ratio"]),
                f"{measured['cpu_ratio']:.1f}",
                f"{measured['equal_texts']} of {measured['prompts']}",
            )
        )
    head = ("model", "instructions", "threads", "one by one", "ours", "ratio", "CPU seconds", "equal texts")
    return [text, _table(head, rows)]
