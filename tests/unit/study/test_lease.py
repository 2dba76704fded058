"""The lease of a study in a database: one process runs a sweep; a dead one delays it briefly."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from backends import codec
from sweeps.errors import SweepError
from sweeps.process_identity import Process
from sweeps.spec.objective import Objective
from sweeps.study import attributes, lease
from sweeps.study.lease import LEASE_S, Holder, StudyLease, leased
from sweeps.study.storage import open_storage
from sweeps.study.stored_study import read_holder

pytestmark = pytest.mark.unit

ELSEWHERE = Holder("other", "another-machine", Process(77, 1), "its boot")


class Machine:
    """A storage, and a clock that only sleeping moves; `during_sleep` is called then."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder / 'studies.db'}"
        self.storage = open_storage(self.url)
        self.study_id = self.storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "s")
        self.now = 0.0
        self.said: list[str] = []
        self.during_sleep: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.during_sleep()

    def lease(self) -> StudyLease:
        return StudyLease(self.storage, self.study_id, lambda: self.now, self.sleep)

    def store(self, holder: Holder | None) -> None:
        stored = None if holder is None else codec.to_json(holder)
        self.storage.set_study_user_attr(self.study_id, attributes.LEASE, stored)


def test_a_free_lease_is_taken_at_once_and_given_back(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    mine = machine.lease()
    mine.acquire(machine.said.append)
    assert machine.now <= lease.CONTEST_S
    assert machine.said == []
    assert mine.renew()
    assert mine.renew()
    holder = read_holder(machine.url, "s")
    assert holder is not None
    assert holder.renewals == 2
    mine.release()
    assert read_holder(machine.url, "s") is None


def test_a_living_holder_is_noticed_by_its_sign_of_life(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.store(ELSEWHERE)

    def renew_after_five_seconds() -> None:
        if machine.now >= 5:
            machine.store(replace(ELSEWHERE, renewals=1))

    machine.during_sleep = renew_after_five_seconds
    with pytest.raises(SweepError, match="process 77 on another-machine is already running this sweep"):
        machine.lease().acquire(machine.said.append)
    assert machine.now < 10
    assert "waiting up to 30 s" in machine.said[0]


def test_a_holder_without_a_sign_of_life_loses_the_lease(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.store(replace(ELSEWHERE, renewed_at=1e12))  # the other machine's clock is wrong
    mine = machine.lease()
    mine.acquire(machine.said.append)
    assert LEASE_S <= machine.now < LEASE_S + 3
    assert mine.renew()


def test_a_dead_process_of_this_machine_is_not_waited_for(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.lease().acquire(machine.said.append)
    holder = read_holder(machine.url, "s")
    assert holder is not None
    assert not holder.is_gone_from_here
    machine.store(replace(holder, process=replace(holder.process, started=holder.process.started - 1)))
    before = machine.now
    machine.lease().acquire(machine.said.append)
    assert machine.now - before <= lease.CONTEST_S
    assert machine.said == []


def test_of_two_processes_that_take_a_free_lease_at_once_one_has_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.during_sleep = lambda: machine.store(ELSEWHERE)
    with pytest.raises(SweepError, match="already running"):
        machine.lease().acquire(machine.said.append)


def test_a_process_that_lost_its_lease_neither_renews_nor_releases_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    mine = machine.lease()
    mine.acquire(machine.said.append)
    machine.store(ELSEWHERE)
    assert not mine.renew()
    mine.release()
    assert mine.holder() == ELSEWHERE


def test_a_sweep_that_loses_its_lease_stops_with_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_EVERY_S", 0.01)
    monkeypatch.setattr(lease, "CONTEST_S", 0.01)
    machine = Machine(tmp_path)
    stopped = threading.Event()

    def run() -> None:
        with leased(machine.url, "s", [Objective("loss", "minimize")], machine.said.append, stopped.set):
            machine.store(ELSEWHERE)
            assert stopped.wait(60)

    with pytest.raises(SweepError, match="this process lost sweep `s`") as caught:
        run()
    assert "run the same command again" in caught.value.hint
    assert machine.lease().holder() == ELSEWHERE


def test_a_journal_file_needs_no_lease(tmp_path: Path) -> None:
    with leased(tmp_path / "j", "s", [Objective("loss", "minimize")], print):
        assert not (tmp_path / "j").exists()
