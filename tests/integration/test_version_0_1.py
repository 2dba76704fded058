"""Studies, databases, schedules and models that version 0.1 wrote go on under this version."""

from __future__ import annotations

import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

STATE = Path(__file__).parents[1] / "data" / "version_0_1"
WRITTEN_IN = "/tmp/finesweep-0.1-state"
UNSET = {"MLFLOW_TRACKING_URI", "SWEEP_STORAGE", "SWEEP_ROOT", "RAY_ADDRESS", "SWEEP_TEST_SLOW"}

_spec = importlib.util.spec_from_file_location("restore_version_0_1", STATE / "restore.py")
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
restore: Callable[[Path, Path], list[Path]] = _module.restore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A fresh copy of what version 0.1 wrote, for a test that changes it."""
    restore(STATE / "state.tar.gz", tmp_path / "state")
    return tmp_path / "state"


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One copy for the tests that only read."""
    folder = tmp_path_factory.mktemp("version-0-1") / "state"
    restore(STATE / "state.tar.gz", folder)
    return folder


def sweep(folder: Path, *arguments: str) -> Any:
    """Run a command of this version in the restored folder, and return its JSON output."""
    environment = {name: value for name, value in os.environ.items() if name not in UNSET} | {"HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", "sweeps.cli", *arguments, "--json"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def expected(name: str, folder: Path) -> Any:
    """Return what the command of version 0.1 printed."""
    return json.loads((STATE / "expected" / f"{name}.json").read_text().replace(WRITTEN_IN, str(folder)))


NEW_FIELDS = {
    "failure": None,
    "will_retry": False,
    "machine": None,
    "passed_evaluations": 0,
    "test_metric": "accuracy",
    "decodings": [],
}
"""The fields of trials and finals that version 0.1 did not have, with their values then."""


def _known_to_0_1(value: Any) -> Any:
    if isinstance(value, dict):
        fields = value.items()
        return {
            name: _known_to_0_1(item) for name, item in fields if name not in NEW_FIELDS or item != NEW_FIELDS[name]
        }
    return [_known_to_0_1(item) for item in value] if isinstance(value, list) else value


def assert_same(found: Any, wanted: Any) -> None:
    """Compare JSON values: NaN equals NaN, 1 equals 1.0, and new fields are unset."""
    assert json.dumps(_floats(_known_to_0_1(found)), sort_keys=True) == json.dumps(_floats(wanted), sort_keys=True)


def _floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_floats(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def without_model(trial: dict[str, Any]) -> dict[str, Any]:
    """Leave out the model: a sweep that goes on deletes models that are not among the best any
    more.
    """
    return {name: value for name, value in trial.items() if name != "model"}


def test_status_prints_what_version_0_1_printed(unchanged: Path) -> None:
    names = expected("status-names", unchanged)
    assert len(names) == 9
    found = sweep(unchanged, "status")
    for state in found:
        del state["advice"]  # the advice on the sweep is new
    assert_same(found, [expected(f"status-{name}", unchanged) for name in names])


def test_the_schedule_and_its_nights_are_read(unchanged: Path) -> None:
    found = sweep(unchanged, "schedule", "history", "nightly")
    assert_same(found, expected("schedule-history-nightly", unchanged))
    [listed], [wanted] = sweep(unchanged, "schedule", "list"), expected("schedule-list", unchanged)
    for depends_on_today in ("next", "month"):
        listed.pop(depends_on_today)
        wanted.pop(depends_on_today)
    assert_same(listed, wanted)


def test_the_registered_model_keeps_its_history_and_answers(unchanged: Path) -> None:
    assert_same(sweep(unchanged, "champion", "history", "answers"), expected("champion-history-answers", unchanged))
    answers, wanted = sweep(unchanged, "predict", "answers", "new.csv"), expected("predict-answers", unchanged)
    assert [answer["prediction"] for answer in answers] == [answer["prediction"] for answer in wanted]
    for answer, old_answer in zip(answers, wanted, strict=True):
        assert answer["probability"] == pytest.approx(old_answer["probability"], abs=1e-3)


def test_a_killed_sweep_is_adopted_in_the_middle_of_its_trial(folder: Path) -> None:
    with closing(sqlite3.connect(folder / ".sweep/sweeps/cut/fake-service.sqlite")) as database, database:
        # the simulated run started just now, or it would have ended long ago
        moved = database.execute(
            "UPDATE runs SET ends_at = ends_at - submitted_at + :now, submitted_at = :now WHERE revealed < total",
            {"now": time.time() + 6},
        )
        assert moved.rowcount > 0
    before = expected("status-cut", folder)["trials"]
    after = sweep(folder, "run", "cut.yaml")["trials"]
    assert [trial["state"] for trial in after] == ["complete"] * 5
    assert {trial["key"] for trial in before} <= {trial["key"] for trial in after}
    complete = next(trial for trial in before if trial["state"] == "complete")
    assert_same(
        without_model(next(trial for trial in after if trial["key"] == complete["key"])), without_model(complete)
    )


def test_a_local_run_resumes_from_its_checkpoint(folder: Path) -> None:
    [events] = (folder / ".sweep/sweeps/paused/jobs").glob("*-0000/events.jsonl")
    old_events = [line for line in events.read_text().splitlines() if line]
    checkpoint = events.with_name("resume.pt")
    assert checkpoint.exists()
    trials = sweep(folder, "run", "paused.yaml")["trials"]
    assert [trial["state"] for trial in trials] == ["complete"] * 2
    new_events = [json.loads(line) for line in events.read_text().splitlines() if line]
    assert len(new_events) > len(old_events)
    started = [event for event in new_events if event["kind"] == "started"]
    assert len(started) == 1, "the run went on and did not start again"
    evaluations = [
        event["epoch"] for event in new_events if event["kind"] == "measured" and event["scope"] == "evaluation"
    ]
    assert evaluations == sorted(set(evaluations)), "no epoch was measured twice"


def test_a_complete_sweep_goes_on_with_more_trials(folder: Path) -> None:
    old = expected("status-steered", folder)
    done = sweep(folder, "run", "steered.yaml", "--set", "search.trials=16")
    assert len(done["trials"]) == 16
    assert_same(done["changes"][: len(old["changes"])], old["changes"])
    last = max(trial["number"] for trial in old["trials"])
    kept = [without_model(trial) for trial in done["trials"] if trial["number"] <= last]
    assert_same(kept, [without_model(trial) for trial in old["trials"]])
    assert done["problems"] == []
    assert done["finals"] is not None


def test_mlflow_gets_the_runs_of_the_sweep_back(folder: Path) -> None:
    with closing(sqlite3.connect(folder / ".sweep/mlflow.db")) as database:
        before = {key for (key,) in database.execute("SELECT run_uuid FROM runs")}
    sweep(folder, "run", "steered.yaml", "--set", "search.trials=15")
    with closing(sqlite3.connect(folder / ".sweep/mlflow.db")) as database:
        after = {key for (key,) in database.execute("SELECT run_uuid FROM runs")}
    assert before < after
    assert len(after - before) < 6, "only the new trials got new runs"


def test_another_night_counts_what_the_month_has_cost(folder: Path) -> None:
    night = sweep(folder, "schedule", "run-now", "nightly")
    assert night is not None
    history = sweep(folder, "schedule", "history", "nightly")
    assert len(history) == 4
    assert_same(history[:3], expected("schedule-history-nightly", folder)[:3])
