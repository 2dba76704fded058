"""Sweeps of real training programs: their sweep files, their data, and what they wrote themselves.

The space is one list of epochs, of which the last is far too long, and the learning rate rises
during the first half of the training. So the long trial is the worst one after an epoch, and ASHA
stops it.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from mlflow_warnings import MLFLOW_WARNINGS
from user_environment import user_environment

from backends.command.supervisor import MARK
from backends.local.model_source import BUILTIN
from sweeps.study.stored_study import read_study
from sweeps.trials.trial import Trial
from sweeps.workspace import Workspace

SCRIPTS = Path(__file__).parent / "programs"
INSTALLED = Path(sys.prefix) / "programs"
"""The programs of others; `make test` installs them."""

MODEL = BUILTIN["builtin:tiny-lm"]
SHORT, LONG = (2, 3), 20_000

SEED = 6
"""With it, the grid has the order 3, 2, long: each trial is better than those before, but the last.
"""

SWEEPS_REAL_PROGRAMS = [
    pytest.mark.integration,
    pytest.mark.trains,
    pytest.mark.timeout(900),
    *MLFLOW_WARNINGS,
]
"""The marks of tests that do."""

TIMEOUT_S = 800
"""How long a sweep may take on a busy machine."""

ENVIRONMENT = {"PYTHONPATH": str(INSTALLED), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
"""The environment of a program, which needs no network."""


def write_data(folder: Path, *, pairs: bool = False) -> None:
    """Write sums as `train.jsonl` and `test.jsonl`; with `pairs`, a right and a wrong one each."""
    folder.mkdir()
    numbers = random.Random(0)
    for name, count in (("train", 24), ("test", 8)):
        lines = []
        for _ in range(count):
            one, other = numbers.randint(0, 9), numbers.randint(0, 9)
            right = {"chosen": f" {one + other}.", "rejected": " no."} if pairs else {"completion": f" {one + other}."}
            lines.append(json.dumps({"prompt": f"{one} plus {other} is", **right}) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def script(name: str, *arguments: str) -> list[str]:
    """Return the command that runs a script of `programs`."""
    return [sys.executable, str(SCRIPTS / f"{name}.py"), *arguments]


def trainer_script(data: Path, **options: str) -> list[str]:
    """Return the command of the script with the Trainer of transformers, on `write_data`'s data.

    It evaluates and saves after each epoch, and logs each step.
    """
    given = {
        "model": str(MODEL),
        "train_file": str(data / "train.jsonl"),
        "valid_file": str(data / "test.jsonl"),
        "per_device_train_batch_size": "8",
        "logging_steps": "1",
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_only_model": "True",
        "use_cpu": "True",
        **options,
    }
    return script("hf_trainer", *(word for name, value in given.items() for word in (f"--{name}", value)))


def write_sweep(folder: Path, backend: Mapping[str, Any], **more: Any) -> Path:
    """Write a sweep file over the lengths of training."""
    document = {
        "name": "real",
        "backend": {
            "type": "command",
            "environment": ENVIRONMENT,
            "hyperparameters": {"n_epochs": {"type": "int", "low": 1, "high": LONG}},
            **backend,
        },
        "space": {"n_epochs": [*SHORT, LONG]},
        "search": {
            "sampler": "grid",
            "trials": 3,
            "concurrency": 1,
            "scheduler": {"type": "asha", "grace_epochs": 1},
            "seed": SEED,
        },
        "objective": {"minimize": "valid_loss"},
        **more,
    }
    file = folder / "real.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    return file


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start `sweep` with these arguments."""
    environment = user_environment()
    return subprocess.Popen(
        [sys.executable, "-m", "sweeps.cli", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(folder: Path, *arguments: str) -> str:
    """Run `sweep` with these arguments, and return what it says. Fails if it fails."""
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, err[-4000:] + out[-2000:]
    return out


def running_programs(folder: Path) -> list[int]:
    """Return the process ids of all programs of the sweep in this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK, "").startswith(str(folder)):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


# -------------------------------------------------------------------------------------- the result
@dataclass(frozen=True)
class SweptTrial:
    """A trial of an ended sweep, and the folder of its program."""

    trial: Trial
    folder: Path

    @property
    def output(self) -> Path:
        """The folder in which the program wrote."""
        return self.folder / "output"

    @property
    def evaluations(self) -> list[tuple[int, float, float]]:
        """The step, epoch and validation loss of each evaluation of the run.

        The run of a stopped trial goes on until the program notices it.
        """
        found = (event for event in self.events if event["kind"] == "measured" and event["scope"] == "evaluation")
        return [(event["step"], event["epoch"], event["values"]["valid_loss"]) for event in found]

    @property
    def curve(self) -> list[tuple[int, float, float]]:
        """The step, epoch and validation loss of each evaluation of the trial."""
        return [(event.step, event.epoch, event.values["valid_loss"]) for event in self.trial.curve]

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events of the run."""
        return [json.loads(line) for line in (self.folder / "events.jsonl").read_text().splitlines()]

    @property
    def loop_losses(self) -> list[tuple[int, float]]:
        """The step and loss of each report of the training loop."""
        steps = (event for event in self.events if event["kind"] == "measured" and event["scope"] == "step")
        return [(event["step"], event["values"]["batch_loss"]) for event in steps if "batch_loss" in event["values"]]

    def printed_lines(self) -> Iterator[dict[str, Any]]:
        """Yield the JSON lines that the program printed."""
        for line in (self.folder / "output.log").read_text(encoding="utf-8").splitlines():
            if line.startswith("{"):
                yield json.loads(line)

    def trainer_log(self) -> list[dict[str, Any]]:
        """Return the log in the longest trainer_state.json that the program has left."""
        states = [json.loads(file.read_text()) for file in self.output.glob("**/trainer_state.json")]
        return max((state["log_history"] for state in states), key=len)


def swept_trials(folder: Path) -> list[SweptTrial]:
    """Return the trials of the sweep in this folder, in the order of their epochs."""
    workspace = Workspace(folder / ".sweep")
    trials = read_study(workspace.study_file("real"), workspace.study_name("real")).trials
    found = []
    for trial in sorted(trials, key=lambda trial: trial.hyperparameters["n_epochs"]):
        assert trial.handle is not None
        [run_folder] = (folder / ".sweep").glob(f"**/programs/{trial.handle.id}")
        found.append(SweptTrial(trial, run_folder))
    return found


def same(ours: Sequence[tuple[float, ...]], theirs: Sequence[tuple[float, ...]]) -> bool:
    """Return whether two lists of numbers are equal; NaN is equal to NaN."""
    return len(ours) == len(theirs) and all(
        mine == other or (math.isnan(mine) and math.isnan(other))
        for own, its in zip(ours, theirs, strict=True)
        for mine, other in zip(own, its, strict=True)
    )
