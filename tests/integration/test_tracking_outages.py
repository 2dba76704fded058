"""MLflow goes away in the middle of a sweep: it catches up, or the user learns what it lacks."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from bad_day import BadDay
from faulty_proxy import Fault, FaultyProxy, faulty_proxy
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow_equality import mlflow_differences

from backends.contract import Charged, Event, Finished, Handle, Measured, Queued, Started
from sweeps.errors import SweepError
from sweeps.tracking import TrackedDataset, TrackedPart, Tracker, default_uri, local_database, serve_ui
from sweeps.trials.trial import Spend, Trial, TrialState
from sweeps.verdicts.verdict import FitVerdict, VerdictKind

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

_spec = util.spec_from_file_location("databases", Path(__file__).with_name("databases.py"))
assert _spec is not None
assert _spec.loader is not None
databases: Any = util.module_from_spec(_spec)
_spec.loader.exec_module(databases)

DATA = TrackedDataset("builtin:nli", "builtin:nli", {"training": TrackedPart("a" * 64, 9)})
SWEEP = Path(sys.executable).with_name("sweep")
SMALL_MB = 8


def trial_of(number: int) -> Trial:
    return Trial(
        number, f"key-{number}", "tiny", {"n_epochs": 4}, 11, started_at=1_700_000_000.0, handle=Handle("fake", "h")
    )


def events_of() -> list[Event]:
    measured = [Measured(epoch, float(epoch), {"valid_loss": 1 / (epoch + 1)}, "evaluation") for epoch in range(5)]
    return [Queued(), Started({}), *measured, Charged(None, 10), Finished("m")]


def ended(trial: Trial) -> Trial:
    verdict = FitVerdict(VerdictKind.HEALTHY, "both losses fell")
    curve = tuple(event for event in events_of() if isinstance(event, Measured))
    return Trial(
        **{
            **{name: getattr(trial, name) for name in ("number", "key", "base_model", "hyperparameters", "seed")},
            "handle": trial.handle,
            "started_at": trial.started_at,
            "state": TrialState.COMPLETE,
            "curve": curve,
            "values": (0.5,),
            "spend": Spend(1.0, 10),
            "verdict": verdict,
            "ended_at": 1_700_000_100.0,
        }
    )


def connect(uri: str, root: Path, said: list[str] | None = None) -> Tracker:
    tracker = Tracker.connect(uri, "snli", root / "artifacts", (said if said is not None else []).append)
    tracker.start("sweep-1", "snli", {}, {"backend": "fake"}, DATA, {})
    return tracker


def show(tracker: Tracker, number: int, until: int | None = None, since: int = 0) -> None:
    """Show the events of a trial from `since` to `until`; the whole trial without `until`."""
    trial, events = trial_of(number), events_of()
    if since == 0:
        tracker.trial_started(trial)
    tracker.events_received(trial.key, since, events[since:until])
    if until is None:
        tracker.trial_ended(ended(trial))


def await_written(tracker: Tracker) -> None:
    wait_for(lambda: not tracker.lacking)


def wait_for(condition: Callable[[], bool], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def assert_in_words(problems: tuple[str, ...]) -> None:
    """No problem contains SQL, HTML, a class of an exception or an address in memory."""
    for problem in problems:
        assert not re.search(
            r"\[SQL|SELECT|INSERT|<html|Error\(|Exception|0x[0-9a-f]{6}|Traceback|HTTPConnection", problem
        )
        assert len(problem) < 300, problem


def assert_shows_trials(uri: str, count: int) -> None:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("snli")
    assert experiment is not None
    runs: list[Run] = client.search_runs([experiment.experiment_id], "tags.`finesweep.trial_key` LIKE '%'")
    keys = [run.data.tags["finesweep.trial_key"] for run in runs]
    assert sorted(keys) == sorted(f"key-{number}" for number in range(count))
    for run in runs:
        assert (run.info.status, run.data.metrics["objective"]) == ("FINISHED", 0.5)
        history = client.get_metric_history(run.info.run_id, "valid_loss")
        assert sorted(point.step for point in history) == [0, 1, 2, 3, 4]


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    local_database.prepare(path)
    return path


@pytest.fixture
def uri(empty_database: Path, tmp_path: Path) -> str:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return default_uri(tmp_path)


class MlflowServer:
    """An MLflow server that can be killed and started again at the same port."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            serve_ui(self._uri, self.port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        wait_for(self._answers)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "the server did not start"
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2):
            return True
        return False

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture(scope="module")
def server(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_database, folder / "mlflow.db")
    before = Path.cwd()
    os.chdir(folder)  # the server stores artifacts in the current folder
    running = MlflowServer(default_uri(folder))
    try:
        running.start()
        yield running
    finally:
        running.kill()
        os.chdir(before)


