"""After SIGKILL between any two writes of the tracker, MLflow becomes equal to the study.

A helper process loads the libraries once and forks a child for each kill. A child runs a sweep over
the fake backend, without Ray, counts the statements that change MLflow's database, commits
included, and kills itself before the N-th one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow_equality import mlflow_differences
from mlflow_warnings import MLFLOW_WARNINGS

from sweeps.errors import TrackingIncompleteError, UserInputError
from sweeps.execution.catch_up import catch_up
from sweeps.execution.environment import Environment
from sweeps.execution.tracked_sweep import SentRecord
from sweeps.tracking import default_uri, local_database
from sweeps.workspace import Workspace

pytestmark = [
    pytest.mark.integration,
    *MLFLOW_WARNINGS,
]

SUPPORT = Path(__file__).parents[1] / "support"
KILLS = 60 if os.environ.get("SWEEP_TEST_SLOW") else 8
"""How many moments a test tries, spread evenly over all statements."""

PROGRAM = """
import os, shutil, signal, sqlite3, sys, time
from contextlib import closing
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from sweeps.tracking import mlflow_client, outbox
mlflow_client.load()
import mlflow.store.tracking.sqlalchemy_store
import session_driver
from sweeps import tracking
from sweeps.execution.environment import Environment, open_study
from sweeps.execution.session import Session
from sweeps.execution.tracking_observer import TrackingObserver, finish_tracking, start_tracking
from sweeps.workspace import Workspace

outbox.PAUSE_S = 0.0  # each change is a write of its own
state = {"writes": 0, "kill_at": 0}

def count(statement):
    if statement.lstrip().upper().startswith(("INSERT", "UPDATE", "DELETE", "COMMIT")):
        state["writes"] += 1
        if state["writes"] == state["kill_at"]:
            os.kill(os.getpid(), signal.SIGKILL)

class Counted(sqlite3.Connection):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.set_trace_callback(count)

connect = sqlite3.connect

class InStep(TrackingObserver):  # writes before the study goes on, so that kills meet open trials
    def wait(self):
        while self._tracker._outbox.unwritten:
            time.sleep(0.001)

    def trial_started(self, trial):
        super().trial_started(trial)
        self.wait()

    def events_received(self, trial, first, events):
        super().events_received(trial, first, events)
        self.wait()

    def trial_ended(self, trial):
        super().trial_ended(trial)
        self.wait()

def run(root):
    sqlite3.connect = sqlite3.dbapi2.connect = lambda *a, **o: connect(*a, **(o | {"factory": Counted}))
    plan = session_driver.planned(root, "search.trials=4")
    plan.folder.mkdir(parents=True, exist_ok=True)
    study = open_study(plan, Environment(Workspace(root), "unused"))
    tracker = tracking.Tracker.connect(tracking.default_uri(root), "pairs", root / "artifacts")
    start_tracking(tracker, plan, study)
    session = Session(plan, study, [InStep(tracker, study, plan.folder)], clock=lambda: 100.0)
    session_driver.drive(session)
    end = session.finish()
    finish_tracking(tracker, plan, session, end, "report")
    study.store_finished()
    assert not tracker.problems, tracker.problems

def in_child(root, kill_at):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        state["kill_at"] = kill_at
        try:
            run(root)
            os.write(writer, str(state["writes"]).encode())
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    text = os.read(reader, 100).decode()
    os.close(reader)
    return status, int(text or 0)

folder, kills, database, resumes = Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5] == "resume"

def fresh(name):
    root = folder / name
    root.mkdir(parents=True)
    shutil.copy(database, root / "mlflow.db")
    return root

status, total = in_child(fresh("whole"), 0)
assert status == 0 and total > 60, (status, total)
for index in range(kills):
    kill_at = max(1, round(total * (index + 1) / (kills + 1)))
    root = fresh(f"killed-at-{kill_at}")
    status, _ = in_child(root, kill_at)
    assert os.WIFSIGNALED(status) or status == 0, (status, kill_at)
    if resumes:
        status, _ = in_child(root, 0)
        assert status == 0, (status, kill_at)
"""


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    local_database.prepare(path)
    return path


def kill_everywhere(folder: Path, database: Path, then: str) -> list[Path]:
    """Kill a sweep at KILLS moments, and return the workspaces. `then`: `resume` it, or `stop`."""
    arguments = [str(SUPPORT), str(folder), str(KILLS), str(database), then]
    run = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return sorted(root for root in folder.iterdir() if root.name.startswith("killed"))


def test_a_resumed_sweep_leaves_mlflow_equal_to_the_study(tmp_path: Path, empty_database: Path) -> None:
    roots = kill_everywhere(tmp_path, empty_database, "resume")
    assert mlflow_differences(tmp_path / "whole", "pairs") == []
    differences = {root.name: found for root in roots if (found := mlflow_differences(root, "pairs"))}
    assert differences == {}


def test_track_leaves_mlflow_equal_to_the_study_of_a_killed_sweep(tmp_path: Path, empty_database: Path) -> None:
    behind = 0
    for root in kill_everywhere(tmp_path, empty_database, "stop"):
        environment = Environment(Workspace(root), default_uri(root))
        behind += not SentRecord.read(root / "sweeps" / "pairs").is_complete
        catch_up("pairs", environment, print)
        assert mlflow_differences(root, "pairs") == [], root.name
        assert catch_up("pairs", environment, print).sent == 0
        assert mlflow_differences(root, "pairs") == [], root.name
        assert SentRecord.read(root / "sweeps" / "pairs").is_complete
    assert behind >= KILLS // 2


def test_track_rebuilds_a_deleted_database_and_corrects_a_changed_one(tmp_path: Path, empty_database: Path) -> None:
    kill_everywhere(tmp_path, empty_database, "stop")
    root = tmp_path / "whole"
    environment = Environment(Workspace(root), default_uri(root))
    moved = root / "moved"
    moved.mkdir()
    for file in root.glob("mlflow.db*"):
        shutil.move(file, moved / file.name)
    assert catch_up("pairs", environment, print).sent == 4
    assert mlflow_differences(root, "pairs") == []

    client = MlflowClient(default_uri(root))
    experiment = client.get_experiment_by_name("pairs")
    assert experiment is not None
    wrong, deleted, *_ = client.search_runs([experiment.experiment_id], "tags.`finesweep.trial_key` LIKE '%'")
    client.set_tag(wrong.info.run_id, "verdict", "wrong")
    client.set_terminated(wrong.info.run_id, "FAILED")
    client.log_metric(wrong.info.run_id, "tokens", 1e9)
    client.delete_run(deleted.info.run_id)
    assert len(mlflow_differences(root, "pairs")) >= 3
    assert catch_up("pairs", environment, print).sent == 2
    assert mlflow_differences(root, "pairs") == []


def test_track_of_an_unknown_sweep_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="there is no such sweep"):
        catch_up("snli", Environment(Workspace(tmp_path), default_uri(tmp_path)), print)
    assert TrackingIncompleteError.exit_code == 4
