"""Schedules in SQLite and in a real PostgreSQL: competing schedulers, leases, outages."""

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
from sweeps.scheduling.claims import LEASE_S, Claim
from sweeps.scheduling.daemon import Daemon
from sweeps.scheduling.database import DatabaseUnavailableError
from sweeps.scheduling.night import Night, NightState
from sweeps.scheduling.night_process import NightLauncher
from sweeps.scheduling.notification_delivery import Notify, deliver_pending
from sweeps.scheduling.schedule import NotificationSettings, Schedule
from sweeps.scheduling.store import ScheduleStore
from sweeps.workspace import Workspace

pytestmark = pytest.mark.integration

_spec = util.spec_from_file_location("databases", Path(__file__).with_name("databases.py"))
assert _spec is not None
assert _spec.loader is not None
databases: Any = util.module_from_spec(_spec)
_spec.loader.exec_module(databases)

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
def store(storage: str | None, tmp_path: Path) -> Iterator[ScheduleStore]:
    opened = ScheduleStore.open(Workspace(tmp_path), storage)
    for old in opened.all():
        opened.remove(old.name, datetime(2100, 1, 1, tzinfo=UTC))
    yield opened
    opened.close()


def schedule(name: str = "snli") -> Schedule:
    notify = NotificationSettings(("TEAM",), ("/run/secrets/team",), "failures")
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


def test_a_replaced_schedule_keeps_its_nights_and_a_removed_one_its_costs(store: ScheduleStore) -> None:
    with pytest.raises(UserInputError, match="no such schedule"):
        store.replace(schedule())
    store.add(schedule())
    store.set_paused("snli", True, CREATED)
    claim = store.claims.claim_now("snli", "a", NIGHT)
    assert claim is not None
    money = {"study": "s", "before": 0.0, "limit": 9.0, "monthly": 9.0, "at_most": 2.0}
    paid = replace(claim.night, state=NightState.STOPPED, ended_at=NIGHT.timestamp() + 60, results={"money": money})
    assert store.claims.finish(claim, paid)
    free = store.claims.claim_now("snli", "b", NIGHT + timedelta(hours=1))
    assert free is not None
    assert store.claims.finish(free, replace(free.night, state=NightState.UNCHANGED))

    later = replace(schedule(), until=None, created_at=NIGHT.timestamp())
    assert store.replace(later) == replace(later, created_at=CREATED.timestamp(), paused=True), (
        "the times did not change"
    )
    moved = replace(later, cron="0 3 * * *")
    assert store.replace(moved) == store.get("snli") == replace(moved, paused=True)
    assert len(store.nights("snli")) == 2

    store.remove("snli", NIGHT + timedelta(days=1))
    store.add(replace(schedule(), created_at=(NIGHT + timedelta(days=1)).timestamp()))
    assert store.nights("snli") == [paid]
    store.remove("snli", NIGHT + timedelta(days=70))
    assert store.nights("snli") == []


def test_a_stored_schedule_comes_back(store: ScheduleStore) -> None:
    store.add(schedule())
    store.add(schedule("another"))
    assert [stored.name for stored in store.all()] == ["another", "snli"]
    assert store.get("snli") == schedule()
    with pytest.raises(UserInputError, match="a schedule of this name exists"):
        store.add(schedule())
    with pytest.raises(UserInputError, match="no such schedule"):
        store.get("snlii")
    assert store.set_paused("snli", True, NIGHT).paused
    assert store.claims.claim_due("snli", "a", NIGHT) is None
    resumed = store.set_paused("snli", False, NIGHT)
    assert not store.get("snli").paused
    assert resumed.created_at == NIGHT.timestamp()
    store.remove("snli", NIGHT)
    assert [stored.name for stored in store.all()] == ["another"]


def test_a_night_is_claimed_once_and_finished_once(store: ScheduleStore) -> None:
    store.add(schedule())
    assert store.claims.claim_due("snli", "a", NIGHT - timedelta(minutes=2)) is None
    claim = store.claims.claim_due("snli", "a", NIGHT)
    assert claim is not None
    assert store.claims.claim_due("snli", "b", NIGHT) is None
    assert store.claims.claim_now("snli", "b", NIGHT) is None, "not even by hand"
    with pytest.raises(SweepError, match="is running"):
        store.remove("snli", NIGHT)
    store.claims.store_progress(claim, replace(claim.night, sweep="snli", fingerprint={"data": "d"}))
    done = replace(
        claim.night, state=NightState.DONE, sweep="snli", ended_at=NIGHT.timestamp() + 60, results={"usd": 1.5}
    )
    assert store.claims.finish(claim, done)
    assert store.nights("snli") == [done]
    assert store.claims.claim_due("snli", "b", NIGHT + timedelta(minutes=5)) is None
    manual = store.claims.claim_now("snli", "b", NIGHT + timedelta(minutes=5))
    assert manual is not None
    assert manual.night.manual