@pytest.fixture
def proxy(server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setattr("sweeps.tracking.tracker.FINISH_UNREACHABLE_S", 0.5)
    monkeypatch.setattr("sweeps.tracking.tracker.FINISH_TIMEOUT_S", 20.0)
    monkeypatch.setattr("sweeps.tracking.outbox.PAUSE_S", 0.05)
    monkeypatch.setattr("sweeps.tracking.outbox.NOTICE_S", 0.1)
    with faulty_proxy(server.port) as proxy:
        yield proxy


FAULTS: dict[Fault, str] = {
    "500": "HTTP status 500",
    "429": "HTTP status 429",
    "html": "the answer is not one of an MLflow server",
    "hang": "no answer in time",
    "reset": "the connection broke",
    "lost answer": "the connection broke",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_misbehaves_is_named_and_its_runs_follow_later(
    proxy: FaultyProxy, tmp_path: Path, fault: Fault
) -> None:
    said: list[str] = []
    sweep_id = f"sweep-{fault.replace(' ', '-')}"

    def start() -> Tracker:
        tracker = Tracker.connect(proxy.uri, f"snli {fault}", tmp_path / "artifacts", said.append)
        tracker.start(sweep_id, "snli", {}, {"backend": "fake"}, DATA, {})
        return tracker

    tracker = start()
    show(tracker, 0, until=4)
    await_written(tracker)
    proxy.break_with(fault)
    show(tracker, 0, since=4)
    show(tracker, 1)
    wait_for(lambda: bool(tracker.problems))
    assert FAULTS[fault] in tracker.problems[-1]
    tracker.finish("FINISHED", {}, {}, {}, None)
    assert set(tracker.lacking) == {"snli", "trial-00", "trial-01"}
    assert_in_words(tracker.problems)
    assert any("waiting for MLflow, at most" in message for message in said)
    tracker.close()
    wait_for(lambda: not tracker._outbox._thread.is_alive())  # as at the end of its process

    proxy.mend()
    again = start()
    for number in range(2):
        assert not again.shows_end_of(ended(trial_of(number)))
        again.show_ended(ended(trial_of(number)))
    again.finish("FINISHED", {}, {}, {}, None)
    assert again.lacking == ()
    client = MlflowClient(proxy.uri)
    experiment = client.get_experiment_by_name(f"snli {fault}")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`finesweep.trial_key` LIKE '%'")
    assert sorted(run.info.run_name for run in runs) == ["trial-00", "trial-01"]
    for run in runs:
        assert run.info.status == "FINISHED"
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "valid_loss")]
        assert sorted(steps) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("fault", ["html", "hang"])
def test_a_server_that_misbehaves_at_the_start_is_one_clear_error(
    proxy: FaultyProxy, tmp_path: Path, fault: Fault
) -> None:
    proxy.break_with(fault)
    with pytest.raises(SweepError) as raised:
        connect(proxy.uri, tmp_path)
    assert_in_words((raised.value.message,))
    assert raised.value.hint


def test_a_short_outage_at_the_end_is_waited_for(
    proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.tracking.tracker.FINISH_UNREACHABLE_S", 120.0)
    said: list[str] = []
    tracker = Tracker.connect(proxy.uri, "short outage", tmp_path / "artifacts", said.append)
    tracker.start("sweep-short", "snli", {}, {}, DATA, {})
    show(tracker, 0, until=4)
    await_written(tracker)
    proxy.break_with("500")
    show(tracker, 0, since=4)

    def mend_after_a_notice(message: str) -> None:
        said.append(message)
        proxy.mend()

    tracker._say = mend_after_a_notice
    tracker.finish("FINISHED", {}, {}, {}, None)
    assert (tracker.lacking, tracker.problems) == ((), ())
    assert said


# ------------------------------------------------------------- a local database
def test_a_database_that_another_program_holds_gets_everything_afterwards(uri: str, tmp_path: Path) -> None:
    tracker = connect(uri, tmp_path)
    show(tracker, 0, until=4)
    await_written(tracker)
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        show(tracker, 0, since=4)
        show(tracker, 1)
        wait_for(lambda: bool(tracker.problems))
        assert "another process holds its database" in tracker.problems[0]
        assert_in_words(tracker.problems)
        other.rollback()
    tracker.finish("FINISHED", {}, {}, {}, None)
    assert (tracker.lacking, tracker.problems) == ((), ())
    assert_shows_trials(uri, 2)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_MB}m", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill the disk of this folder to its last byte. Returns the file that fills it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return filler


def test_a_full_disk_loses_nothing_and_is_named(small_disk: Path, empty_database: Path) -> None:
    shutil.copy(empty_database, small_disk / "mlflow.db")
    tracker = connect(uri := default_uri(small_disk), small_disk)
    show(tracker, 0, until=4)
    await_written(tracker)
    filler = fill(small_disk)
    show(tracker, 0, since=4)
    for number in range(1, 20):
        show(tracker, number)
    wait_for(lambda: bool(tracker.problems))
    assert "disk" in tracker.problems[0]
    assert_in_words(tracker.problems)
    filler.unlink()
    tracker.finish("FINISHED", {}, {}, {}, None)
    assert (tracker.lacking, tracker.problems) == ((), ())
    assert_shows_trials(uri, 20)


