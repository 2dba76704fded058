"""Measure all configurations and write RESULTS.md.

    python -m benchmarks.memory.run [--model FOLDER] [--only NUMBER ...]

FOLDER is a causal language model in the transformers layout, for the configurations `given`; they
are left out without it. `--only` measures some configurations and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.memory.configurations import CONFIGURATIONS, MODELS, write_model

RESULTS = Path(__file__).parent / "RESULTS.md"
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--only", type=int, nargs="*")
    arguments = parser.parse_args()
    measured: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        models = Path(temporary)
        for number, configuration in enumerate(CONFIGURATIONS):
            if arguments.only is not None and number not in arguments.only:
                continue
            if configuration.model in MODELS:
                folder = models / configuration.model
                if not folder.exists():
                    write_model(configuration.model, folder)
            elif arguments.model is None:
                continue
            else:
                folder = arguments.model
            measured.append(measure(number, folder))
            row = measured[-1]
            print(f"{number:3} {row['name']}: {_mib(row['measured'])} measured, {_mib(row['forecast'])} forecast, "
                  f"{_error(row):+.1%}", flush=True)  # fmt: skip
    if arguments.only is None:
        RESULTS.write_text(table(measured, arguments.model), encoding="utf-8")


def measure(number: int, model: Path) -> dict[str, Any]:
    """Train a configuration in a process of its own."""
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, "-m", "benchmarks.memory.measure", str(number), str(model), work]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if ended.returncode:
        raise SystemExit(f"{CONFIGURATIONS[number].name}:\n{ended.stderr}")
    result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return result


def _mib(value: int) -> str:
    return f"{value / MIB:,.0f} MiB"


def _error(row: dict[str, Any]) -> float:
    return float(row["forecast"] / row["measured"] - 1)


def table(rows: list[dict[str, Any]], model: Path | None) -> str:
    """Return RESULTS.md."""
    errors = [abs(_error(row)) for row in rows]
    lines = [
        "# Forecast and measured memory",
        "",
        "`python -m benchmarks.memory.run` wrote this file. Each line is a run of the local backend in a process of",
        "its own, on the CPU in float32: three optimizer steps, the evaluations before and after them, and the saved",
        "model. *Measured* is the largest resident set less that before the model was loaded. *Error* is the forecast",
        "less the measurement, in per cent of the measurement.",
        "",
        f"{len(rows)} configurations: the largest error is {max(errors):.1%}, the mean {sum(errors) / len(rows):.1%}.",
        "`given` is SmolLM2-135M-Instruct, a real model." if model is not None else "",
        "Not measured: GPUs, bfloat16, 4-bit weights and 8-bit optimizers, which this machine does not have.",
        "",
        "| configuration | forecast | measured | error |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['name']} | {_mib(row['forecast'])} | {_mib(row['measured'])} | {_error(row):+.1%} |" for row in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
