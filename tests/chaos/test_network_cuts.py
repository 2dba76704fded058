"""The network is cut in the middle of a sweep, and comes back: a service, MLflow, a database.

Each runs on a machine of its own. The sweep runs on another one, with a Ray of its own.
"""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import machine_lab
import pytest
from machine_lab import PATIENCE_S, Machine, MachineLab, report, wait_for
from mlflow_equality import mlflow_differences

from tests.integration import databases

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(machine_lab.missing() is not None, reason=f"no machines: {machine_lab.missing()}"),
]

FILE = """\
name: pairs
data: {checks: quick, source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 120, valid_examples: 60}
backend: BACKEND
space: {n_epochs: 8, batch_size: {low: 1, high: 8}}
search: {sampler: random, scheduler: none, stop_by_verdict: false, trials: 3, concurrency: 2}
objective: {maximize: valid_accuracy}
"""
EPOCHS = 8


class Lab(MachineLab):
    """The machine `desk`, where the sweep runs, and the machine `away` with what it needs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(MLFLOW_HTTP_REQUEST_TIMEOUT="5")
        self.folder = folder
        self.desk, self.away = self.add("desk"), self.add("away")
        self.said_at: list[float] = []
        self._sweep: Any = None

    def serve_jobs(self) -> str:
        """Start `sweep serve` on `away`. Returns the backend of a sweep that uses it."""
        command = ["sweep", "serve", "--root", "/tmp/server", "--host", "0.0.0.0", "--port", "8765"]
        options = ["--backend", "fake", "--max-jobs", "4", "--set", "seconds_per_epoch=2"]
        self.away.start([*command, *options], self.folder / "server.log")
        address = f"http://{self.away.address}:8765/v1"
        self._await_answer(f"{address}/models")
        return json.dumps({"type": "hosted", "host": "local", "base_url": address, "model": "fake-small"})

    def serve_mlflow(self) -> str:
        """Start an MLflow server on `away`. Returns its address."""
        command = ["mlflow", "server", "--backend-store-uri", "sqlite:////tmp/mlflow.db", "--host", "0.0.0.0"]
        options = ["--port", "5000", "--workers", "1", "--allowed-hosts", "*", "--default-artifact-root", "/tmp/files"]
        self.away.start([*command, *options], self.folder / "server.log", MLFLOW_DISABLE_TELEMETRY="true")
        address = f"http://{self.away.address}:5000"
        self._await_answer(f"{address}/health")
        return address

    def serve_postgresql(self) -> str:
        """Start PostgreSQL on `away`. Returns the URL of a database."""
        programs = databases.programs()
        run_as = ["runuser", "-u", "postgres", "--"]
        made = self.away.run(
            *run_as, str(programs / "initdb"), "-D", "/tmp/postgres", "-U", "postgres", "-A", "trust", "--no-sync"
        )
        assert made.returncode == 0, made.stderr
        with self.away.path("/tmp/postgres/pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {machine_lab.SUBNET}.0/24 trust\n")
        settings = ["listen_addresses=*", "unix_socket_directories=", "fsync=off"]
        command = [str(programs / "postgres"), "-D", "/tmp/postgres", "-p", "5432"]
        for setting in settings:
            command += ["-c", setting]
        self.away.start([*run_as, *command], self.folder / "server.log")
        connect = f"import psycopg; psycopg.connect(host={self.away.address!r}, user='postgres').close()"
        wait_for(lambda: self.desk.run("python", "-c", connect).returncode == 0, "PostgreSQL")
        return f"postgresql+psycopg://postgres@{self.away.address}:5432/postgres"

    def _await_answer(self, url: str) -> None:
        ask = f"import urllib.request as r; r.urlopen({url!r}, timeout=5).close()"
        wait_for(lambda: self.desk.run("python", "-c", ask).returncode == 0, url)

    def start_sweep(self, backend: str, **environment: str) -> None:
        """Start `sweep run` on `desk`. Its output goes to `sweep.log`."""
        self.desk.path("/tmp/pairs.yaml").write_text(FILE.replace("BACKEND", backend))
        (self.folder / "sweep.log").unlink(missing_ok=True)
        command = ["sweep", "--root", "/tmp/work", "run", "pairs.yaml"]
        self._sweep = self.desk.start(command, self.folder / "sweep.log", **environment)

    @property
    def words(self) -> str:
        """What the sweep has said so far."""
        return (self.folder / "sweep.log").read_text()

    def await_words(self, words: str) -> None:
        wait_for(lambda: self._look(words) or self._sweep.poll() is not None, f"the words {words!r}")
        assert words in self.words, self.words

    def _look(self, words: str) -> bool:
        said = self.words
        lines = said.count("\n")
        self.said_at += [time.monotonic()] * (lines - len(self.said_at))
        return words in said

    def await_end(self) -> int:
        wait_for(lambda: self._sweep.poll() is not None, "the end of the sweep", 2 * PATIENCE_S)
        return int(self._sweep.returncode)

    def trials(self, **environment: str) -> list[dict[str, Any]]:
        done = self.desk.run("sweep", "--root", "/tmp/work", "status", "pairs", "--json", **environment)
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout)["trials"])

    def jobs(self) -> list[dict[str, Any]]:
        """Return the jobs of the service."""
        url = f"http://{self.away.address}:8765/v1/fine_tuning/jobs?limit=100"
        ask = f"import urllib.request as r; print(r.urlopen({url!r}, timeout=30).read().decode())"
        return list(json.loads(self.desk.run("python", "-c", ask).stdout)["data"])


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    running = Lab(tmp_path)
    try:
        yield running
    finally:
        running.close()


def assert_complete(lab: Lab, **environment: str) -> None:
    trials = lab.trials(**environment)
    assert sorted(trial["number"] for trial in trials) == [0, 1, 2]
    assert {trial["state"] for trial in trials} == {"complete"}
    assert [[round(point["epoch"]) for point in trial["curve"]] for trial in trials] == [list(range(EPOCHS + 1))] * 3
    assert len({trial["key"] for trial in trials}) == 3
    assert "Traceback" not in lab.words


@pytest.mark.parametrize(
    ("victim", "silently"),
    [("away", False), ("away", True), ("desk", False)],
    ids=["service-unplugged", "packets-dropped", "desk-unplugged"],
)
def test_a_service_that_is_cut_off_is_waited_for(lab: Lab, victim: str, silently: bool) -> None:
    backend = lab.serve_jobs()
    lab.start_sweep(backend)
    lab.await_words("epoch 2/8")
    machine: Machine = lab.machines[victim]
    cut_at = time.monotonic()
    machine.cut(silently=silently)
    lab.said_at.clear()
    lab._look("")
    told_by = len(lab.said_at)
    lab.await_words("answer of the service" if silently else "cannot be reached")
    first_s = time.monotonic() - cut_at
    lab.await_words("cannot be reached")
    moments = [cut_at, *lab.said_at[told_by:], time.monotonic()]
    longest_s = max(later - earlier for earlier, later in itertools.pairwise(moments))
    machine.mend()
    mended_at = time.monotonic()
    assert lab.await_end() == 0, lab.words
    report(
        f"{victim} cut off{' silently' if silently else ''}: said after {first_s:.1f} s, longest silence of the screen"
        f" {longest_s:.1f} s; the sweep ended {time.monotonic() - mended_at:.1f} s after the network was back"
    )
    assert_complete(lab)
    assert len(lab.jobs()) == 3, "a job was created twice"


LOCAL = json.dumps({"type": "fake", "model": "fake-small", "seconds_per_epoch": 2})


@pytest.mark.parametrize("silently", [False, True], ids=["unplugged", "silent"])
def test_an_mlflow_server_that_is_cut_off_catches_up(lab: Lab, silently: bool) -> None:
    address = lab.serve_mlflow()
    lab.start_sweep(LOCAL, MLFLOW_TRACKING_URI=address)
    lab.await_words("epoch 2/8")
    cut_at = time.monotonic()
    lab.away.cut(silently=silently)
    lab.await_words("MLflow does not answer")
    report(f"MLflow cut off{' silently' if silently else ''}: said after {time.monotonic() - cut_at:.1f} s")
    lab.away.mend()
    assert lab.await_end() == 0, lab.words
    assert "MLflow answers again" in lab.words
    assert_complete(lab)
    assert_equal(lab)


def test_an_mlflow_server_that_stays_cut_off_is_an_error_that_the_same_command_mends(lab: Lab) -> None:
    address = lab.serve_mlflow()
    lab.start_sweep(LOCAL, MLFLOW_TRACKING_URI=address)
    lab.await_words("epoch 2/8")
    lab.away.cut()
    assert lab.await_end() == 4, lab.words
    assert lab.words.count("error:") == 1
    assert "sweep track pairs" in lab.words
    assert_complete(lab)
    lab.away.mend()
    lab.start_sweep(LOCAL, MLFLOW_TRACKING_URI=address)
    assert lab.await_end() == 0, lab.words
    assert_complete(lab)
    assert_equal(lab)


@pytest.mark.parametrize("comes_back", [True, False], ids=["back", "away"])
def test_a_database_behind_a_router_that_drops_everything(lab: Lab, comes_back: bool) -> None:
    storage = {"SWEEP_STORAGE": lab.serve_postgresql()}
    lab.start_sweep(LOCAL, **storage)
    lab.await_words("epoch 2/8")
    cut_at = time.monotonic()
    lab.away.cut(silently=True)
    lab.await_words("the database of SWEEP_STORAGE gives no answer")
    report(f"PostgreSQL cut off silently: said after {time.monotonic() - cut_at:.1f} s")
    if comes_back:
        lab.away.mend()
    code = lab.await_end()
    report(f"PostgreSQL {'back' if comes_back else 'away'}: exit code {code} after {time.monotonic() - cut_at:.1f} s")
    assert code == 1 or (comes_back and code == 0), lab.words
    assert lab.words.count("error:") == code, lab.words
    assert "Traceback" not in lab.words
    lab.away.mend()
    lab.start_sweep(LOCAL, **storage)
    assert lab.await_end() == 0, lab.words
    assert_complete(lab, **storage)


def assert_equal(lab: Lab) -> None:
    """Check that MLflow's database shows what the study records, in copies of both."""
    workspace = lab.folder / "work"
    shutil.rmtree(workspace, ignore_errors=True)
    shutil.copytree(lab.desk.path("/tmp/work"), workspace)
    for file in lab.away.path("/tmp").glob("mlflow.db*"):
        shutil.copy(file, lab.folder)
    assert not mlflow_differences(workspace, "pairs", uri=f"sqlite:///{lab.folder / 'mlflow.db'}")
