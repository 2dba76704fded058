"""Measure all configurations, and write RESULTS.md.

    python -m benchmarks.memory.run [--model FOLDER] [--only NUMBER ...] [--again]

FOLDER is a causal language model in the transformers layout, for the configurations `given`; they
are left out without it. measured.json keeps the measurements; those that it has are not taken
again, unless with `--again`. The forecasts are always new.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.memory.configurations import CONFIGURATIONS, MODELS, write_model
from benchmarks.memory.measure import forecast_bytes

HERE = Path(__file__).parent
RESULTS, MEASURED = HERE / "RESULTS.md", HERE / "measured.json"
MIB = 2**20

PREDICTED = frozenset(
    {
        "llama-58M, 256 tokens, micro-batch 4 of 8, method=lora, lora_rank=16, checkpointing",
        "gpt2-22M, 512 tokens, micro-batch 4 of 4, checkpointing",
    }
)
"""Lines that were measured after all constants were set, although others of their kind set one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--only", type=int, nargs="*", default=range(len(CONFIGURATIONS)))
    parser.add_argument("--again", action="store_true")
    arguments = parser.parse_args()
    measured: dict[str, int] = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}
    rows: list[tuple[str, int, int]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for number, configuration in enumerate(CONFIGURATIONS):
            folder = arguments.model if configuration.model == "given" else Path(temporary) / configuration.model
            if folder is None:
                continue
            if configuration.model in MODELS and not folder.exists():
                write_model(configuration.model, folder)
            name = configuration.name
            if number in arguments.only and (arguments.again or name not in measured):
                measured[name] = measure(number, folder)
                MEASURED.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
            if name in measured:
                with tempfile.TemporaryDirectory() as work:
                    rows.append((name, forecast_bytes(configuration, folder, Path(work)), measured[name]))
                print(f"{number:3} {line(*rows[-1])}", flush=True)
    RESULTS.write_text(page(rows), encoding="utf-8")


def measure(number: int, model: Path) -> int:
    """Train a configuration in a process of its own, and return its peak in bytes."""
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, "-m", "benchmarks.memory.measure", str(number), str(model), work]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if ended.returncode:
        raise SystemExit(f"{CONFIGURATIONS[number].name}:\n{ended.stderr}")
    return int(ended.stdout.split()[-1])


def error(forecast: int, measured: int) -> float:
    return forecast / measured - 1


def line(name: str, forecast: int, measured: int) -> str:
    """Return a row of the table."""
    numbers = f"{forecast / MIB:,.0f} MiB | {measured / MIB:,.0f} MiB | {error(forecast, measured):+.1%}"
    return f"| {name} | {numbers} |"


def page(rows: list[tuple[str, int, int]]) -> str:
    """Return RESULTS.md."""
    errors = [abs(error(forecast, measured)) for _, forecast, measured in rows]
    return "\n".join(
        [
            "# Forecast and measured memory",
            "",
            "`python -m benchmarks.memory.run --model FOLDER` wrote this file. Each line is a run of the local backend",
            "in a process of its own, on one core of a CPU in float32 (glibc 2.36): three optimizer steps, the",
            "evaluations before and after them, and the saved model. *Measured* is the largest resident set less that",
            "before the model was loaded; it repeats within about 4 %. *Error* is the forecast less the measurement.",
            "`given` is SmolLM2-135M-Instruct, a real model; the others have random weights.",
            "",
            f"{len(rows)} configurations: the largest error is {max(errors):.1%}, "
            f"the mean {sum(errors) / len(errors):.1%}.",
            "",
            "The formulas count what autograd keeps; a unit test shows that they are exact to 1 % (4 % with DoRA). The",
            "rest is memory that the C library cannot use again. Its constants were set with all lines of `llama-21M`,",
            "and with the lines of other models that accumulate or have checkpointing, except the two that are marked",
            "with *. The other lines are predictions.",
            "",
            "Not measured: GPUs, bfloat16, 4-bit weights and 8-bit optimizers, which this machine does not have.",
            "",
            "| configuration | forecast | measured | error |",
            "|---|---|---|---|",
            *(line(f"{name} *" if name in PREDICTED else name, *numbers) for name, *numbers in rows),
            "",
        ]
    )


if __name__ == "__main__":
    main()
