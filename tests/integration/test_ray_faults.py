"""`sweep run` when Ray dies, does not start, or is left behind: one sentence, and nothing lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.integration

FILE = """\
name: pairs
data: {checks: quick, source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 120, valid_examples: 60}
backend: {type: fake, model: fake-small, seconds_per_epoch: 2}
space:
  n_epochs: 2
  batch_size: {low: 1, high: 8}
search: {sampler: random, scheduler: none, trials: 2, concurrency: 1}
objective: {maximize: valid_accuracy}
"""
TIMEOUT_S = 120


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "pairs.yaml").write_text(FILE)
    yield tmp_path
    for process in processes_of(tmp_path):
        process.kill()


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return the environment of a command; `FOLDER` marks every process that it starts."""
    left_out = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "RAY_AUTH_MODE")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "FOLDER": str(folder), **more}


def start(folder: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
    with (folder / "stderr").open("w") as stderr:
        return subprocess.Popen(
            [sys.executable, "-m", "sweeps.cli", *arguments],
            cwd=folder,
            env=environment(folder, **more),
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )


def said(folder: Path) -> str:
    return (folder / "stderr").read_text()


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert process is None or process.poll() is None, "the command ended early"
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.1)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return the running processes that a command in this folder has started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("FOLDER") == str(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


def process_named(folder: Path, name: str) -> psutil.Process:
    [found] = [process for process in processes_of(folder) if process.name() == name]
    return found


def run_to_the_end(folder: Path) -> list[dict[str, object]]:
    """Run the sweep again, and return its trials."""
    process = start(folder, "run", "pairs.yaml")
    assert process.wait(TIMEOUT_S) == 0, said(folder)
    listed = subprocess.run(
        [sys.executable, "-m", "sweeps.cli", "status", "pairs", "--json"],
        cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=TIMEOUT_S, check=True,
    )  # fmt: skip
    trials: list[dict[str, object]] = json.loads(listed.stdout)["trials"]
    return trials


def assert_nothing_left(folder: Path) -> None:
    wait_until(lambda: not processes_of(folder))
    assert not (folder / ".sweep/sweeps/pairs/ray.json").exists()
    assert not (folder / ".sweep/sweeps/pairs/tune").exists()


def started_sweep(folder: Path) -> subprocess.Popen[str]:
    process = start(folder, "run", "pairs.yaml")
    wait_until(lambda: "trial 0 epoch 1" in said(folder), process)
    return process


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "told"),
    [("gcs_server", "the head process of Ray on this machine is gone"), ("raylet", "(the raylet) is gone")],
)
def test_a_lost_ray_ends_the_run_in_one_sentence_and_the_next_run_resumes(folder: Path, victim: str, told: str) -> None:
    process = started_sweep(folder)
    process_named(folder, victim).kill()
    assert process.wait(TIMEOUT_S) == 1
    errors = [line for line in said(folder).splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert told in errors[0]
    assert "Run the same command again: every result is recorded" in said(folder)
    assert "Traceback" not in said(folder)
    assert_nothing_left(folder)
    assert [trial["state"] for trial in run_to_the_end(folder)] == ["complete"] * 2


@pytest.mark.slow
def test_nothing_outlives_a_killed_driver_and_the_next_run_removes_its_leftovers(folder: Path) -> None:
    process = started_sweep(folder)
    record = json.loads((folder / ".sweep/sweeps/pairs/ray.json").read_text())
    session_folder = Path(record["session_folder"])
    assert session_folder.is_dir()
    process.kill()
    process.wait()
    wait_until(lambda: not processes_of(folder))
    assert [trial["state"] for trial in run_to_the_end(folder)] == ["complete"] * 2
    assert not session_folder.exists()
    assert_nothing_left(folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_ray_starts_ends_the_command_with_a_word(folder: Path, number: signal.Signals) -> None:
    process = start(folder, "run", "pairs.yaml")
    wait_until(lambda: any(found.name() == "gcs_server" for found in processes_of(folder)), process)
    process.send_signal(number)
    assert process.wait(TIMEOUT_S) == 130
    assert "stopped: stopped" in said(folder)
    assert "Traceback" not in said(folder)
    wait_until(lambda: not processes_of(folder))


@pytest.mark.slow
@pytest.mark.parametrize("already", ["gcs_server", "raylet"])
def test_the_death_of_rays_head_while_ray_starts_hangs_no_command(folder: Path, already: str) -> None:
    """Ray starts a second time if it notices. Otherwise there is one sentence."""
    process = start(folder, "run", "pairs.yaml")
    wait_until(lambda: any(found.name() == already for found in processes_of(folder)), process)
    process_named(folder, "gcs_server").kill()
    if process.wait(TIMEOUT_S) != 0:
        errors = [line for line in said(folder).splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert "Ray" in errors[0]
    assert "Traceback" not in said(folder)
    assert_nothing_left(folder)
    assert [trial["state"] for trial in run_to_the_end(folder)] == ["complete"] * 2


def test_a_closed_terminal_ends_the_sweep_cleanly(folder: Path) -> None:
    process = started_sweep(folder)
    process.send_signal(signal.SIGHUP)
    assert process.wait(TIMEOUT_S) == 130
    assert "stopped after 0 of 2 trials; every result is saved" in said(folder)
    assert_nothing_left(folder)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_the_sweep_at_once(folder: Path) -> None:
    process = started_sweep(folder)
    process.send_signal(signal.SIGSTOP)  # so that it finds both signals when it goes on
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    wait_until(lambda: "another Ctrl-C stops at once" in said(folder), process)
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT_S) == 130
    assert "Traceback" not in said(folder)
    wait_until(lambda: not processes_of(folder))
    assert [trial["state"] for trial in run_to_the_end(folder)] == ["complete"] * 2


@pytest.mark.slow
def test_a_suspended_sweep_goes_on_when_it_is_continued(folder: Path) -> None:
    """Ctrl-Z stops the driver; it must not take the missed time for a lost Ray."""
    process = started_sweep(folder)
    process.send_signal(signal.SIGSTOP)  # what Ctrl-Z comes to; a group without a shell ignores SIGTSTP
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    time.sleep(6)  # longer than the patience of the watch
    process.send_signal(signal.SIGCONT)
    assert process.wait(TIMEOUT_S) == 0, said(folder)
    assert " is gone" not in said(folder)


def test_a_trial_that_fits_on_no_machine_is_an_error(folder: Path) -> None:
    process = start(folder, "run", "pairs.yaml", "--set", "resources.cpus_per_trial=6400")
    assert process.wait(TIMEOUT_S) in (1, 2)
    assert re.search(r"6400 CPU", said(folder))
    assert "resources" in said(folder)
    assert "Traceback" not in said(folder)
    wait_until(lambda: not processes_of(folder))


def test_a_ray_that_does_not_start_is_one_error(folder: Path) -> None:
    (folder / "file").touch()
    process = start(folder, "run", "pairs.yaml", RAY_TMPDIR=str(folder / "file"))
    assert process.wait(TIMEOUT_S) == 1
    assert "error: cannot connect to Ray on this machine: " in said(folder)
    assert "Traceback" not in said(folder)
    wait_until(lambda: not processes_of(folder))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_for_rays_files_is_one_error(folder: Path) -> None:
    small = folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=True)
    try:
        process = start(folder, "run", "pairs.yaml", RAY_TMPDIR=str(small))
        assert process.wait(TIMEOUT_S) == 1
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
    assert "error: cannot start Ray on this machine: the disk is full" in said(folder)
    assert f"Free some space in {small}, which has 0 MiB left, or set RAY_TMPDIR" in said(folder)
    assert "Traceback" not in said(folder)


@pytest.mark.slow
@pytest.mark.parametrize("mode_of_cluster", [{}, {"RAY_AUTH_MODE": "disabled"}], ids=["demands it", "demands none"])
def test_the_token_in_rays_home_folder_is_sent_only_to_a_cluster_that_demands_it(
    folder: Path, mode_of_cluster: dict[str, str]
) -> None:
    """`ray start` demands the token if there is one.

    Ray itself sends it only to a cluster that it found without an address. A driver that sends it
    demands it from the cluster, too.
    """
    (folder / ".ray").mkdir()
    (folder / ".ray/auth_token").write_text("0123456789abcdef0123456789abcdef")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    more = {"HOME": str(folder), "SWEEP_FILES": str(folder / "files")}
    ray = str(Path(sys.executable).parent / "ray")
    options = ["--head", f"--port={port}", "--include-dashboard=false", "--num-cpus=2", f"--temp-dir=/tmp/r{port}"]
    head = subprocess.Popen(
        [ray, "start", *options, "--object-store-memory=100000000", "--disable-usage-stats", "--block"],
        env=environment(folder, **more, **mode_of_cluster),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: any(found.name() == "raylet" for found in processes_of(folder)))
        process = start(folder, "run", "pairs.yaml", "--address", f"127.0.0.1:{port}", **more)
        assert process.wait(TIMEOUT_S) == 0, said(folder)
    finally:
        head.terminate()
        head.wait(TIMEOUT_S)
        shutil.rmtree(f"/tmp/r{port}", ignore_errors=True)


def test_an_address_without_a_cluster_is_one_error(folder: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        process = start(folder, "run", "pairs.yaml", "--address", address)
        assert process.wait(TIMEOUT_S) == 1
    assert f"error: cannot connect to the Ray cluster at {address}" in said(folder)
    assert "Traceback" not in said(folder)
