"""The command backend passes the contract suite with programs of the standard library."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from backends.command import CommandBackend
from backends.testing import BackendContract

pytestmark = pytest.mark.contract

TRAINER = Path(__file__).parents[1] / "support" / "programs" / "gated_trainer.py"


class TestCommand(BackendContract):
    """The numbers come from the program's output."""

    backend_type = CommandBackend
    hyperparameters: Mapping[str, Any] = {"n_epochs": 2, "learning_rate": 0.1}

    def options(self) -> Mapping[str, Any]:
        options = "--lr {learning_rate} --epochs {n_epochs} --seed {seed} --output {output} --epoch-seconds 0.1"
        return {
            "run": f"{sys.executable} -S -E {TRAINER} {options}",
            "model": self.base_model,
            "metrics": ["output"],
            "checkpoints": "{output}/checkpoint-*",
            "resume": "--resume {checkpoint}",
            "reports": ["valid_loss", "valid_accuracy", "train_loss"],
            "hyperparameters": {
                "learning_rate": {"low": 1e-6, "high": 1.0, "log": True},
                "n_epochs": {"type": "int", "low": 1, "high": 1000},
            },
            "grace_s": 5,
        }


class TestCommandWithConfig(TestCommand):
    """The program is a command of the shell and cannot resume."""

    def options(self) -> Mapping[str, Any]:
        options = dict(super().options())
        return {**options, "shell": True, "run": f"exec {options['run']}", "resume": None}