def test_the_night_of_a_dead_scheduler_is_lost_and_gets_another_attempt(store: ScheduleStore) -> None:
    store.add(schedule())
    dead = store.claims.claim_due("snli", "dead", NIGHT)
    assert dead is not None
    assert store.claims.renew(dead, NIGHT + timedelta(seconds=60))
    assert store.claims.claim_due("snli", "b", NIGHT + timedelta(seconds=60 + LEASE_S - 1)) is None
    taken = store.claims.claim_due("snli", "b", NIGHT + timedelta(seconds=60 + LEASE_S + 1))
    assert taken is not None
    assert (taken.night.planned_at, taken.night.attempt) == (dead.night.planned_at, 2)
    assert [night.state for night in store.nights("snli")] == [NightState.LOST, NightState.RUNNING]
    # The first process is alive after all. It can neither continue nor overwrite the results.
    assert not store.claims.renew(dead, NIGHT + timedelta(minutes=9))
    assert not store.claims.finish(dead, replace(dead.night, state=NightState.DONE))
    with pytest.raises(SweepError, match="another scheduler took over"):
        store.claims.store_progress(dead, dead.night)
    assert store.claims.renew(taken, NIGHT + timedelta(minutes=9))
    assert [night.state for night in store.nights("snli")] == [NightState.LOST, NightState.RUNNING]


def test_a_lost_night_is_returned_to_one_caller_only(store: ScheduleStore) -> None:
    store.add(schedule())
    assert store.claims.mark_lost("snli", NIGHT) == []
    assert store.claims.claim_due("snli", "dead", NIGHT) is not None
    assert store.claims.mark_lost("snli", NIGHT + timedelta(seconds=LEASE_S - 1)) == []
    [lost] = store.claims.mark_lost("snli", NIGHT + timedelta(seconds=LEASE_S + 1))
    assert lost.state is NightState.LOST
    assert store.claims.mark_lost("snli", NIGHT + timedelta(seconds=LEASE_S + 2)) == []
    again = store.claims.claim_due("snli", "b", NIGHT + timedelta(seconds=LEASE_S + 2))
    assert again is not None
    assert again.night.attempt == 2


def test_an_expired_lease_that_nobody_took_can_be_renewed(store: ScheduleStore) -> None:
    store.add(schedule())
    claim = store.claims.claim_due("snli", "a", NIGHT)
    assert claim is not None
    assert store.claims.renew(claim, NIGHT + timedelta(hours=1)), (
        "the database was unavailable, and nobody else took the lease"
    )


def test_missed_nights_are_recorded(store: ScheduleStore) -> None:
    store.add(schedule())
    claim = store.claims.claim_due("snli", "a", NIGHT + timedelta(days=3))
    assert claim is not None
    states = [night.state for night in store.nights("snli")]
    assert states == [NightState.MISSED] * 3 + [NightState.RUNNING]
    late = replace(claim.night, state=NightState.DONE)
    store.claims.finish(claim, late)
    assert store.claims.claim_due("snli", "a", NIGHT + timedelta(days=4, hours=8)) is None, "its window has closed"
    assert [night.state for night in store.nights("snli")][-1] is NightState.MISSED


def test_an_end_stays_in_the_queue_until_its_delivery_is_confirmed(store: ScheduleStore) -> None:
    store.add(schedule())
    now = NIGHT + timedelta(days=2)
    claim = store.claims.claim_due("snli", "a", now)
    assert claim is not None
    missed = store.notifications.take("snli", now)
    assert [night.state for night in missed] == [NightState.MISSED] * 2
    assert store.notifications.take("snli", now) == [], "a process has reserved them"
    later = now + timedelta(seconds=LEASE_S + 1)
    assert store.notifications.take("snli", later) == missed, "it died before it confirmed"
    store.notifications.confirm(missed)
    done = replace(claim.night, state=NightState.DONE, ended_at=later.timestamp())
    assert store.claims.finish(claim, done)
    assert store.notifications.take("snli", later + timedelta(seconds=LEASE_S - 1)) == [], (
        "the process of the night notifies people itself"
    )
    store.notifications.confirm([replace(done, state=NightState.LOST)])
    assert store.notifications.take("snli", later + timedelta(seconds=LEASE_S + 1)) == [done], (
        "people were notified of another end"
    )
    store.notifications.confirm([done])
    assert store.notifications.take("snli", later + timedelta(days=1)) == []


def test_the_next_scheduler_notifies_people_if_one_dies_before_it_did(store: ScheduleStore, tmp_path: Path) -> None:
    store.add(schedule())
    delivered: list[Night] = []
    launcher = NightLauncher(lambda _: ["false"], lambda _: tmp_path / "log")

    def daemon(now: datetime, notify: Notify) -> Daemon:
        return Daemon(store, launcher, lambda _: None, notify, clock=lambda: now)

    def dies(schedule: Schedule, night: Night) -> bool:
        raise KeyboardInterrupt

    def delivers(schedule: Schedule, night: Night) -> bool:
        delivered.append(night)
        return True

    now = NIGHT + timedelta(days=2, hours=8)  # after the last night's window
    with pytest.raises(KeyboardInterrupt):
        daemon(now, dies).tick()
    assert {night.state for night in store.nights("snli")} == {NightState.MISSED}
    for seconds in (1, LEASE_S + 1, 3 * LEASE_S):
        daemon(now + timedelta(seconds=seconds), delivers).tick()
    [notification] = delivered
    assert notification.reason.startswith("3 nights, ")


