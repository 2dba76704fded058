"""A process that measures is killed or interrupted: the next one pays for no answer again."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from judge_host import Judged, JudgeHost, Measure, command_that_measures, cost_of

pytestmark = pytest.mark.integration

TELLS_OF_ITS_STOP = """
from backends.judge import asking

class Pool(asking.ThreadPoolExecutor):
    def shutdown(self, *arguments, **options):
        print("stopping", flush=True)
        super().shutdown(*arguments, **options)

asking.ThreadPoolExecutor = Pool
"""


def recorded(workspace: Path) -> int:
    """Return how many answers the file of the workspace holds."""
    path = workspace / "judge" / "answers.sqlite"
    if not path.exists():
        return 0
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM answers").fetchone()[0])
        except sqlite3.OperationalError:  # the process is creating the table
            return 0


@pytest.mark.parametrize("answers", [1, 6, 11])
def test_a_killed_measurement_goes_on_where_it_was(
    host: JudgeHost, judged: Judged, measure: Measure, tmp_path: Path, answers: int
) -> None:
    dead = False

    def hold(number: int, _body: dict[str, Any]) -> None:
        deadline = time.monotonic() + 120
        while number > answers and not dead and time.monotonic() < deadline:
            time.sleep(0.01)

    host.after = hold
    workspace = tmp_path / "workspace"
    process = subprocess.Popen(command_that_measures(judged(concurrency=2), workspace))
    try:
        deadline = time.monotonic() + 120
        while recorded(workspace) < answers or len(host.bodies) < min(answers + 2, 12):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
        dead = True
    open_requests = len(host.bodies) - answers
    result = measure()
    assert len(host.bodies) == 12 + open_requests  # an answer that never arrived is asked for again
    assert sum(count > 1 for count in host.answered.values()) == open_requests
    assert max(host.answered.values()) == 2 if open_requests else 1
    # What the dead process paid for is reported, and its open requests with the most they can cost.
    assert result.usd is not None
    assert result.usd >= cost_of(host.bodies, host.rule)
    assert result.values == measure("untroubled").values
    assert measure().usd == 0.0


def test_an_interrupt_waits_for_the_open_requests_and_asks_no_more(
    host: JudgeHost, judged: Judged, measure: Measure, tmp_path: Path
) -> None:
    interrupted = threading.Event()

    def hold(number: int, _body: dict[str, Any]) -> None:
        if number > 4:
            interrupted.wait(120)

    host.after = hold
    process = subprocess.Popen(
        command_that_measures(judged(concurrency=2), tmp_path / "workspace", before=TELLS_OF_ITS_STOP),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        deadline = time.monotonic() + 120
        while len(host.bodies) < 6:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "stopping\n"
        interrupted.set()
        errors = process.communicate(timeout=120)[1]
    finally:
        process.kill()
        process.wait()
    assert "KeyboardInterrupt" in errors
    assert len(host.bodies) == 6
    result = measure()
    assert len(host.bodies) == 12
    assert set(host.answered.values()) == {1}
    assert result.usd == pytest.approx(cost_of(host.bodies, host.rule))
