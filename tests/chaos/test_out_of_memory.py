"""The kernel ends a worker for lack of memory: the words say so, and its trial is tried again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import memory_limit
import psutil
import pytest

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.trains,
    pytest.mark.skipif(memory_limit.missing() is not None, reason=f"no kills: {memory_limit.missing()}"),
]

FILE = """\
name: pairs
data: {checks: quick, source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 300, valid_examples: 60}
backend: {type: local}
space: {n_epochs: 12, batch_size: 8, learning_rate_multiplier: {low: 0.02, high: 0.05}}
search: {sampler: random, scheduler: none, stop_by_verdict: false, trials: TRIALS, concurrency: 1, retries: RETRIES}
resources: {cpus_per_trial: 1}
objective: {minimize: valid_loss}
"""
TIMEOUT_S = 240


class Sweep:
    """A sweep in a folder. `FOLDER` marks its processes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._driver = folder, 0
        left_out = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "RAY_AUTH_MODE")
        kept = {name: value for name, value in os.environ.items() if name not in left_out}
        self._environment = {**kept, "FOLDER": str(folder), "RAY_memory_monitor_refresh_ms": "0"}

    def start(self, *, trials: int, retries: int) -> subprocess.Popen[bytes]:
        text = FILE.replace("TRIALS", str(trials)).replace("RETRIES", str(retries))
        (self.folder / "pairs.yaml").write_text(text)
        with (self.folder / "said").open("wb") as said:
            command = [sys.executable, "-m", "sweeps.cli", "run", "pairs.yaml"]
            process = subprocess.Popen(
                command, cwd=self.folder, env=self._environment, stdout=said, stderr=said, start_new_session=True
            )
        self._driver = process.pid
        return process

    @property
    def said(self) -> str:
        return (self.folder / "said").read_text()

    def trials(self) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "sweeps.cli", "status", "pairs", "--json"]
        done = subprocess.run(command, cwd=self.folder, env=self._environment, capture_output=True, check=True)
        return list(json.loads(done.stdout)["trials"])

    def worker(self) -> int | None:
        """Return the process that trains now: a worker has given up its environment for a title."""
        with suppress(psutil.Error):
            for process in psutil.Process(self._driver).children(recursive=True):
                with suppress(psutil.Error):
                    if "".join(process.cmdline()).startswith("ray::TrialRunner"):
                        return process.pid
        return None

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("FOLDER") == str(self.folder) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def starve_worker(self) -> None:
        """Let the kernel end the worker that trains now, or the next one."""
        worker = wait_for(self.worker)
        with memory_limit.starved(worker):
            wait_for(lambda: not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE)


def wait_for(condition: Callable[[], Any]) -> Any:
    give_up_at = time.monotonic() + TIMEOUT_S
    while time.monotonic() < give_up_at:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError("the condition did not hold in time")


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Sweep]:
    running = Sweep(tmp_path)
    yield running
    for process in running.processes():
        process.kill()


def assert_complete(sweep: Sweep, trials: int) -> None:
    found = sweep.trials()
    assert [trial["state"] for trial in found] == ["complete"] * trials
    assert [[round(point["epoch"]) for point in trial["curve"]] for trial in found] == [list(range(13))] * trials
    assert len({trial["key"] for trial in found}) == trials
    wait_for(lambda: not sweep.processes())


def test_a_worker_that_the_kernel_ends_for_memory_is_named_and_its_trial_goes_on(sweep: Sweep) -> None:
    process = sweep.start(trials=2, retries=1)
    wait_for(lambda: "trial 0 epoch 2/" in sweep.said or process.poll() is not None)
    sweep.starve_worker()
    assert process.wait(TIMEOUT_S) == 0, sweep.said
    assert "trial 0 comes next again, as the same run: the kernel most likely ended the worker process" in sweep.said
    assert "for lack of memory; it occupied" in sweep.said
    assert "Traceback" not in sweep.said
    assert_complete(sweep, 2)


def test_a_trial_that_never_has_enough_memory_is_tried_again_and_then_fails_in_these_words(sweep: Sweep) -> None:
    process = sweep.start(trials=1, retries=1)
    wait_for(lambda: "trial 0 epoch 1/" in sweep.said or process.poll() is not None)
    sweep.starve_worker()
    wait_for(lambda: "comes next again" in sweep.said)
    sweep.starve_worker()
    assert process.wait(TIMEOUT_S) == 0, sweep.said
    assert "no trial produced a model" in sweep.said
    assert "Traceback" not in sweep.said
    [trial] = sweep.trials()
    assert trial["state"] == "failed"
    assert trial["reason"].startswith("the kernel most likely ended the worker process")
    assert "for lack of memory" in trial["reason"]
    wait_for(lambda: not sweep.processes())
