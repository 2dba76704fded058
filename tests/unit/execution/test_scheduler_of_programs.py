"""The scheduler of a sweep over a user's program, whose number of evaluations nobody knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.execution.trial_schedulers import scheduler_with_history
from sweeps.planning.plan import make_plan
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.spec.loading import from_document
from sweeps.spec.yaml_source import parse
from sweeps.workspace import Workspace

pytestmark = pytest.mark.unit

FILE = """\
name: rates
backend:
  type: command
  run: python train.py --lr {lr} --epochs {EPOCHS} --out {output}
  hyperparameters:
    lr: {low: 2.0e-5, high: 1.0e-3, log: true}
    EPOCHS: {type: int, low: 2, high: 4}
search: {trials: 4, scheduler: asha}
objective: {minimize: valid_loss}
"""


def planned(folder: Path, epochs: str) -> SweepPlan:
    (folder / "train.py").write_text("", encoding="utf-8")
    text = FILE.replace("EPOCHS", epochs)
    return make_plan(from_document(parse(text, str(folder / "f.yaml"))), Workspace(folder), estimate=False)


@pytest.mark.parametrize("name", ["n_epochs", "num_train_epochs", "max_epochs"])
def test_the_epochs_of_a_program_are_known_by_any_usual_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert planned(tmp_path, name).max_epochs == 4


def test_asha_does_not_end_a_program_that_evaluates_more_often_than_it_has_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every trial of a program with `num_train_epochs` was stopped after two evaluations."""
    monkeypatch.chdir(tmp_path)
    scheduler = scheduler_with_history(planned(tmp_path, "num_train_epochs"), ())
    assert getattr(scheduler, "_max_t") > 1000  # noqa: B009 - Tune has no public name for it
