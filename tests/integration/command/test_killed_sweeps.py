"""Sweeps of real programs, killed by SIGKILL in the middle: each trial goes on without a gap."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import psutil
import pytest
from command_runs import wait_for
from mlflow_equality import mlflow_differences
from swept_programs import (
    SWEEPS_REAL_PROGRAMS,
    SweptTrial,
    run,
    running_programs,
    script,
    start,
    swept_trials,
    trainer_script,
    write_data,
    write_sweep,
)

from sweeps.trials.trial import TrialState

pytestmark = SWEEPS_REAL_PROGRAMS

START_S = 400.0
"""How long a sweep may take until its first trial has two evaluations, on a busy machine."""


def kill_sweep_after_two_evaluations(folder: Path, *, with_program: bool) -> Path:
    """Start the sweep, kill its driver once a run has two evaluations.

    Returns the folder of the run.
    """

    def evaluated() -> list[Path]:
        logs = (folder / ".sweep").glob("**/programs/*/events.jsonl")
        return [log.parent for log in logs if log.read_text(encoding="utf-8").count('"scope": "evaluation"') >= 2]

    process = start(folder, "run", "real.yaml")
    try:
        wait_for(lambda: evaluated() or process.poll() is not None, "two evaluations", START_S)
        assert process.poll() is None, process.communicate()
        [run_folder] = evaluated()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    if with_program:
        for pid in [json.loads((run_folder / "started.json").read_text())["pid"], *running_programs(folder)]:
            with contextlib.suppress(psutil.Error):
                psutil.Process(pid).kill()
    return run_folder


def only_trial(folder: Path) -> SweptTrial:
    [swept] = swept_trials(folder)
    assert swept.trial.state is TrialState.COMPLETE
    assert mlflow_differences(folder / ".sweep", "real") == []
    assert running_programs(folder) == []
    return swept


@pytest.mark.parametrize("with_program", [False, True], ids=["adopted", "continued"])
def test_a_plain_script_goes_on(tmp_path: Path, with_program: bool) -> None:
    gate = tmp_path / "go-on"
    arguments = ("--lr", "0.05", "--epochs", "{n_epochs}", "--output_dir", "{output}", "--wait_for", str(gate))
    backend = {
        "run": script("plain_torch", *arguments),
        "checkpoints": "{output}/checkpoint-*.pt",
        "resume": "--resume {checkpoint}",
    }
    write_sweep(tmp_path, backend, space={"n_epochs": [3]}, search={"sampler": "grid", "trials": 1, "concurrency": 1})
    kill_sweep_after_two_evaluations(tmp_path, with_program=with_program)
    gate.touch()
    run(tmp_path, "run", "real.yaml")
    swept = only_trial(tmp_path)
    lines = list(swept.printed_lines())
    evaluations = [(line["step"], line["epoch"] + 1.0, line["val_loss"]) for line in lines if "val_loss" in line]
    assert swept.curve == evaluations
    assert [step for step, _, _ in evaluations] == [4, 8, 12]
    assert swept.loop_losses == [(line["step"], line["loss"]) for line in lines if "loss" in line]
    assert [step for step, _ in swept.loop_losses] == list(range(1, 13))
    assert (swept.folder / "attempt.json").exists() == with_program


@pytest.mark.slow
def test_the_trainer_of_transformers_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    placeholders = {"output_dir": "{output}", "num_train_epochs": "{n_epochs}"}
    command = trainer_script(tmp_path / "data", **placeholders, learning_rate="0.001", save_only_model="False")
    backend = {"preset": "hf-trainer", "run": command, "resume": "--resume_from_checkpoint {checkpoint}"}
    write_sweep(tmp_path, backend, space={"n_epochs": [40]}, search={"sampler": "grid", "trials": 1, "concurrency": 1})
    run_folder = kill_sweep_after_two_evaluations(tmp_path, with_program=True)
    assert not (run_folder / "output" / "checkpoint-120").exists()
    run(tmp_path, "run", "real.yaml")
    swept = only_trial(tmp_path)
    assert [(step, epoch) for step, epoch, _ in swept.curve] == [(3 * epoch, epoch) for epoch in range(1, 41)]
    losses = {row["step"]: row["eval_loss"] for row in swept.trainer_log() if "eval_loss" in row}
    assert losses
    assert {step: loss for step, _, loss in swept.curve if step in losses} == losses
    assert [step for step, _ in swept.loop_losses] == list(range(1, 121))
    attempt = json.loads((swept.folder / "attempt.json").read_text())
    assert Path(attempt["checkpoint"]).name.startswith("checkpoint-")