def test_a_best_model_that_does_not_fit_on_the_disk_is_sent_when_there_is_room(
    small_disk: Path, empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.tracking.tracker.FINISH_UNREACHABLE_S", 1.0)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    model = tmp_path / "model"
    model.mkdir()
    for part in range(4):
        (model / f"part-{part}").write_bytes(bytes(3_000_000))
    said: list[str] = []
    tracker = Tracker.connect(uri := default_uri(tmp_path), "snli", small_disk, said.append)
    tracker.start("sweep-1", "snli", {}, {}, DATA, {})
    show(tracker, 0)
    tracker.finish("FINISHED", {"valid_loss": 0.5}, {}, {}, model)
    tracker.close()
    assert tracker.lacking == ("snli",)
    assert "disk is full" in tracker.problems[-1]
    assert_in_words(tracker.problems)
    subprocess.run(["mount", "-o", f"remount,size={4 * SMALL_MB}m", str(small_disk)], check=True)
    again = Tracker.connect(uri, "snli", small_disk, said.append)
    again.start("sweep-1", "snli", {}, {}, DATA, {})
    assert again.shows_end_of(ended(trial_of(0)))
    again.finish("FINISHED", {"valid_loss": 0.5}, {}, {}, model)
    assert (again.lacking, again.problems) == ((), ())
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("snli")
    assert experiment is not None
    [sweep] = client.search_runs([experiment.experiment_id], "tags.`finesweep.sweep_id` = 'sweep-1'")
    sizes = {file.path: file.file_size for file in client.list_artifacts(sweep.info.run_id, "best_model")}
    assert sizes == {f"best_model/part-{part}": 3_000_000 for part in range(4)}


def test_a_read_only_disk_is_one_clear_error(small_disk: Path, empty_database: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(SweepError, match="cannot be used: Read-only file system") as raised:
        connect(default_uri(small_disk), small_disk)
    assert raised.value.hint
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    shutil.copy(empty_database, small_disk / "mlflow.db")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(SweepError, match="cannot be used") as raised:
        connect(default_uri(small_disk), small_disk)
    assert raised.value.hint.startswith("Make the file and its folder writable")


# ------------------------------------------------------------- PostgreSQL
def test_a_postgresql_that_restarts_gets_everything(tmp_path: Path) -> None:
    with databases.server() as postgres:
        tracker = connect(postgres.url, tmp_path)
        show(tracker, 0, until=4)
        await_written(tracker)
        postgres.stop()
        show(tracker, 0, since=4)
        show(tracker, 1)
        wait_for(lambda: bool(tracker.problems))
        assert "its database server does not answer" in tracker.problems[0]
        assert_in_words(tracker.problems)
        postgres.start()
        tracker.finish("FINISHED", {}, {}, {}, None)
        assert (tracker.lacking, tracker.problems) == ((), ())
        assert_shows_trials(postgres.url, 2)


def test_a_postgresql_that_refuses_the_login_is_one_clear_error_at_once(tmp_path: Path) -> None:
    with databases.server() as postgres:
        began = time.monotonic()
        with pytest.raises(SweepError, match="its database server has no such database or user") as raised:
            connect(postgres.url.replace("/postgres", "/no_such_database"), tmp_path)
        assert time.monotonic() - began < 60
        assert_in_words((raised.value.message,))


# ------------------------------------------------------------- the command line
def test_a_sweep_whose_mlflow_died_ends_with_code_4_and_the_command_that_mends_it(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.tracking.tracker.FINISH_UNREACHABLE_S", 1.0)
    monkeypatch.setattr("sweeps.tracking.outbox.NOTICE_S", 0.1)
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    monkeypatch.chdir(folder)
    server = MlflowServer(default_uri(folder))
    environment = {"MLFLOW_TRACKING_URI": server.uri}
    (tmp_path / "day").mkdir()
    day = BadDay(tmp_path / "day", environment=environment)
    try:
        server.start()
        end = day.sweep_run(30, server.kill, mlflow=True)
        assert end.exit_code == 4, end
        assert "waiting for MLflow, at most" in end.output
        assert re.search(
            r"error: MLflow lacks \d runs? of sweep `pairs` \(.*\): MLflow does not answer: connection refused",
            end.output,
        )
        assert "run: sweep track pairs" in end.output
        assert "Traceback" not in end.output
        assert day.wrong() == [], "the study has everything"

        command = [str(SWEEP), "--root", str(day.workspace), "track", "pairs"]
        everything = {**os.environ, **environment}
        still_away = subprocess.run(command, env=everything, capture_output=True, text=True, check=False)
        assert (still_away.returncode, "does not answer" in still_away.stderr) == (1, True), still_away
        server.start()
        tracked = subprocess.run(command, env=everything, capture_output=True, text=True, check=False)
        assert (tracked.returncode, "MLflow shows all 3 trials" in tracked.stderr) == (0, True), tracked
        assert mlflow_differences(day.workspace, "pairs", uri=server.uri) == []
        end = day.sweep_run(mlflow=True)
        assert (end.exit_code, "is complete" in end.output) == (0, True), end
    finally:
        server.kill()
