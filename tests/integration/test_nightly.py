"""Nights as a user sees them: real schedulers and sweeps, interruptions, changing data."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import util
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from user_environment import user_environment

from sweeps.scheduling.schedule import NotificationSettings, Schedule
from sweeps.scheduling.store import ScheduleStore
from sweeps.workspace import Workspace

_spec = util.spec_from_file_location("databases", Path(__file__).with_name("databases.py"))
assert _spec is not None
assert _spec.loader is not None
databases: Any = util.module_from_spec(_spec)
_spec.loader.exec_module(databases)

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

FILE = """\
name: pairs
data: {checks: quick, source: pairs.csv, prompt: "{text}", completion: " {label}", validation: 0.2, test: 0.1}
backend: {type: fake, model: fake-small, seconds_per_epoch: 0.2}
space:
  n_epochs: [2, 3]
  learning_rate_multiplier: {low: 0.01, high: 0.4, log: true}
search: {sampler: random, scheduler: none, trials: 4, concurrency: 2}
objective: {maximize: valid_accuracy}
"""
EVERY_MINUTE = "* * * * *"
ONCE_A_YEAR = "0 0 1 1 *"


def data(folder: Path, shift: int = 0) -> None:
    rows = [f"sentence {row} of {row % 7 + shift} words,{('yes', 'no', 'maybe')[row % 3]}" for row in range(200)]
    (folder / "pairs.csv").write_text("text,label\n" + "\n".join(rows) + "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pairs.yaml").write_text(FILE)
    data(tmp_path)
    return tmp_path


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def environment(**more: str) -> dict[str, str]:
    kept = user_environment()
    return {**kept, **more}


def sweep(folder: Path, *arguments: str, **more: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "sweeps.cli", *arguments],
        cwd=folder, env=environment(**more), capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def scheduler(folder: Path, started: list[subprocess.Popen[str]], **more: str) -> subprocess.Popen[str]:
    log = (folder / f"scheduler-{len(started)}.log").open("w")
    started.append(
        subprocess.Popen(
            [sys.executable, "-m", "sweeps.cli", "scheduler"],
            cwd=folder,
            env=environment(**more),
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    )
    log.close()
    return started[-1]


def history(folder: Path) -> list[dict[str, Any]]:
    code, out, err = sweep(folder, "schedule", "history", "pairs", "--json")
    assert code == 0, err
    nights: list[dict[str, Any]] = json.loads(out) if out.strip() else []
    return nights


def wait_until(condition: Callable[[], bool], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.3)


def trains(folder: Path) -> bool:
    """Return whether the first trial of the newest night has started."""
    logs = sorted((folder / ".sweep/nights/pairs").glob("*.log"))
    return bool(logs) and "trial 0 starts" in logs[-1].read_text()


def due_now(
    folder: Path, *overrides: str, notify: NotificationSettings | None = None, storage: str | None = None
) -> None:
    """Add a schedule whose first night is due now: once a year, at this minute."""
    now = datetime.now(UTC)
    cron = f"{now.minute} {now.hour} {now.day} {now.month} *"
    store = ScheduleStore.open(Workspace(folder / ".sweep"), storage)
    created = now.timestamp() - 70
    store.add(
        Schedule(
            "pairs",
            str(folder / "pairs.yaml"),
            cron,
            "UTC",
            created,
            None,
            None,
            overrides,
            notify or NotificationSettings(),
        )
    )
    store.close()


def test_manual_nights_are_first_then_unchanged_then_changed(folder: Path) -> None:
    code, out, err = sweep(
        folder, "schedule", "add", "pairs.yaml", "--cron", ONCE_A_YEAR, "--tz", "Europe/Berlin", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["next"].endswith("12-31T23:00:00+00:00")
    code, out, err = sweep(folder, "schedule", "run-now", "pairs", "--json")
    assert code == 0, err
    first = json.loads(out)
    assert (first["state"], first["sweep"], first["found"]["trials"]) == ("done", "pairs", 4)

    (folder / "pairs.csv").touch()
    code, out, err = sweep(folder, "schedule", "run-now", "pairs", "--json")
    assert code == 0, err
    second = json.loads(out)
    assert (second["state"], second["sweep"]) == ("unchanged", None)
    assert second["reason"].startswith("unchanged since ")
    assert not (folder / ".sweep/sweeps").joinpath("pairs.1").exists()

    data(folder, shift=3)
    code, out, err = sweep(folder, "schedule", "run-now", "pairs", "--json")
    assert code == 0, err
    third = json.loads(out)
    assert third["state"] == "done"
    assert third["sweep"].startswith(f"pairs-{datetime.now(UTC).year}")
    assert third["reason"].startswith("the data changed: pairs.csv, still")
    assert "drift" in third["found"]
    assert Path(third["found"]["drift"]["report"]).read_text().startswith("# Data drift")
    started = json.loads(sweep(folder, "status", third["sweep"], "--json")[1])["trials"]
    warm = third["found"]["first_points"]
    assert warm[0] == first["found"]["best"]["hyperparameters"]
    assert [trial["hyperparameters"] for trial in sorted(started, key=lambda trial: trial["number"])][
        : len(warm)
    ] == warm

    listed = json.loads(sweep(folder, "schedule", "list", "--json")[1])
    assert listed[0]["last"]["sweep"] == third["sweep"]
    shown = sweep(folder, "schedule", "history", "pairs")[1]
    assert "unchanged since" in shown
    summaries = sorted((folder / ".sweep/nights/pairs").glob("*.html"))
    assert len(summaries) == 3


def test_a_stopped_scheduler_resumes_its_night_and_a_second_scheduler_waits(
    folder: Path, started: list[subprocess.Popen[str]]
) -> None:
    due_now(folder, "backend.seconds_per_epoch=2.0")
    daemon = scheduler(folder, started)
    rival = scheduler(folder, started)
    wait_until(lambda: trains(folder))
    assert [night["state"] for night in history(folder)] == ["running"]
    code, _, err = sweep(folder, "schedule", "run-now", "pairs")
    assert code == 1
    assert "is running" in err
    rival.send_signal(signal.SIGTERM)
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(120) == 0
    assert rival.wait(120) == 0
    assert [(night["state"], night["attempt"]) for night in history(folder)] == [("stopped", 1)]
    logs = [(folder / f"scheduler-{number}.log").read_text() for number in (0, 1)]
    assert sum("started as process" in log.partition("pairs: night")[2] for log in logs) == 1
    assert any("pairs: stopping the night; it can continue later" in log for log in logs)

    again = scheduler(folder, started)
    wait_until(lambda: [night["state"] for night in history(folder)] == ["stopped", "done"])
    again.send_signal(signal.SIGTERM)
    assert again.wait(60) == 0
    nights = history(folder)
    assert nights[0]["planned_at"] == nights[1]["planned_at"]
    assert (nights[1]["sweep"], nights[1]["attempt"]) == ("pairs", 2)
    assert nights[1]["reason"].startswith("continues the night of")
    trials = json.loads(sweep(folder, "status", "pairs", "--json")[1])["trials"]
    assert [trial["state"] for trial in trials] == ["complete"] * 4


@pytest.mark.slow
def test_a_night_survives_its_scheduler_and_a_killed_night_is_reported(
    folder: Path, started: list[subprocess.Popen[str]]
) -> None:
    posted: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        variables = {"TEAM": f"json://127.0.0.1:{server.server_port}/"}
        due_now(folder, "backend.seconds_per_epoch=1.0", notify=NotificationSettings(("TEAM",), (), "failures"))
        daemon = scheduler(folder, started, **variables)
        wait_until(lambda: trains(folder))
        daemon.kill()
        daemon.wait()
        after = scheduler(folder, started, **variables)
        wait_until(lambda: [night["state"] for night in history(folder)] == ["done"])
        assert posted == [], "a successful night is not reported"

        data(folder, 4)
        store = ScheduleStore.open(Workspace(folder / ".sweep"), None)
        store.remove("pairs", datetime.now(UTC))
        store.close()
        due_now(
            folder,
            "backend.seconds_per_epoch=1.0",
            "name=others",
            notify=NotificationSettings(("TEAM",), (), "failures"),
        )
        wait_until(lambda: (folder / ".sweep/sweeps/others/fake-service.sqlite").exists() and trains(folder))
        lines = (folder / "scheduler-1.log").read_text().splitlines()
        [pid] = [int(line.split("started as process ")[1].split(";")[0]) for line in lines if "pairs: night" in line]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: [night["state"] for night in history(folder)] == ["failed"])
        wait_until(lambda: bool(posted))
        assert "FAILED" in posted[0]["title"]
        assert "signal SIGKILL" in posted[0]["message"]
        after.send_signal(signal.SIGTERM)
        assert after.wait(60) == 0
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_all_mistakes_in_the_options_are_reported_together(folder: Path) -> None:
    code, _, err = sweep(
        folder, "schedule", "add", "pairs.yaml", "--cron", "0 2", "--until", "25:00", "--notify-env", "json://u:secret@h/"
    )  # fmt: skip
    assert code == 2
    for text in ("--cron", "--until", "expected the name of an environment variable, not an address", "3 problems"):
        assert text in err
    assert "secret" not in err
    code, _, err = sweep(folder, "schedule", "pause", "nobody")
    assert code == 2
    assert "no such schedule" in err
    (folder / "broken.yaml").write_text(FILE.replace("n_epochs", "n_epoch"))
    assert sweep(folder, "schedule", "add", "broken.yaml", "--cron", "0 2 * * *")[0] == 2


@pytest.mark.slow
def test_a_night_without_its_data_file_fails_with_the_reason(folder: Path) -> None:
    assert sweep(folder, "schedule", "add", "pairs.yaml", "--cron", ONCE_A_YEAR)[0] == 0
    (folder / "pairs.csv").unlink()
    code, _, err = sweep(folder, "schedule", "run-now", "pairs")
    assert code == 1
    [night] = history(folder)
    assert night["state"] == "failed"
    assert "pairs.csv" in night["reason"]
    assert "the night failed" in err
    data(folder)
    assert sweep(folder, "schedule", "run-now", "pairs")[0] == 0, "the next night tries again"
    assert sweep(folder, "schedule", "pause", "pairs")[0] == 0
    assert "paused" in sweep(folder, "schedule", "list")[1]
    assert sweep(folder, "schedule", "resume", "pairs")[0] == 0
    code, out, _ = sweep(folder, "schedule", "export", "pairs", "--format", "cron")
    assert "run-now pairs --planned" in out
    assert sweep(folder, "schedule", "remove", "pairs")[0] == 0
    assert json.loads(sweep(folder, "schedule", "list", "--json")[1]) == []


DEADLINE = """\
import sys, time
from pathlib import Path
from rich.console import Console
from sweeps import tracking
from sweeps.workspace import Workspace
from sweeps.planning.plan import plan_file
from sweeps.cli.progress import Progress
from sweeps.execution.environment import Environment
from sweeps.execution.run import run

