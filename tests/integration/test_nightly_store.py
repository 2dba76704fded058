"""Schedules in SQLite and in a real PostgreSQL: two daemons, leases, a database that goes away."""

from __future__ import annotations

import multiprocessing
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import util
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import create_engine

from sweeps.errors import SweepError, UserInputError
from sweeps.scheduling.daemon import Daemon, Teller, tell_untold
from sweeps.scheduling.schedule import Night, NightState, Notify, Schedule
from sweeps.scheduling.store import LEASE_S, Claim, Schedules, StorageAwayError
from sweeps.workspace import Workspace

pytestmark = pytest.mark.integration

_found = util.spec_from_file_location("databases", Path(__file__).with_name("databases.py"))
assert _found is not None
assert _found.loader is not None
databases: Any = util.module_from_spec(_found)
_found.loader.exec_module(databases)

CREATED = datetime(2027, 1, 1, 12, tzinfo=UTC)
NIGHT = datetime(2027, 1, 2, 1, 0, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Any]:
    with databases.server() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest) -> str | None:
    if request.param == "sqlite":
        return None
    url: str = request.getfixturevalue("postgres").url
    return url


@pytest.fixture
def kept(storage: str | None, tmp_path: Path) -> Iterator[Schedules]:
    opened = Schedules.open(Workspace(tmp_path), storage)
    for each in opened.all():
        opened.remove(each.name, datetime(2100, 1, 1, tzinfo=UTC))
    yield opened
    opened.close()


def schedule(name: str = "snli") -> Schedule:
    notify = Notify(("TELL",), ("/run/secrets/tell",), "failures")
    return Schedule(
        name,
        "/s/snli.yaml",
        "0 2 * * *",
        "Europe/Berlin",
        CREATED.timestamp(),
        "06:00",
        "/d",
        ("search.trials=8",),
        notify,
    )


def test_a_replaced_schedule_keeps_its_nights_and_a_removed_one_what_it_has_cost(kept: Schedules) -> None:
    with pytest.raises(UserInputError, match="no such schedule"):
        kept.replace(schedule())
    kept.add(schedule())
    kept.pause("snli", True, CREATED)
    claim = kept.claim_now("snli", "a", NIGHT)
    assert claim is not None
    money = {"study": "s", "before": 0.0, "limit": 9.0, "monthly": 9.0, "at_most": 2.0}
    paid = replace(claim.night, state=NightState.STOPPED, ended_at=NIGHT.timestamp() + 60, found={"money": money})
    assert kept.finish(claim, paid)
    free = kept.claim_now("snli", "b", NIGHT + timedelta(hours=1))
    assert free is not None
    assert kept.finish(free, replace(free.night, state=NightState.UNCHANGED))

    later = replace(schedule(), until=None, created_at=NIGHT.timestamp())
    assert kept.replace(later) == replace(later, created_at=CREATED.timestamp(), paused=True), "the times are the same"
    moved = replace(later, cron="0 3 * * *")
    assert kept.replace(moved) == kept.get("snli") == replace(moved, paused=True)
    assert len(kept.nights("snli")) == 2

    kept.remove("snli", NIGHT + timedelta(days=1))
    kept.add(replace(schedule(), created_at=(NIGHT + timedelta(days=1)).timestamp()))
    assert kept.nights("snli") == [paid]
    kept.remove("snli", NIGHT + timedelta(days=70))
    assert kept.nights("snli") == []


def test_what_is_kept_comes_back(kept: Schedules) -> None:
    kept.add(schedule())
    kept.add(schedule("another"))
    assert [each.name for each in kept.all()] == ["another", "snli"]
    assert kept.get("snli") == schedule()
    with pytest.raises(UserInputError, match="there is a schedule of this name"):
        kept.add(schedule())
    with pytest.raises(UserInputError, match="no such schedule"):
        kept.get("snlii")
    assert kept.pause("snli", True, NIGHT).paused
    assert kept.claim_due("snli", "a", NIGHT) is None
    resumed = kept.pause("snli", False, NIGHT)
    assert not kept.get("snli").paused
    assert resumed.created_at == NIGHT.timestamp()
    kept.remove("snli", NIGHT)
    assert [each.name for each in kept.all()] == ["another"]


def test_a_night_is_claimed_once_finished_once_and_planned_once(kept: Schedules) -> None:
    kept.add(schedule())
    assert kept.claim_due("snli", "a", NIGHT - timedelta(minutes=2)) is None
    claim = kept.claim_due("snli", "a", NIGHT)
    assert claim is not None
    assert kept.claim_due("snli", "b", NIGHT) is None
    assert kept.claim_now("snli", "b", NIGHT) is None, "nor by hand"
    with pytest.raises(SweepError, match="is running"):
        kept.remove("snli", NIGHT)
    kept.note(claim, replace(claim.night, sweep="snli", fingerprint={"data": "d"}))
    done = replace(
        claim.night, state=NightState.DONE, sweep="snli", ended_at=NIGHT.timestamp() + 60, found={"usd": 1.5}
    )
    assert kept.finish(claim, done)
    assert kept.nights("snli") == [done]
    assert kept.claim_due("snli", "b", NIGHT + timedelta(minutes=5)) is None
    by_hand = kept.claim_now("snli", "b", NIGHT + timedelta(minutes=5))
    assert by_hand is not None
    assert by_hand.night.manual


