"""The logs of real programs: every log of a program gives the same measurements."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from swept_programs import ENVIRONMENT, script, trainer_script, write_data

from backends.command import presets
from backends.command.checkpoints import checkpoints_of
from backends.command.measurements import SUMMARY_COLUMN, Timeline, named
from backends.contract import Measured
from backends.training_logs.live_sources import SOURCE_TYPES, open_source

pytestmark = [pytest.mark.integration, pytest.mark.trains, pytest.mark.timeout(900)]


def execute(folder: Path, command: list[str], environment: Mapping[str, str] | None = None) -> None:
    """Run a program in `folder`, with its output in `output.log`."""
    folder.mkdir(exist_ok=True)
    with (folder / "output.log").open("wb") as log:
        ended = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **ENVIRONMENT, **(environment or {})},
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=600,
            check=False,
        )
    assert ended.returncode == 0, (folder / "output.log").read_text()[-4000:]


def measured(folder: Path, preset: str, source_type: str, metric: str = "valid_loss") -> list[Measured]:
    """Return what a log of the program says, as a sweep has it."""
    places = {"{output}": folder / "output", "{folder}": folder, "{log}": folder / "output.log"}
    patterns = list(SOURCE_TYPES[source_type].patterns)
    for placeholder, place in places.items():
        patterns = [pattern.replace(placeholder, str(place)) for pattern in patterns]
    source = open_source(source_type, [pattern for pattern in patterns if "{" not in pattern])
    timeline = Timeline(metric=metric, by_column=source.by_column, first_step=presets.load(preset).first_step)
    timeline, events = timeline.after(
        named(row, {}) for row in source.rows(has_ended=True) if SUMMARY_COLUMN not in row
    )
    return [*events, *timeline.ended()[1]]


def evaluations(events: list[Measured], name: str = "valid_loss") -> list[tuple[int, float, float]]:
    return [(event.step, event.epoch, event.values[name]) for event in events if event.scope == "evaluation"]


def in_single_precision(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


@pytest.mark.parametrize("named_sets", [False, True])
def test_the_logs_of_the_trainer_of_transformers(tmp_path: Path, named_sets: bool) -> None:
    write_data(tmp_path / "data")
    second = {"second_valid_file": str(tmp_path / "data/train.jsonl")} if named_sets else {}
    command = trainer_script(tmp_path / "data", output_dir="output", num_train_epochs="3", **second)
    environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    execute(tmp_path, [*command, "--report_to", "all"], environment)

    state = json.loads((tmp_path / "output" / "checkpoint-9" / "trainer_state.json").read_text())["log_history"]
    names = {"valid_first_loss": "eval_first_loss", "valid_second_loss": "eval_second_loss"}
    for name, column in (names if named_sets else {"valid_loss": "eval_loss"}).items():
        truth = [(row["step"], row["epoch"], row[column]) for row in state if column in row]
        assert [step for step, _, _ in truth] == [3, 6, 9]
        for metric in names if named_sets else ["valid_loss"]:
            for source_type in ("hf_trainer_state", "mlflow"):
                assert evaluations(measured(tmp_path, "hf-trainer", source_type, metric), name) == truth
            single = [(step, epoch, in_single_precision(loss)) for step, epoch, loss in truth]
            assert evaluations(measured(tmp_path, "hf-trainer", "tensorboard", metric), name) == single
        printed = evaluations(
            measured(tmp_path, "hf-trainer", "output", next(iter(names)) if named_sets else name), name
        )
        assert printed == [(n + 1, epoch, float(f"{loss:.4g}")) for n, (_, epoch, loss) in enumerate(truth)]
    losses = [(row["step"], row["loss"]) for row in state if "loss" in row]
    for source_type in ("hf_trainer_state", "mlflow"):
        reports = [event for event in measured(tmp_path, "hf-trainer", source_type) if "batch_loss" in event.values]
        assert [(event.step, event.values["batch_loss"]) for event in reports] == losses
        assert all({"learning_rate", "grad_norm"} <= set(event.values) for event in reports)


def test_the_logs_of_lightning(tmp_path: Path) -> None:
    command = script("lightning_script", "--lr", "0.05", "--epochs", "3", "--output_dir", "output", "--mlflow")
    execute(tmp_path, command, {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"})
    of_csv = measured(tmp_path, "lightning", "csv")
    assert [(step, epoch) for step, epoch, _ in evaluations(of_csv)] == [(4, 1.0), (8, 2.0), (12, 3.0)]
    found = checkpoints_of(str(tmp_path / "output" / "**" / "*.ckpt"))
    assert [checkpoint.number for checkpoint in found] == [4, 8, 12]
    of_events = measured(tmp_path, "lightning", "tensorboard")
    assert evaluations(of_events) == [
        (step, epoch, in_single_precision(loss)) for step, epoch, loss in evaluations(of_csv)
    ]
    # mlflow.autolog logs an epoch with the number of the epoch as its step, counted from 0
    of_autolog = evaluations(measured(tmp_path, "plain", "mlflow"))
    assert of_autolog == [(n + 1, n + 1.0, loss) for n, (_, _, loss) in enumerate(evaluations(of_csv))]


def test_the_log_of_keras(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    command = script("keras_script", "--lr", "0.05", "--epochs", "3", "--output_dir", "output")
    execute(tmp_path, command, {"KERAS_BACKEND": "torch", "KERAS_HOME": str(tmp_path)})
    events = measured(tmp_path, "keras", "csv")
    header, *lines = (tmp_path / "output" / "log.csv").read_text().splitlines()
    rows = [dict(zip(header.split(","), map(float, line.split(",")), strict=True)) for line in lines]
    assert evaluations(events) == [(n + 1, n + 1.0, row["val_loss"]) for n, row in enumerate(rows)]
    assert evaluations(events, "train_loss") == [(n + 1, n + 1.0, row["loss"]) for n, row in enumerate(rows)]
    assert [found.number for found in checkpoints_of(str(tmp_path / "output" / "*.keras"))] == [1, 2, 3]


def fields_of(modules: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the names of the fields of each class, imported where the programs are."""
    code = "import dataclasses, importlib, json, sys\n"
    code += "found = [getattr(importlib.import_module(m), c) for c, m in json.loads(sys.argv[1]).items()]\n"
    code += "print(json.dumps({c.__name__: [f.name for f in dataclasses.fields(c)] for c in found}))"
    command = [sys.executable, "-W", "ignore", "-c", code, json.dumps(dict(modules))]
    out = subprocess.run(
        command, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.PIPE, text=True, check=True, timeout=600
    ).stdout
    return {name: set(names) for name, names in json.loads(out.splitlines()[-1]).items()}


def test_the_keys_of_the_presets_are_those_of_the_installed_programs() -> None:
    known = fields_of(
        {"SFTConfig": "trl", "DPOConfig": "trl", "ModelConfig": "trl", "TrainingArguments": "transformers"}
    )
    for name, classes in {
        "trl": ("SFTConfig", "DPOConfig", "ModelConfig"),
        "hf-trainer": ("TrainingArguments",),
    }.items():
        preset = presets.load(name)
        written = {*preset.keys.values(), *preset.set}
        written |= {key for settings in preset.defaults for key in (*settings.set, *settings.unless)}
        own = set().union(*(known[class_name] for class_name in classes))
        assert written - {"model_name_or_path"} <= own
    assert "model_name_or_path" in known["ModelConfig"]
