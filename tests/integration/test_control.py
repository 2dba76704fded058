"""A running sweep, steered from another terminal: status, stop, logs, resume, and a fresh start."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from user_environment import user_environment

pytestmark = pytest.mark.integration

FILE = """\
name: steered
data: {checks: quick, source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 60, valid_examples: 30, test_examples: 15}
backend: {type: fake, model: fake-small, seconds_per_epoch: 1}
space: {n_epochs: [3, 4], batch_size: [4, 5, 6]}
search: {sampler: grid, scheduler: none, trials: 4, concurrency: 1}
objective: {maximize: valid_accuracy}
"""
TIMEOUT_S = 180.0


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sweeps.cli", *arguments]


def sweep(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=user_environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_a_sweep_is_steered_from_another_terminal_and_another_folder(tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    (home / "steered.yaml").write_text(FILE)
    root = ("--root", str(home / ".sweep"))
    running = subprocess.Popen(
        command("run", "steered.yaml", "--set", "search.seed=3"),
        cwd=home,
        env=user_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            status = sweep(elsewhere, *root, "status", "--json")
            summaries = json.loads(status.stdout or "[]")
            if summaries and summaries[0]["states"].get("running") and summaries[0]["running"]:
                break
            assert time.monotonic() < deadline, status.stderr
            assert running.poll() is None, running.stderr and running.stderr.read()
        study = (home / ".sweep/sweeps/steered/study.journal").stat().st_ino

        for fresh in ((), ("--fresh",)):
            second = sweep(home, "run", "steered.yaml", *fresh)
            assert second.returncode == 1, second.stderr
            assert "sweep `steered` is already running in process" in second.stderr
        assert (home / ".sweep/sweeps/steered/study.journal").stat().st_ino == study
        assert [folder.name for folder in (home / ".sweep/sweeps").iterdir()] == ["steered"]

        stopped = sweep(elsewhere, *root, "stop", "steered")
        assert stopped.returncode == 0, stopped.stderr
        assert "sweep `steered` has stopped; to continue: sweep resume steered" in stopped.stderr
        _, messages = running.communicate(timeout=TIMEOUT_S)
        assert running.returncode == 130, messages
        assert "Traceback" not in messages
    finally:
        if running.poll() is None:
            running.kill()
            running.communicate()

    again = sweep(elsewhere, *root, "stop", "steered")
    assert (again.returncode, again.stdout) == (0, "")
    assert "sweep `steered` is not running" in again.stderr
    logged = sweep(elsewhere, *root, "logs", "steered", "--follow")
    assert logged.returncode == 0, logged.stderr
    assert "Traceback" not in logged.stdout

    resumed = sweep(elsewhere, *root, "resume", "steered")
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming `steered`: sweep run steered.yaml --set search.seed=3" in resumed.stderr
    [summary] = json.loads(sweep(elsewhere, *root, "status", "--json").stdout)
    assert summary["states"] == {"complete": 4}
    assert len({json.dumps(trial["hyperparameters"]) for trial in summary["trials"]}) == 4


def test_an_unknown_sweep_and_one_that_nobody_started_are_errors(tmp_path: Path) -> None:
    folder = tmp_path / ".sweep" / "sweeps" / "old"
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text("{}")
    for name in ("resume", "stop", "logs"):
        unknown = sweep(tmp_path, name, "olt")
        assert unknown.returncode == 2
        assert "there is no such sweep" in unknown.stderr
        assert "old" in unknown.stderr
    nobody = sweep(tmp_path, "resume", "old")
    assert nobody.returncode == 1
    assert "nobody knows how sweep `old` was started" in nobody.stderr
    assert sweep(tmp_path, "logs", "old").returncode == 1


def test_one_damaged_sweep_does_not_hide_the_others(tmp_path: Path) -> None:
    from session_driver import drive, open_session

    root = tmp_path / ".sweep"
    session = open_session(root)
    drive(session)
    session.finish()
    plan = json.dumps(session.plan.to_json(), default=str)
    for name, content in (("pairs", plan), ("cut", plan[:100]), ("torn", plan)):
        folder = root / "sweeps" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plan.json").write_text(content)
    (root / "sweeps/torn/study.journal").write_bytes(b'{"op_code":0;\n')
    listed = sweep(tmp_path, "status")
    assert listed.returncode == 1
    assert "5 of 5" in listed.stdout
    assert "cut: " in listed.stderr
    assert "torn: " in listed.stderr
    assert "2 of 3 sweeps cannot be read" in listed.stderr
    assert "Traceback" not in listed.stderr
