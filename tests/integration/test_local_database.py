"""The local MLflow database survives SIGKILL at any moment of its creation and of its upgrade.

A helper process loads MLflow once and forks a child for each kill. A child counts the SQL
statements of all its connections, and kills itself before the N-th one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow_warnings import MLFLOW_WARNINGS

from sweeps.cli import machine_checks
from sweeps.errors import SweepError
from sweeps.tracking import default_uri, local_database, mlflow_client
from sweeps.tracking.local_database import DatabaseState, examine, prepare
from sweeps.workspace import Workspace

pytestmark = [
    pytest.mark.integration,
    *MLFLOW_WARNINGS,
]

EARLIER_REVISION = "3500859a5d39"
"""The schema of MLflow 2.3, some 50 migrations ago: the first one with the alias of a champion."""

KILLS = 40 if os.environ.get("SWEEP_TEST_SLOW") else 6
"""How many moments a test tries, spread evenly over all statements."""

PROGRAM = """
import json, os, shutil, signal, sqlite3, sys
from pathlib import Path
from sweeps.tracking import local_database, mlflow_client, sqlite_files
mlflow_client.load()
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

state = {"statements": 0, "kill_at": 0}

def count(_statement=""):
    state["statements"] += 1
    if state["statements"] == state["kill_at"]:
        os.kill(os.getpid(), signal.SIGKILL)

class Counted(sqlite3.Connection):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.set_trace_callback(count)

    def backup(self, target, **options):
        count()
        super().backup(target, pages=20, **(options | {"progress": lambda *_: count()}))
        count()

connect = sqlite3.connect
def counted(*arguments, **options):
    return connect(*arguments, **(options | {"factory": Counted}))

def in_child(work, kill_at):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        sqlite3.connect = sqlite3.dbapi2.connect = counted
        state["kill_at"] = kill_at
        work()
        os.write(writer, str(state["statements"]).encode())
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    text = os.read(reader, 100).decode()
    os.close(reader)
    return status, int(text or 0)

def in_place(path):  # as MLflow alone creates or upgrades a database
    from mlflow.store.db import utils
    engine = utils.create_sqlalchemy_engine(sqlite_files.uri_of(path))
    if not utils._all_tables_exist(engine):
        utils._initialize_tables(engine)

folder, kills, how, template = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
work = {"prepare": local_database.prepare, "in place": in_place}[how]

def fresh(name):
    (folder / name).mkdir(parents=True)
    if template:
        shutil.copy(template, folder / name / "mlflow.db")
    return folder / name / "mlflow.db"

_, total = in_child(lambda path=fresh("whole"): work(path), 0)
assert total > 100, total
for index in range(kills):
    kill_at = max(1, round(total * (index + 1) / (kills + 1)))
    path = fresh(f"killed-at-{kill_at}")
    status, _ = in_child(lambda: work(path), kill_at)
    assert os.WIFSIGNALED(status), (status, kill_at)
