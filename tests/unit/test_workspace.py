"""The workspace: names, locks, and sweeps that are set aside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from session_driver import planned

from sweeps.errors import SweepError
from sweeps.execution.environment import Environment, open_study
from sweeps.study import state
from sweeps.workspace import Workspace

pytestmark = pytest.mark.unit


def test_a_sweep_that_was_set_aside_can_still_be_read(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    plan = planned(tmp_path)
    study = open_study(plan, Environment(workspace, "sqlite://"))
    workspace.sweep_folder("pairs").mkdir(exist_ok=True)
    (workspace.sweep_folder("pairs") / "plan.json").write_text(json.dumps(plan.to_json(), default=str))
    aside = workspace.set_aside("pairs")
    assert aside is not None
    assert state.read_state(workspace, aside.name, None).name == aside.name
    assert workspace.study_name("pairs") == "pairs", "a sweep that starts again has a study of its own"
    assert study.trials == []


def test_only_one_process_can_lock_a_sweep_and_the_error_names_the_other(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert not workspace.is_locked("pairs")
    with workspace.lock("pairs"):
        assert workspace.is_locked("pairs")
        with (
            pytest.raises(SweepError, match=r"sweep `pairs` is already running in process \d+"),
            workspace.lock("pairs"),
        ):
            pass
    assert not workspace.is_locked("pairs")