def test_a_night_of_a_daemon_that_is_gone_is_told_as_lost_and_taken_up(kept: Schedules) -> None:
    kept.add(schedule())
    dead = kept.claim_due("snli", "dead", NIGHT)
    assert dead is not None
    assert kept.renew(dead, NIGHT + timedelta(seconds=60))
    assert kept.claim_due("snli", "b", NIGHT + timedelta(seconds=60 + LEASE_S - 1)) is None
    taken = kept.claim_due("snli", "b", NIGHT + timedelta(seconds=60 + LEASE_S + 1))
    assert taken is not None
    assert (taken.night.planned_at, taken.night.attempt) == (dead.night.planned_at, 2)
    assert [night.state for night in kept.nights("snli")] == [NightState.LOST, NightState.RUNNING]
    # The one that was taken for dead comes back: it may neither go on nor write over what the other one does.
    assert not kept.renew(dead, NIGHT + timedelta(minutes=9))
    assert not kept.finish(dead, replace(dead.night, state=NightState.DONE))
    with pytest.raises(SweepError, match="taken over"):
        kept.note(dead, dead.night)
    assert kept.renew(taken, NIGHT + timedelta(minutes=9))
    assert [night.state for night in kept.nights("snli")] == [NightState.LOST, NightState.RUNNING]


def test_a_lost_night_is_told_to_one_caller_only(kept: Schedules) -> None:
    kept.add(schedule())
    assert kept.mark_lost("snli", NIGHT) == []
    assert kept.claim_due("snli", "dead", NIGHT) is not None
    assert kept.mark_lost("snli", NIGHT + timedelta(seconds=LEASE_S - 1)) == []
    [lost] = kept.mark_lost("snli", NIGHT + timedelta(seconds=LEASE_S + 1))
    assert lost.state is NightState.LOST
    assert kept.mark_lost("snli", NIGHT + timedelta(seconds=LEASE_S + 2)) == []
    again = kept.claim_due("snli", "b", NIGHT + timedelta(seconds=LEASE_S + 2))
    assert again is not None
    assert again.night.attempt == 2


def test_a_lease_that_ran_out_and_was_not_taken_can_be_renewed(kept: Schedules) -> None:
    kept.add(schedule())
    claim = kept.claim_due("snli", "a", NIGHT)
    assert claim is not None
    assert kept.renew(claim, NIGHT + timedelta(hours=1)), "the database was away, and nobody else came"


def test_missed_nights_are_written_down(kept: Schedules) -> None:
    kept.add(schedule())
    claim = kept.claim_due("snli", "a", NIGHT + timedelta(days=3))
    assert claim is not None
    states = [night.state for night in kept.nights("snli")]
    assert states == [NightState.MISSED] * 3 + [NightState.RUNNING]
    late = replace(claim.night, state=NightState.DONE)
    kept.finish(claim, late)
    assert kept.claim_due("snli", "a", NIGHT + timedelta(days=4, hours=8)) is None, "its window has closed"
    assert [night.state for night in kept.nights("snli")][-1] is NightState.MISSED


def test_an_end_is_to_be_told_until_somebody_has(kept: Schedules) -> None:
    kept.add(schedule())
    now = NIGHT + timedelta(days=2)
    claim = kept.claim_due("snli", "a", now)
    assert claim is not None
    missed = kept.take_untold("snli", now)
    assert [each.state for each in missed] == [NightState.MISSED] * 2
    assert kept.take_untold("snli", now) == [], "somebody tells of them"
    later = now + timedelta(seconds=LEASE_S + 1)
    assert kept.take_untold("snli", later) == missed, "and has died before it had told"
    kept.told(missed)
    done = replace(claim.night, state=NightState.DONE, ended_at=later.timestamp())
    assert kept.finish(claim, done)
    assert kept.take_untold("snli", later + timedelta(seconds=LEASE_S - 1)) == [], "the night tells of itself"
    kept.told([replace(done, state=NightState.LOST)])
    assert kept.take_untold("snli", later + timedelta(seconds=LEASE_S + 1)) == [done], "of another end nobody was told"
    kept.told([done])
    assert kept.take_untold("snli", later + timedelta(days=1)) == []