print(json.dumps(total))
"""


def kill_everywhere(folder: Path, how: str, template: Path | None = None) -> list[Path]:
    """Kill a process at KILLS moments, and return the paths of the databases it was busy with."""
    arguments = [str(folder), str(KILLS), how, str(template or "")]
    run = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    killed = [kept / "mlflow.db" for kept in folder.iterdir() if kept.name.startswith("killed")]
    assert len(killed) == KILLS
    return killed


def assert_usable(path: Path) -> None:
    """Use the database as a sweep does: an experiment, a run, and a registered model."""
    client = mlflow_client.new_client(f"sqlite:///{path}")
    run = client.create_run(client.create_experiment("usable"))
    client.log_metric(run.info.run_id, "loss", 1.0)
    client.create_registered_model("usable")
    assert client.get_run(run.info.run_id).data.metrics == {"loss": 1.0}
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    left = {file.name for file in path.parent.iterdir()} - {"mlflow.db", "mlflow.db-wal", "mlflow.db-shm"}
    assert {name for name in left if "draft" in name or name.endswith(".copy")} == set()


@pytest.fixture(scope="module")
def earlier_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the schema of an earlier MLflow, with a run and a champion in it."""
    path = tmp_path_factory.mktemp("earlier") / "mlflow.db"
    program = (
        "import sys; from sweeps.tracking import mlflow_client; mlflow_client.load()\n"
        "from alembic import command; from mlflow.store.db import utils\n"
        "from mlflow.store.tracking.dbmodels.initial_models import Base\n"
        "uri = f'sqlite:///{sys.argv[1]}'; engine = utils.create_sqlalchemy_engine(uri)\n"
        "Base.metadata.create_all(engine)\n"
        "config = utils._get_alembic_config(uri)\n"
        "with engine.begin() as connection:\n"
        "    config.attributes['connection'] = connection; command.upgrade(config, sys.argv[2])\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path), EARLIER_REVISION], check=True, capture_output=True)
    with contextlib.closing(sqlite3.connect(path)) as database:
        for statement in (
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) VALUES "
            "(0, 'Default', './mlruns/0', 'active'), (1, 'snli', './mlruns/1', 'active')",
            "INSERT INTO runs (run_uuid, name, source_type, status, start_time, end_time, lifecycle_stage,"
            " artifact_uri, experiment_id, user_id)"
            " VALUES ('r1', 'trial-00', 'LOCAL', 'FINISHED', 1, 2, 'active', './mlruns/1/r1', 1, 'me')",
            "INSERT INTO tags (key, value, run_uuid) VALUES ('verdict', 'healthy', 'r1')",
            "INSERT INTO params (key, value, run_uuid) VALUES ('n_epochs', '3', 'r1')",
            "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('loss', 0.5, 1, 'r1', 1, 0),"
            " ('loss', 0.25, 2, 'r1', 2, 0)",
            "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES"
            " ('loss', 0.25, 2, 2, 0, 'r1')",
            "INSERT INTO registered_models (name, creation_time, last_updated_time) VALUES ('m', 1, 1)",
            "INSERT INTO model_versions (name, version, creation_time, last_updated_time, current_stage, source,"
            " run_id, status) VALUES ('m', 1, 1, 1, 'None', './mlruns/1/r1/champion', 'r1', 'READY')",
            "INSERT INTO registered_model_aliases (alias, version, name) VALUES ('champion', 1, 'm')",
        ):
            database.execute(statement)
        database.commit()
    return path


def assert_holds_the_records(path: Path) -> None:
    client = MlflowClient(f"sqlite:///{path}")
    run = client.get_run("r1")
    assert (run.info.run_name, run.info.status) == ("trial-00", "FINISHED")
    assert (run.data.params, run.data.tags["verdict"], run.data.metrics) == (
        {"n_epochs": "3"},
        "healthy",
        {"loss": 0.25},
    )
    assert [point.step for point in client.get_metric_history("r1", "loss")] == [1, 2]
    assert client.get_model_version_by_alias("m", "champion").run_id == "r1"


def test_a_kill_while_the_database_is_created_leaves_none_or_a_whole_one(tmp_path: Path) -> None:
    for path in kill_everywhere(tmp_path, "prepare"):
        assert examine(path) in (DatabaseState.MISSING, DatabaseState.READY)
        prepare(path)
        assert_usable(path)


def test_a_database_that_mlflow_left_half_made_is_created_again(tmp_path: Path) -> None:
    states = set()
    for path in kill_everywhere(tmp_path, "in place"):
        states.add(state := examine(path))
        said: list[str] = []
        prepare(path, said.append)
        assert_usable(path)
        if state is DatabaseState.HALF_MADE:
            assert said == ["a killed process left the MLflow database half made; creating it again"]
    assert DatabaseState.HALF_MADE in states or DatabaseState.OUTDATED in states


def test_a_kill_while_the_database_is_upgraded_loses_no_record(tmp_path: Path, earlier_database: Path) -> None:
    for path in kill_everywhere(tmp_path, "prepare", earlier_database):
        assert examine(path) in (DatabaseState.OUTDATED, DatabaseState.READY)
        prepare(path)
        assert_usable(path)
        assert_holds_the_records(path)