def test_a_failed_delivery_is_reattempts_for_a_day(store: ScheduleStore) -> None:
    store.add(schedule())
    claim = store.claims.claim_due("snli", "a", NIGHT)
    assert claim is not None
    store.claims.finish(claim, replace(claim.night, state=NightState.FAILED, ended_at=NIGHT.timestamp()))
    attempts: list[int] = []
    for minute in range(60 * 48):
        now = NIGHT + timedelta(minutes=minute)

        def fails(schedule: Schedule, night: Night, minute: int = minute) -> bool:
            attempts.append(minute)
            return False

        deliver_pending(store.notifications, schedule(), now, fails)
    assert 10 < len(attempts) < 30
    assert attempts[0] <= 3, "the process of the night has two minutes to notify people itself"
    assert 24 * 60 < attempts[-1] < 36 * 60, "and once more after the day"
    assert attempts == sorted(set(attempts))


def test_a_database_without_the_notification_column_gets_it(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    first = ScheduleStore.open(workspace, None)
    first.add(schedule())
    first.close()
    with sqlite3.connect(tmp_path / "schedules.db") as earlier:
        earlier.execute("ALTER TABLE finesweep_nights DROP COLUMN telling_until")
    earlier.close()
    opened = ScheduleStore.open(workspace, None)
    claim = opened.claims.claim_due("snli", "a", NIGHT)
    assert claim is not None
    assert opened.claims.finish(claim, replace(claim.night, state=NightState.DONE))
    opened.close()


def _contend(storage: str | None, root: str, barrier: Any, nights: int, won: Any, name: str) -> None:
    opened = ScheduleStore.open(Workspace(Path(root)), storage)
    for night in range(nights):
        barrier.wait()
        claim = opened.claims.claim_due("snli", name, NIGHT + timedelta(days=night))
        if claim is not None:
            won.put((name, claim.night.planned_at))
            barrier.wait()
            opened.claims.finish(claim, replace(claim.night, state=NightState.DONE))
        else:
            barrier.wait()
        barrier.wait()


def test_processes_that_compete_for_a_night_start_it_once(
    store: ScheduleStore, storage: str | None, tmp_path: Path
) -> None:
    store.add(schedule())
    context = multiprocessing.get_context("spawn")
    racers, nights = 3, 12
    barrier, won = context.Barrier(racers), context.Queue()
    processes = [
        context.Process(target=_contend, args=(storage, str(tmp_path), barrier, nights, won, f"scheduler-{number}"))
        for number in range(racers)
    ]
    for process in processes:
        process.start()
    claims = [won.get(timeout=60) for _ in range(nights)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert won.empty()
    assert len({planned for _, planned in claims}) == nights
    assert [night.state for night in store.nights("snli")] == [NightState.DONE] * nights


def test_threads_that_open_a_new_database_together_create_its_tables_once(storage: str | None, tmp_path: Path) -> None:
    workspace, barrier = Workspace(tmp_path / "new"), Barrier(4)
    if storage is not None:
        engine = create_engine(storage)
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE IF EXISTS finesweep_schedules, finesweep_nights")
        engine.dispose()

    def opened(_: int) -> int:
        barrier.wait()
        schedules = ScheduleStore.open(workspace, storage)
        count = len(schedules.all())
        schedules.close()
        return count

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(opened, range(4)))) == 1


def test_an_unavailable_database_is_reported_without_its_password(tmp_path: Path) -> None:
    with databases.server() as running:
        url = running.url.replace("postgres@", "postgres:hidden-word@")
        store = ScheduleStore.open(Workspace(tmp_path), url)
        store.add(schedule())
        claim = store.claims.claim_due("snli", "a", NIGHT)
        assert isinstance(claim, Claim)
        running.stop()
        with pytest.raises(
            DatabaseUnavailableError, match="SWEEP_STORAGE cannot be reached: OperationalError"
        ) as raised:
            store.claims.renew(claim, NIGHT)
        assert "hidden-word" not in f"{raised.value} {raised.value.hint}"
        running.start()
        assert store.claims.renew(claim, NIGHT)
        assert store.nights("snli") == [Night("snli", int(NIGHT.timestamp()) - 5, started_at=NIGHT.timestamp())]
        store.close()


def test_a_bad_database_url_is_a_user_error(tmp_path: Path) -> None:
    for url in ("no url", "quux://x", "oracle+oracledb://x"):
        with pytest.raises(UserInputError, match="not a usable database URL"):
            ScheduleStore.open(Workspace(tmp_path), url)
