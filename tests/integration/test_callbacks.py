"""The callbacks with the real libraries: they stop a run that surely overfits, and name the best.

The validation answers are the opposite of the training answers, so every run overfits from its
first step on, on any processor.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from swept_programs import ENVIRONMENT, SCRIPTS
from torch.utils.data import Dataset

from sweeps.callbacks.running_history import RunningHistory
from sweeps.callbacks.transformers import StopByVerdict
from sweeps.verdicts.verdict import VerdictKind

pytestmark = [pytest.mark.integration, pytest.mark.trains]


@pytest.mark.parametrize("library", ["keras", "lightning"])
def test_a_run_of_another_library_is_stopped(library: str, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    repository = str(Path(__file__).parents[2])
    path = os.pathsep.join((repository, ENVIRONMENT["PYTHONPATH"]))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPTS / f"callback_of_{library}.py"), str(out)],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert (found["stopped"], found["verdict"], found["kept"]) == ("overfit", "overfit", 1)
    assert found["epochs"] < 30
    if library == "lightning":
        assert found["checkpoint"] == "epoch=0-step=4.ckpt"
    if library == "keras":
        assert found["restored"] == pytest.approx(found["validation"][0], rel=1e-4)


class Rows(Dataset[dict[str, torch.Tensor]]):
    """64 rows whose answer is the sign of the first number, or the opposite."""

    def __init__(self, *, opposite: bool) -> None:
        self.x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        sign = (self.x[:, :1] > 0).float()
        self.labels = 1 - sign if opposite else sign

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": self.x[index], "labels": self.labels[index]}


class Line(torch.nn.Module):
    """A logistic regression that begins with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        torch.nn.init.zeros_(self.layer.weight)
        torch.nn.init.zeros_(self.layer.bias)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.layer(x)
        return {"loss": torch.nn.functional.binary_cross_entropy_with_logits(logits, labels), "logits": logits}


@pytest.mark.parametrize("stop", [True, False])
def test_a_trainer_of_hugging_face_is_stopped(tmp_path: Path, stop: bool) -> None:
    from transformers import Trainer, TrainingArguments

    callback = StopByVerdict(stop=stop)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=25, per_device_train_batch_size=16, learning_rate=0.5, optim="sgd",
        lr_scheduler_type="constant", eval_strategy="epoch", save_strategy="epoch", logging_strategy="epoch",
        report_to="none", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = Trainer(
        model=Line(), args=arguments, train_dataset=Rows(opposite=False), eval_dataset=Rows(opposite=True),
        callbacks=[callback],
    )  # fmt: skip
    trainer.train()
    assert callback.verdict.kind is VerdictKind.OVERFIT
    assert callback.best_checkpoint == tmp_path / "checkpoint-4"
    assert trainer.state.epoch is not None
    if stop:
        assert callback.stopped_by is not None
        assert trainer.state.epoch < 25
    else:
        assert callback.stopped_by is None
        assert trainer.state.epoch == 25


def test_the_best_checkpoint_of_a_trainer_outlives_the_limit_on_saved_ones(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    callback = StopByVerdict()
    arguments = TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=25, per_device_train_batch_size=16, learning_rate=0.5, optim="sgd",
        lr_scheduler_type="constant", eval_strategy="epoch", save_strategy="epoch", logging_strategy="epoch",
        load_best_model_at_end=True, save_total_limit=1, report_to="none", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    model = Line()
    trainer = Trainer(
        model=model, args=arguments, train_dataset=Rows(opposite=False), eval_dataset=Rows(opposite=True),
        callbacks=[callback],
    )  # fmt: skip
    trainer.train()
    assert callback.stopped_by is not None
    assert callback.best_checkpoint == tmp_path / "checkpoint-4"
    assert str(callback.best_checkpoint) == trainer.state.best_model_checkpoint
    assert trainer.evaluate()["eval_loss"] == pytest.approx(
        next(entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry)
    )


def test_a_history_without_a_known_measure_is_unsettled() -> None:
    from backends.training_logs import RunDetails

    history = RunningHistory("x", RunDetails())
    assert history.verdict.kind is VerdictKind.UNSETTLED
    history.add({"epoch": 1, "beta": 2.0, "text": "a", "flag": True})
    assert history.verdict.kind is VerdictKind.UNSETTLED
    assert history.early_stop_verdict is None
