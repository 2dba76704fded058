"""The workspace: names, locks, and sweeps that are set aside."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest
from session_driver import planned

from sweeps.errors import SweepError
from sweeps.execution.environment import Environment, open_study
from sweeps.study import state
from sweeps.workspace import Workspace, remove_if_abandoned, write_text

pytestmark = pytest.mark.unit


def test_a_sweep_that_was_set_aside_can_still_be_read(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    plan = planned(tmp_path)
    study = open_study(plan, Environment(workspace, "sqlite://"))
    workspace.sweep_folder("pairs").mkdir(exist_ok=True)
    (workspace.sweep_folder("pairs") / "plan.json").write_text(json.dumps(plan.to_json(), default=str))
    with workspace.lock_afresh("pairs") as aside:
        assert aside is not None
        assert workspace.is_locked("pairs")
        assert not workspace.is_locked(aside.name)
    assert state.read_state(workspace, aside.name, None).name == aside.name
    assert workspace.is_study_name_taken("pairs"), "a sweep that starts again needs a study of its own"
    workspace.set_study_name("pairs", "pairs-2")
    assert not workspace.is_study_name_taken("pairs")
    assert study.trials == []


def test_a_fresh_start_beside_a_running_sweep_changes_nothing(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with workspace.lock("pairs"):
        (workspace.sweep_folder("pairs") / "plan.json").write_text("{}")
        with pytest.raises(SweepError, match="already running"), workspace.lock_afresh("pairs"):
            pass
        assert [folder.name for folder in (tmp_path / "sweeps").iterdir()] == ["pairs"]
        assert (workspace.sweep_folder("pairs") / "plan.json").exists()
    with workspace.lock_afresh("new") as aside:
        assert aside is None


def test_a_lock_on_a_folder_that_was_set_aside_meanwhile_is_worth_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the opening of the lock file and the lock, another process set the folder aside."""
    workspace = Workspace(tmp_path)
    with workspace.lock("pairs"):
        pass
    lock, moved = fcntl.flock, []

    def set_aside_first(file: Any, operation: int) -> None:
        if not moved:
            moved.append(workspace.sweep_folder("pairs").rename(tmp_path / "sweeps" / "pairs.1"))
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", set_aside_first)
    with workspace.lock("pairs"):
        monkeypatch.undo()
        assert workspace.is_locked("pairs")
        assert not workspace.is_locked("pairs.1")


def test_a_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "file", "before")

    def fail(path: Path, *_: Any, **__: Any) -> int:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "file", "after")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]


def test_what_killed_processes_left_in_a_folder_is_removed_by_the_next_write(tmp_path: Path) -> None:
    dead, alive, other = tmp_path / ".a.4194301.draft", tmp_path / ".file.4194302.draft", tmp_path / ".file.bak"
    for draft in (dead, alive, other):
        draft.write_text("half")
    with alive.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        write_text(tmp_path / "file", "whole")
    assert {file.name for file in tmp_path.iterdir()} == {"file", alive.name, other.name}


def test_a_draft_that_was_removed_before_its_lock_is_begun_anew_under_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other processes look for abandoned drafts at any moment."""
    flock, replace = fcntl.flock, Path.replace

    def flock_too_late(file: Any, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        next(tmp_path.glob(".*.draft")).unlink()
        flock(file, operation)

    def replace_after_a_look(draft: Path, target: Path) -> Path:
        remove_if_abandoned(draft)
        return replace(draft, target)

    monkeypatch.setattr(fcntl, "flock", flock_too_late)
    monkeypatch.setattr(Path, "replace", replace_after_a_look)
    write_text(tmp_path / "file", "whole")
    assert (tmp_path / "file").read_text() == "whole"


def test_the_next_draft_of_a_living_process_is_not_taken_for_its_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft, flock = tmp_path / ".file.1.draft", fcntl.flock
    draft.write_text("the last one")

    def flock_too_late(file: Any, operation: int) -> None:
        draft.replace(tmp_path / "file")
        draft.write_text("the next one")
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock_too_late)
    remove_if_abandoned(draft)
    assert draft.read_text() == "the next one"


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