workspace = Workspace(Path(".sweep").absolute())
overrides = ("backend.seconds_per_epoch=5.0", "space.n_epochs=2", "search.trials=6")
plan = plan_file(Path("pairs.yaml"), overrides, workspace)
deadline = time.time() + float(sys.argv[1])
environment = Environment(workspace, tracking.default_uri(workspace.root))
outcome = run(plan, environment, Progress(Console(stderr=True)), print, deadline=deadline)
late = time.time() - deadline
print("END", outcome.end.name, sum(trial.state.ended for trial in outcome.trials), f"{late:.1f}")
"""


@pytest.mark.slow
def test_a_sweep_with_a_deadline_ends_in_time_and_continues(folder: Path) -> None:
    def run(seconds: float) -> tuple[str, int, float]:
        done = subprocess.run(
            [sys.executable, "-c", DEADLINE, str(seconds)],
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
        _, end, ended, late = done.stdout.splitlines()[-1].split()
        return end, int(ended), float(late)

    end, first, late = run(26.0)
    assert end == "DEADLINE"
    assert 0 <= first < 6
    assert late < 15, "finishing the sweep takes some seconds"
    keys = {trial["key"] for trial in json.loads(sweep(folder, "status", "pairs", "--json")[1])["trials"]}
    end, second, _ = run(600.0)
    assert (end, second) == ("TRIALS", 6)
    after = json.loads(sweep(folder, "status", "pairs", "--json")[1])["trials"]
    assert keys <= {trial["key"] for trial in after}, "interrupted and queued trials continue under their keys"
    assert len(after) == 6


@pytest.mark.slow
def test_schedules_and_studies_share_a_postgresql_that_becomes_unavailable(
    folder: Path, started: list[subprocess.Popen[str]]
) -> None:
    with databases.server() as running:
        variables = {"SWEEP_STORAGE": running.url}
        due_now(folder, storage=running.url)
        daemon = scheduler(folder, started, **variables)
        log = folder / "scheduler-0.log"
        wait_until(lambda: "pairs: done" in log.read_text())
        running.stop()
        wait_until(lambda: "cannot be reached: OperationalError; waiting for it" in log.read_text())
        running.start()
        wait_until(lambda: "the database is available again" in log.read_text())
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(60) == 0
        assert "Traceback" not in log.read_text()
        assert not (folder / ".sweep/schedules.db").exists()

        # Another machine shares only the database. It knows which nights ran, and takes no name
        # that is in use.
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "pairs.yaml").write_text(FILE)
        data(elsewhere)
        here = ("schedule", "run-now", "pairs", "--json", "--file", "pairs.yaml")
        code, out, err = sweep(elsewhere, *here, **variables)
        assert code == 0, err
        assert json.loads(out)["state"] == "unchanged"
        data(elsewhere, 5)
        code, out, err = sweep(elsewhere, *here, **variables)
        assert code == 0, err
        night = json.loads(out)
        assert night["state"] == "done"
        assert night["sweep"].startswith("pairs-2")
        assert Path(night["found"]["drift"]["report"]).is_file()
        nights = json.loads(sweep(folder, "schedule", "history", "pairs", "--json", **variables)[1])
        assert [night["state"] for night in nights] == ["done", "unchanged", "done"]
        code, _, err = sweep(
            folder, "schedule", "list", SWEEP_STORAGE="postgresql+psycopg://u:hidden-word@127.0.0.1:9/x"
        )
        assert code == 1
        assert "hidden-word" not in err
