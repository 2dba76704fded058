"""The scheduler's loop: nights whose process stores no outcome, concurrency, a clean stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import pytest

from sweeps.scheduling.claims import Claim
from sweeps.scheduling.daemon import Daemon
from sweeps.scheduling.night import Night, NightState
from sweeps.scheduling.night_process import NightLauncher
from sweeps.scheduling.schedule import Schedule
from sweeps.scheduling.store import ScheduleStore
from sweeps.workspace import Workspace

pytestmark = pytest.mark.unit

NOW = datetime(2027, 1, 2, 2, 0, 5, tzinfo=UTC)
"""Five seconds after the planned time of the schedules below."""


class ScriptedProcess:
    """A process that runs until `exit_code` is set, or until it gets a signal."""

    pid = 4711

    def __init__(self) -> None:
        self.exit_code: int | None = None

    def poll(self) -> int | None:
        return self.exit_code

    def wait(self, timeout: float | None = None) -> int:
        return self.exit_code or 0

    def send_signal(self, sig: int) -> None:
        self.exit_code = -sig

    def kill(self) -> None:
        self.exit_code = -signal.SIGKILL


class Scheduler:
    """A daemon with scripted processes, its log lines and its notifications."""

    def __init__(self, folder: Path, names: Sequence[str], max_concurrent: int = 1) -> None:
        self.store = ScheduleStore.open(Workspace(folder), None)
        for name in names:
            created_at = NOW.timestamp() - 3600
            self.store.add(Schedule(name, "/s.yaml", "0 2 * * *", "UTC", created_at, "06:00"))
        self.processes: list[ScriptedProcess] = []
        self.claims: list[Claim] = []
        self.lines: list[str] = []
        self.notified: list[Night] = []
        self.startable = True
        launcher = NightLauncher(self.command, lambda night: folder / f"{night.schedule}.log", self.start)
        self.daemon = Daemon(self.store, launcher, self.lines.append, self.notify, max_concurrent, clock=lambda: NOW)

    def command(self, claim: Claim) -> Sequence[str]:
        self.claims.append(claim)
        return ["night"]

    def start(self, command: Sequence[str], output: IO[bytes]) -> ScriptedProcess:
        if not self.startable:
            raise FileNotFoundError(2, "No such file or directory")
        output.write(b"starting\nout of disk space\n")
        self.processes.append(ScriptedProcess())
        return self.processes[-1]

    def notify(self, schedule: Schedule, night: Night) -> bool:
        self.notified.append(night)
        return True


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[Scheduler]:
    scheduler = Scheduler(tmp_path, ["a"])
    yield scheduler
    scheduler.store.close()


@pytest.mark.parametrize(
    ("exit_code", "state", "reason"),
    [
        (1, NightState.FAILED, "its process ended with exit code 1: out of disk space"),
        (-signal.SIGKILL, NightState.FAILED, "its process ended with signal SIGKILL: out of disk space"),
        (130, NightState.STOPPED, "stopped before its sweep began"),
        (-signal.SIGINT, NightState.STOPPED, "stopped before its sweep began"),
    ],
)
def test_the_exit_code_decides_if_the_process_stored_no_outcome(
    scheduler: Scheduler, exit_code: int, state: NightState, reason: str
) -> None:
    scheduler.daemon.tick()
    [process] = scheduler.processes
    assert [night.state for night in scheduler.store.nights("a")] == [NightState.RUNNING]
    process.exit_code = exit_code
    scheduler.daemon.tick()
    night = scheduler.store.nights("a")[0]
    assert (night.state, night.reason, night.ended_at) == (state, reason, NOW.timestamp())
    assert scheduler.notified == [night]
    assert f"a: {state.value}: {reason}" in scheduler.lines


def test_a_night_whose_process_cannot_start_fails(scheduler: Scheduler) -> None:
    scheduler.startable = False
    scheduler.daemon.tick()
    [night] = scheduler.store.nights("a")
    assert (night.state, night.reason) == (
        NightState.FAILED,
        "cannot start its process: No such file or directory",
    )
    assert scheduler.notified == [night]


def test_a_stored_outcome_stays_and_is_not_reported_again(scheduler: Scheduler) -> None:
    scheduler.daemon.tick()
    [running] = scheduler.store.nights("a")
    [claim] = scheduler.claims
    done = replace(running, state=NightState.DONE, ended_at=NOW.timestamp(), reason="the first night")
    assert scheduler.store.claims.finish(claim, done)
    scheduler.processes[0].exit_code = 0
    scheduler.daemon.tick()
    assert scheduler.store.nights("a") == [done]
    assert "a: done: the first night" in scheduler.lines
    assert scheduler.notified == []


def test_further_nights_wait_until_one_ends(tmp_path: Path) -> None:
    scheduler = Scheduler(tmp_path, ["a", "b", "c"], max_concurrent=2)
    scheduler.daemon.tick()
    assert len(scheduler.processes) == 2
    assert scheduler.store.nights("c") == []
    scheduler.processes[0].exit_code = 1
    scheduler.daemon.tick()
    assert len(scheduler.processes) == 3
    assert [night.state for night in scheduler.store.nights("c")] == [NightState.RUNNING]
    scheduler.store.close()


def test_a_stopped_scheduler_stops_its_nights(scheduler: Scheduler) -> None:
    scheduler.daemon.tick()
    scheduler.daemon.stop.set()
    scheduler.daemon.run()
    assert [night.state for night in scheduler.store.nights("a")] == [NightState.STOPPED]
    assert "a: stopping the night; it can continue later" in scheduler.lines
    assert scheduler.lines[-1] == "scheduler stopped"
