"""Real training programs, swept with real Ray and MLflow: what they wrote is what the sweep has."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow_equality import mlflow_differences
from swept_programs import (
    INSTALLED,
    LONG,
    MODEL,
    SHORT,
    SWEEPS_REAL_PROGRAMS,
    SweptTrial,
    run,
    running_programs,
    same,
    script,
    swept_trials,
    trainer_script,
    write_data,
    write_sweep,
)

from sweeps.trials.trial import TrialState
from sweeps.workspace import Workspace

pytestmark = SWEEPS_REAL_PROGRAMS

TrueLog = Callable[[SweptTrial], tuple[list[tuple[int, float, float]], list[tuple[int, float]]]]
"""What a program wrote itself: its evaluations (step, epoch, loss), and its losses (step, loss)."""


def check(folder: Path, true_log: TrueLog, checkpoint: str) -> list[SweptTrial]:
    """Compare a sweep with what its programs wrote. `checkpoint` has `{step}` and `{epoch}`."""
    trials = swept_trials(folder)
    assert [swept.trial.hyperparameters["n_epochs"] for swept in trials] == [*SHORT, LONG]
    assert [swept.trial.state for swept in trials] == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.STOPPED]
    for swept in trials:
        steps_per_epoch = swept.evaluations[0][0]
        assert [epoch * steps_per_epoch for _, epoch, _ in swept.evaluations] == [
            step for step, _, _ in swept.evaluations
        ]
        assert swept.curve == swept.evaluations[: len(swept.curve)]
        assert swept.trial.verdict is not None
        if not any(swept.output.glob("*")):  # the sweep keeps the best models only
            assert swept.trial.state is TrialState.STOPPED
            continue
        evaluations, losses = true_log(swept)
        assert evaluations
        assert losses
        assert same(swept.evaluations[: len(evaluations)], evaluations[: len(swept.evaluations)])
        assert same(swept.loop_losses[: len(losses)], losses[: len(swept.loop_losses)])
        best_step, best_epoch, _ = min(swept.evaluations, key=lambda evaluation: evaluation[2])
        name = checkpoint.format(step=best_step, epoch=int(best_epoch) - 1)
        kept = [path.name for path in swept.output.glob("**/*") if is_checkpoint(path.name, checkpoint)]
        assert swept.trial.model is not None
        assert Path(swept.trial.model).name in kept
        if swept.trial.state is TrialState.COMPLETE:
            assert kept == [name]
            assert swept.curve == swept.evaluations
            assert len(evaluations) == len(swept.curve)
            assert swept.trial.best_epoch == best_epoch
    for swept, epochs in zip(trials, SHORT, strict=False):
        assert [epoch for _, epoch, _ in swept.evaluations] == [float(n + 1) for n in range(epochs)]
    assert mlflow_differences(folder / ".sweep", "real") == []
    report = Workspace(folder / ".sweep").report_file("real").read_text(encoding="utf-8")
    assert all(swept.trial.verdict.kind.value in report for swept in trials if swept.trial.verdict)
    assert running_programs(folder) == []
    return trials


def is_checkpoint(name: str, checkpoint: str) -> bool:
    beginning, _, _ = checkpoint.partition("{")
    return name.startswith(beginning) and not name.endswith(".draft")


def printed_log(swept: SweptTrial) -> tuple[list[tuple[int, float, float]], list[tuple[int, float]]]:
    lines = list(swept.printed_lines())
    evaluations = [(line["step"], line["epoch"] + 1.0, line["val_loss"]) for line in lines if "val_loss" in line]
    return evaluations, [(line["step"], line["loss"]) for line in lines if "loss" in line]


def trainer_log(swept: SweptTrial) -> tuple[list[tuple[int, float, float]], list[tuple[int, float]]]:
    log = swept.trainer_log()
    evaluations = [(row["step"], row["epoch"], row["eval_loss"]) for row in log if "eval_loss" in row]
    return evaluations, [(row["step"], row["loss"]) for row in log if "loss" in row]


def lightning_log(swept: SweptTrial) -> tuple[list[tuple[int, float, float]], list[tuple[int, float]]]:
    [file] = swept.output.glob("**/metrics.csv")
    header, *lines = file.read_text().splitlines()
    rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    evaluations = [
        (int(row["step"]) + 1, float(row["epoch"]) + 1, float(row["val_loss"])) for row in rows if row["val_loss"]
    ]
    losses = [(int(row["step"]) + 1, float(row["train_loss_step"])) for row in rows if row["train_loss_step"]]
    return evaluations, losses


def test_a_plain_script(tmp_path: Path) -> None:
    command = script("plain_torch", "--lr", "0.05", "--epochs", "{n_epochs}", "--output_dir", "{output}")
    write_sweep(tmp_path, {"run": [*command, "--seed", "{seed}"], "checkpoints": "{output}/checkpoint-*.pt"})
    run(tmp_path, "run", "real.yaml")
    check(tmp_path, printed_log, "checkpoint-{step}.pt")


def test_a_script_with_the_trainer_of_transformers(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    placeholders = {"output_dir": "{output}", "num_train_epochs": "{n_epochs}", "seed": "{seed}"}
    command = trainer_script(tmp_path / "data", **placeholders, learning_rate="0.002", warmup_steps="0.5")
    write_sweep(tmp_path, {"preset": "hf-trainer", "run": command})
    run(tmp_path, "run", "real.yaml")
    check(tmp_path, trainer_log, "checkpoint-{step}")


def test_a_lightning_script(tmp_path: Path) -> None:
    command = script("lightning_script", "--lr", "0.05", "--epochs", "{n_epochs}", "--output_dir", "{output}")
    write_sweep(tmp_path, {"preset": "lightning", "run": command})
    run(tmp_path, "run", "real.yaml")
    [two, three, _] = check(tmp_path, lightning_log, "epoch={epoch}-step={step}.ckpt")
    for swept in (two, three):  # after the first evaluation, the epoch's own loss is the training loss
        [file] = swept.output.glob("**/metrics.csv")
        header, *lines = file.read_text().splitlines()
        column = header.split(",").index("train_loss_epoch")
        means = [float(cell) for line in lines if (cell := line.split(",")[column])]
        assert [event.values["train_loss"] for event in swept.trial.curve][1:] == means[1:]


TRL_CONFIG: Mapping[str, Any] = {
    "model_name_or_path": str(MODEL),
    "dataset_name": "data",
    "learning_rate": 0.002,
    "warmup_steps": 0.5,
    "per_device_train_batch_size": 8,
    "logging_steps": 1,
    "save_only_model": True,
    "use_peft": True,
    "lora_r": 4,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
}


def sweep_trl(folder: Path, method: str, *, pairs: bool, **config: Any) -> list[SweptTrial]:
    write_data(folder / "data", pairs=pairs)
    (folder / "template.yml").write_text(yaml.safe_dump({**TRL_CONFIG, **config}), encoding="utf-8")
    backend = {
        "preset": "trl",
        "run": [sys.executable, str(INSTALLED / "bin" / "trl"), method, "--config", "{config}"],
        "config": {"template": "template.yml", "set": {"num_train_epochs": "{n_epochs}", "seed": "{seed}"}},
    }
    write_sweep(folder, backend)
    run(folder, "run", "real.yaml")
    return check(folder, trainer_log, "checkpoint-{step}")


def test_the_command_line_of_trl_with_lora(tmp_path: Path) -> None:
    trials = sweep_trl(tmp_path, "sft", pairs=False, max_length=64)
    for swept in trials[:-1]:
        accuracies = [row["eval_mean_token_accuracy"] for row in swept.trainer_log() if "eval_loss" in row]
        assert [event.values["valid_token_accuracy"] for event in swept.trial.curve] == accuracies
    model = Path(str(trials[0].trial.model))
    assert json.loads((model / "adapter_config.json").read_text())["r"] == 4


@pytest.mark.slow
def test_the_command_line_of_trl_with_preferences(tmp_path: Path) -> None:
    for swept in sweep_trl(tmp_path, "dpo", pairs=True)[:-1]:
        margins = [row["eval_rewards/margins"] for row in swept.trainer_log() if "eval_loss" in row]
        assert [event.values["valid_rewards_margins"] for event in swept.trial.curve] == margins
