"""The lease of a night: renewed while the night runs; where that is not possible the night is ended."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sweeps.scheduling.heartbeat import Heartbeat
from sweeps.scheduling.schedule import NightState, Schedule
from sweeps.scheduling.store import LEASE_S, Claim, Schedules
from sweeps.workspace import Workspace

pytestmark = pytest.mark.unit


@pytest.fixture
def kept(tmp_path: Path) -> Schedules:
    opened = Schedules.open(Workspace(tmp_path), None)
    opened.add(Schedule("s", "/s.yaml", "0 2 * * *", "UTC", 0.0))
    return opened


def claimed(kept: Schedules, now: datetime) -> Claim:
    claim = kept.claim_now("s", "a", now)
    assert claim is not None
    return claim


def test_a_lease_is_renewed_and_kept_from_others(kept: Schedules) -> None:
    almost = datetime.now(UTC) - timedelta(seconds=LEASE_S - 1)
    claim = claimed(kept, almost)
    ended = threading.Event()
    with Heartbeat(kept, claim, beat_s=0.02, end=ended.set) as heartbeat:
        assert not ended.wait(0.3)
        assert kept.claim_now("s", "b", datetime.now(UTC) + timedelta(seconds=10)) is None
    assert heartbeat.lost == ""
    assert not ended.is_set()
    kept.close()


def test_a_night_that_somebody_else_has_taken_is_ended(kept: Schedules) -> None:
    claim = claimed(kept, datetime.now(UTC) - timedelta(hours=1))
    assert kept.claim_now("s", "b", datetime.now(UTC)) is not None
    ended = threading.Event()
    with Heartbeat(kept, claim, beat_s=0.02, end=ended.set) as heartbeat:
        assert ended.wait(5)
    assert "took the night over" in heartbeat.lost
    assert [night.state for night in kept.nights("s")] == [NightState.LOST, NightState.RUNNING]
    kept.close()


def test_a_database_that_stays_away_ends_the_night_before_its_lease_does(kept: Schedules, tmp_path: Path) -> None:
    claim = claimed(kept, datetime.now(UTC))
    kept.close()
    away = Schedules.open(Workspace(tmp_path), None)
    away.close()
    (tmp_path / "schedules.db").rename(tmp_path / "elsewhere.db")
    (tmp_path / "schedules.db").mkdir()
    ended = threading.Event()
    with Heartbeat(away, claim, beat_s=0.05, lease_s=0.6, end=ended.set) as heartbeat:
        assert not ended.wait(0.3), "a short absence is waited out"
        assert ended.wait(5)
    assert "cannot be reached" in heartbeat.lost
    away.close()


def test_what_was_lost_is_not_written_over(kept: Schedules) -> None:
    claim = claimed(kept, datetime.now(UTC) - timedelta(hours=1))
    other = kept.claim_now("s", "b", datetime.now(UTC))
    assert other is not None
    assert kept.finish(other, replace(other.night, state=NightState.DONE))
    assert not kept.finish(claim, replace(claim.night, state=NightState.DONE))
    assert [night.state for night in kept.nights("s")] == [NightState.LOST, NightState.DONE]
    kept.close()
