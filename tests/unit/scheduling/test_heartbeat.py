"""The lease of a night: renewed while the night runs; without it the night stops."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sweeps.scheduling.claims import LEASE_S, Claim
from sweeps.scheduling.heartbeat import Heartbeat
from sweeps.scheduling.night import NightState
from sweeps.scheduling.schedule import Schedule
from sweeps.scheduling.store import ScheduleStore
from sweeps.workspace import Workspace

pytestmark = pytest.mark.unit


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ScheduleStore]:
    opened = ScheduleStore.open(Workspace(tmp_path), None)
    opened.add(Schedule("s", "/s.yaml", "0 2 * * *", "UTC", 0.0))
    yield opened
    opened.close()


def claimed(store: ScheduleStore, now: datetime) -> Claim:
    claim = store.claims.claim_now("s", "a", now)
    assert claim is not None
    return claim


def test_a_renewed_lease_excludes_other_processes(store: ScheduleStore) -> None:
    claim = claimed(store, datetime.now(UTC) - timedelta(seconds=LEASE_S - 1))
    stopped = threading.Event()
    with Heartbeat(store.claims, claim, interval_s=0.02, stop_night=stopped.set) as heartbeat:
        assert not stopped.wait(0.3)
        assert store.claims.claim_now("s", "b", datetime.now(UTC) + timedelta(seconds=10)) is None
    assert heartbeat.lost == ""
    assert not stopped.is_set()


def test_a_night_whose_lease_another_process_took_stops(store: ScheduleStore) -> None:
    claim = claimed(store, datetime.now(UTC) - timedelta(hours=1))
    assert store.claims.claim_now("s", "b", datetime.now(UTC)) is not None
    stopped = threading.Event()
    with Heartbeat(store.claims, claim, interval_s=0.02, stop_night=stopped.set) as heartbeat:
        assert stopped.wait(5)
    assert heartbeat.lost == "another scheduler took over the night"
    assert [night.state for night in store.nights("s")] == [NightState.LOST, NightState.RUNNING]


def test_an_unavailable_database_stops_the_night_before_its_lease_expires(store: ScheduleStore, tmp_path: Path) -> None:
    claim = claimed(store, datetime.now(UTC))
    store.close()
    unavailable = ScheduleStore.open(Workspace(tmp_path), None)
    unavailable.close()
    (tmp_path / "schedules.db").rename(tmp_path / "elsewhere.db")
    (tmp_path / "schedules.db").mkdir()
    stopped = threading.Event()
    with Heartbeat(unavailable.claims, claim, interval_s=0.05, lease_s=0.6, stop_night=stopped.set) as heartbeat:
        assert not stopped.wait(0.3), "the night outlasts a short outage"
        assert stopped.wait(5)
    assert "schedules.db cannot be reached: OperationalError, for longer than the lease" in heartbeat.lost
    unavailable.close()


def test_a_lost_night_cannot_store_its_outcome(store: ScheduleStore) -> None:
    claim = claimed(store, datetime.now(UTC) - timedelta(hours=1))
    other = store.claims.claim_now("s", "b", datetime.now(UTC))
    assert other is not None
    assert store.claims.finish(other, replace(other.night, state=NightState.DONE))
    assert not store.claims.finish(claim, replace(claim.night, state=NightState.DONE))
    assert [night.state for night in store.nights("s")] == [NightState.LOST, NightState.DONE]