def test_a_database_that_mlflow_left_half_upgraded_is_mended(tmp_path: Path, earlier_database: Path) -> None:
    for path in kill_everywhere(tmp_path, "in place", earlier_database):
        state, said = examine(path), []
        prepare(path, said.append)
        assert_usable(path)
        assert_holds_the_records(path)
        if state in (DatabaseState.HALF_MADE, DatabaseState.OUTDATED):
            [kept] = [file for file in path.parent.iterdir() if "half-made" in file.name or "before" in file.name]
            assert kept.name in said[0]
            with contextlib.closing(sqlite3.connect(kept)) as database:
                assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_an_earlier_database_is_upgraded_and_a_copy_stays(tmp_path: Path, earlier_database: Path) -> None:
    path = tmp_path / "mlflow.db"
    shutil.copy(earlier_database, path)
    said: list[str] = []
    prepare(path, said.append)
    prepare(path, said.append)
    assert said == ["upgrading the MLflow database for the installed MLflow; a copy stays in mlflow.db.before-upgrade"]
    assert_holds_the_records(path)
    assert examine(tmp_path / "mlflow.db.before-upgrade") is DatabaseState.OUTDATED


def test_several_processes_create_one_database_together(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    program = (
        "import sys; from pathlib import Path; from sweeps.tracking import mlflow_client; mlflow_client.load()\n"
        "client = mlflow_client.new_client(f'sqlite:///{sys.argv[1]}'); client.create_experiment(sys.argv[2])"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(path), name], stderr=subprocess.PIPE, text=True)
        for name in ("a", "b", "c")
    ]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    names = {experiment.name for experiment in MlflowClient(f"sqlite:///{path}").search_experiments()}
    assert names == {"Default", "a", "b", "c"}


def test_a_database_of_a_newer_mlflow_is_an_error_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    prepare(path)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE alembic_version SET version_num = 'fffffffffff1'")
        database.commit()
    with pytest.raises(SweepError, match="a newer version of MLflow wrote the database") as raised:
        prepare(path)
    assert "pip install --upgrade mlflow" in raised.value.hint


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Another connection holds the database."""
    with contextlib.closing(sqlite3.connect(path, check_same_thread=False)) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield


def test_a_database_that_another_program_holds_is_an_error_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.tracking.sqlite_files.BUSY_TIMEOUT_S", 0.1)
    path = tmp_path / "mlflow.db"
    prepare(path)
    with held(path), pytest.raises(SweepError, match="database is locked") as raised:
        prepare(path)
    assert raised.value.hint == "Another program holds it: stop that program, or wait for it."
    prepare(path)


def test_a_process_waits_for_another_one_that_prepares_the_database_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.tracking.sqlite_files.LOCK_NOTICE_S", 0.05)
    path, told, said = tmp_path / "mlflow.db", threading.Event(), []

    def say(message: str) -> None:
        said.append(message)
        told.set()

    with local_database.locked(path, print):
        waiting = threading.Thread(target=prepare, args=(path, say))
        waiting.start()
        assert told.wait(60)
        assert not path.exists()
    waiting.join(120)
    assert said == [f"waiting for another process, which prepares the MLflow database {path}"]
    assert examine(path) is DatabaseState.READY


def test_doctor_names_a_half_made_database_and_the_command_that_mends_it(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    prepare(path)
    workspace = Workspace(tmp_path)

    def found() -> machine_checks.MachineCheck:
        [check] = [
            check for check in machine_checks.examine(workspace, default_uri(tmp_path)) if "MLflow" in check.what
        ]
        return check

    assert found().state == "ok"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE _alembic_tmp_latest_metrics (key TEXT)")
        database.commit()
    assert (found().state, "half" in found().what, "sweep track" in found().remedy) == ("bad", True, True)
    path.write_text("not a database\n" * 500)
    assert (found().state, "not a database" in found().what) == ("bad", True)
    assert json.dumps(found().to_json())
