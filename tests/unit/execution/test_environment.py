"""Opening the study of a planned sweep."""

from __future__ import annotations

from pathlib import Path

import pytest
from session_driver import planned

from sweeps.execution.environment import Environment, open_study
from sweeps.study.study import NoTrial
from sweeps.workspace import Workspace

pytestmark = pytest.mark.unit


def test_a_new_study_tries_the_first_points_first_and_an_existing_study_ignores_them(tmp_path: Path) -> None:
    plan, environment = planned(tmp_path), Environment(Workspace(tmp_path), "unused")
    points: list[dict[str, float]] = [
        {"n_epochs": 4, "batch_size": 3, "learning_rate_multiplier": 0.123},
        {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 0.321},
    ]
    study = open_study(plan, environment, points)
    trials = [study.ask(), study.ask()]
    assert [dict(trial.hyperparameters) for trial in trials if not isinstance(trial, NoTrial)] == points
    other_point = {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 0.05}
    reopened = open_study(plan, environment, [other_point])
    trials = [reopened.ask(), reopened.ask(), reopened.ask()]
    assert other_point not in [dict(trial.hyperparameters) for trial in trials if not isinstance(trial, NoTrial)]
