"""A year in a minute: the product's daemon, books, sweeps and contests under a fake clock; see benchmarks/year."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from benchmarks.year.simulation import Simulation, Year, backend_installed
from benchmarks.year.world import MONTHLY_USD
from sweeps.planning.plan import plan_file
from sweeps.scheduling.schedule import NightState
from sweeps.workspace import Workspace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.integration,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

ZONES = {"berlin": "Europe/Berlin", "stjohns": "America/St_Johns"}


@pytest.fixture(scope="module")
def year() -> Iterator[Year]:
    """Every night of one team, the Saturdays of the other: in Newfoundland clocks change in those nights."""
    memory = Path("/dev/shm")  # each record is synced to the disk, ten thousands of times
    root = Path(tempfile.mkdtemp(prefix="year-", dir=memory if memory.is_dir() else None))
    try:
        with backend_installed(root / "site"):
            yield Simulation(root, seed=1, changing=0.15, second="30 22 * * 6").run()
    finally:
        shutil.rmtree(root)


def test_every_night_is_accounted_for_once(year: Year) -> None:
    days = [date(2027, 1, 1) + timedelta(days=each) for each in range(365)]
    wanted = {"berlin": days, "stjohns": [day for day in days if day.weekday() == 5]}
    for team, nights in year.nights.items():
        outcomes = year.outcomes(team)
        zone = ZoneInfo(ZONES[team])
        assert [datetime.fromtimestamp(outcome, UTC).astimezone(zone).date() for outcome in sorted(outcomes)] == wanted[team]
        assert all(night.state.ended for night in nights)
        assert len({(night.planned_at, night.attempt) for night in nights}) == len(nights)
        assert all(night.reason for night in nights), "each says why"
        for night in nights:  # an attempt follows only what was cut off
            before = [
                other for other in nights if (other.planned_at, other.attempt + 1) == (night.planned_at, night.attempt)
            ]
            assert night.attempt == 1 or before[0].state.cut_off


def test_everything_that_can_happen_did(year: Year) -> None:
    seen = Counter(night.state for nights in year.nights.values() for night in nights)
    assert set(seen) >= {
        NightState.DONE, NightState.UNCHANGED, NightState.MISSED, NightState.FAILED, NightState.LOST,
        NightState.PARTIAL, NightState.NO_BUDGET,
    }, seen  # fmt: skip


def test_no_month_costs_more_than_its_limit(year: Year) -> None:
    """By the service's own memory of what it charged and when, not by the product's books."""
    for spent in year.spent.values():
        assert max(spent.values()) <= MONTHLY_USD + 1e-9
    assert max(year.spent["berlin"].values()) > MONTHLY_USD / 2, "the limit was within reach"
    ledger = {
        each.found["month"]["name"]: each.found["month"]["usd"]
        for each in year.nights["berlin"]
        if each.found.get("month")
    }
    for name, usd in ledger.items():
        assert year.spent["berlin"].get(name, 0.0) <= usd + 1e-6, "the books never know of less than was charged"


def test_the_champion_hardly_ever_gets_worse(year: Year) -> None:
    ours = [challenge for rules in year.rules.values() for challenge in rules[0].challenges]
    latest = [challenge for rules in year.rules.values() for challenge in rules[2].challenges]
    assert len(ours) > 30
    assert sum(our.promoted for our in ours) >= 1, "it does get replaced"
    worse = [our for our in ours if our.challenger < our.champion]
    # 2.5 % of the challenges by a worse model, and so many more as chance gives in one of a thousand years
    assert sum(each.promoted for each in worse) <= 0.025 * len(worse) + 3.1 * (0.025 * len(worse)) ** 0.5
    assert sum(our.false for our in ours) < sum(each.false for each in latest)


def test_failures_always_tell(year: Year) -> None:
    for team, nights in year.nights.items():
        told = {(each.planned_at, each.attempt) for each in year.notified[team]}
        bad = [night for night in nights if night.state in (NightState.FAILED, NightState.LOST)]
        assert bad
        assert {(each.planned_at, each.attempt) for each in bad} <= told
        missed = sorted(night.planned_at for night in nights if night.state is NightState.MISSED)
        notices = [each for each in year.notified[team] if each.state is NightState.MISSED]
        assert bool(missed) == bool(notices)
        assert sum(int(notice.reason.split()[0]) if notice.reason[0].isdigit() else 1 for notice in notices) == len(missed)
        quiet = [night for night in nights if night.state is NightState.UNCHANGED]
        assert not {(each.planned_at, each.attempt) for each in quiet} & told


def test_a_new_price_alone_is_no_reason_to_train(tmp_path: Path) -> None:
    from sweeps.scheduling.change_detection import fingerprint

    with backend_installed(tmp_path / "site"):
        simulation = Simulation(tmp_path, seed=3, days=2)
        team = simulation.world.teams["berlin"]
        before = fingerprint(plan_file(team.file, (), Workspace(tmp_path / ".sweep"), estimate=False))
        team.price *= 2
        team.write()
        assert fingerprint(plan_file(team.file, (), Workspace(tmp_path / ".sweep"), estimate=False)) == before
