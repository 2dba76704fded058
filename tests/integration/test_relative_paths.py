"""A relative path in the sweep file means the same in the planning process and in the workers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from backends.local.model_source import BUILTIN

pytestmark = [pytest.mark.integration, pytest.mark.trains]

FILE = """\
name: relative
data: {source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 24, valid_examples: 12, test_examples: 12}
backend: {type: local, model: ./models/mine, device: cpu, pretraining_learning_rate: 1e-3}
space: {n_epochs: 1, batch_size: 8, learning_rate_multiplier: 0.05}
search: {trials: 1, scheduler: none}
objective: {maximize: valid_accuracy}
"""


def test_a_model_is_named_by_a_path_relative_to_the_current_folder(tmp_path: Path) -> None:
    shutil.copytree(BUILTIN["builtin:tiny-lm"], tmp_path / "models" / "mine")
    (tmp_path / "relative.yaml").write_text(FILE)
    unset = {"MLFLOW_TRACKING_URI", "SWEEP_STORAGE", "SWEEP_ROOT", "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", "sweeps.cli", "run", "relative.yaml", "--json"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name not in unset},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [trial] = json.loads(done.stdout)["trials"]
    assert trial["state"] == "complete"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".sweep", "models", "relative.yaml"]