def test_a_scheduler_that_dies_before_it_has_told_leaves_it_to_the_next(kept: Schedules, tmp_path: Path) -> None:
    kept.add(schedule())
    told: list[Night] = []

    def daemon(now: datetime, tell: Teller) -> Daemon:
        return Daemon(kept, lambda _: ["false"], lambda _: tmp_path / "log", lambda _: None, tell, clock=lambda: now)

    def dies(schedule: Schedule, night: Night) -> bool:
        raise KeyboardInterrupt

    def tells(schedule: Schedule, night: Night) -> bool:
        told.append(night)
        return True

    now = NIGHT + timedelta(days=2, hours=8)  # after the last night's window
    with pytest.raises(KeyboardInterrupt):
        daemon(now, dies).tick()
    assert {night.state for night in kept.nights("snli")} == {NightState.MISSED}
    for seconds in (1, LEASE_S + 1, 3 * LEASE_S):
        daemon(now + timedelta(seconds=seconds), tells).tick()
    [notice] = told
    assert notice.reason.startswith("3 nights, ")


def test_an_end_that_reached_nobody_is_told_again_for_a_day(kept: Schedules) -> None:
    kept.add(schedule())
    claim = kept.claim_due("snli", "a", NIGHT)
    assert claim is not None
    kept.finish(claim, replace(claim.night, state=NightState.FAILED, ended_at=NIGHT.timestamp()))
    tried: list[float] = []
    for minute in range(60 * 48):
        now = NIGHT + timedelta(minutes=minute)

        def fails(schedule: Schedule, night: Night, minute: int = minute) -> bool:
            tried.append(minute)
            return False

        tell_untold(kept, schedule(), now, fails)
    assert 10 < len(tried) < 30
    assert tried[0] <= 3, "the process of the night has two minutes to tell of it"
    assert 24 * 60 < tried[-1] < 36 * 60, "and once more when the day is over"
    assert tried == sorted(set(tried))


def test_a_database_of_an_earlier_version_is_brought_up_to_date(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    first = Schedules.open(workspace, None)
    first.add(schedule())
    first.close()
    with sqlite3.connect(tmp_path / "schedules.db") as earlier:
        earlier.execute("ALTER TABLE finesweep_nights DROP COLUMN telling_until")
    earlier.close()
    opened = Schedules.open(workspace, None)
    claim = opened.claim_due("snli", "a", NIGHT)
    assert claim is not None
    assert opened.finish(claim, replace(claim.night, state=NightState.DONE))
    opened.close()


def _contend(storage: str | None, root: str, barrier: Any, nights: int, won: Any, name: str) -> None:
    opened = Schedules.open(Workspace(Path(root)), storage)
    for night in range(nights):
        barrier.wait()
        claim = opened.claim_due("snli", name, NIGHT + timedelta(days=night))
        if claim is not None:
            won.put((name, claim.night.planned_at))
            barrier.wait()
            opened.finish(claim, replace(claim.night, state=NightState.DONE))
        else:
            barrier.wait()
        barrier.wait()


def test_processes_that_race_for_each_night_begin_it_once(kept: Schedules, storage: str | None, tmp_path: Path) -> None:
    kept.add(schedule())
    context = multiprocessing.get_context("spawn")
    racers, nights = 3, 12
    barrier, won = context.Barrier(racers), context.Queue()
    processes = [
        context.Process(target=_contend, args=(storage, str(tmp_path), barrier, nights, won, f"daemon-{each}"))
        for each in range(racers)
    ]
    for process in processes:
        process.start()
    claims = [won.get(timeout=60) for _ in range(nights)]
    for each in processes:
        each.join(60)
        assert each.exitcode == 0
    assert won.empty()
    assert len({planned for _, planned in claims}) == nights
    assert [night.state for night in kept.nights("snli")] == [NightState.DONE] * nights


def test_threads_that_race_for_a_new_database_make_its_tables_once(storage: str | None, tmp_path: Path) -> None:
    workspace, barrier = Workspace(tmp_path / "new"), Barrier(4)
    if storage is not None:
        engine = create_engine(storage)
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE IF EXISTS finesweep_schedules, finesweep_nights")
        engine.dispose()

    def opened(_: int) -> int:
        barrier.wait()
        schedules = Schedules.open(workspace, storage)
        count = len(schedules.all())
        schedules.close()
        return count

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(opened, range(4)))) == 1


def test_a_database_that_goes_away_is_told_without_its_password_and_comes_back(tmp_path: Path) -> None:
    with databases.server() as running:
        url = running.url.replace("postgres@", "postgres:hidden-word@")
        kept = Schedules.open(Workspace(tmp_path), url)
        kept.add(schedule())
        claim = kept.claim_due("snli", "a", NIGHT)
        assert isinstance(claim, Claim)
        running.stop()
        with pytest.raises(StorageAwayError, match="SWEEP_STORAGE cannot be reached") as told:
            kept.renew(claim, NIGHT)
        assert "hidden-word" not in f"{told.value} {told.value.hint}"
        running.start()
        assert kept.renew(claim, NIGHT)
        assert kept.nights("snli") == [Night("snli", int(NIGHT.timestamp()) - 5, started_at=NIGHT.timestamp())]
        kept.close()


def test_urls_that_are_none_are_the_users_mistake(tmp_path: Path) -> None:
    for url in ("no url", "quux://x", "oracle+oracledb://x"):
        with pytest.raises(UserInputError, match="no database URL"):
            Schedules.open(Workspace(tmp_path), url)
