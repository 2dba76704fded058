"""One simulated year of nights under a fake clock; see benchmarks/year/README.md."""

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
from sweeps.scheduling.fingerprint import fingerprint_of
from sweeps.scheduling.night import NightState
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
    """Every night of one team, and the Saturdays of the other.

    In Newfoundland the clocks change during Saturday nights.
    """
    memory = Path("/dev/shm")  # every record is synced to the disk, tens of thousands of times
    root = Path(tempfile.mkdtemp(prefix="year-", dir=memory if memory.is_dir() else None))
    try:
        with backend_installed(root / "site"):
            yield Simulation(root, seed=1, changing=0.15, second="30 22 * * 6").run()
    finally:
        shutil.rmtree(root)


def test_every_night_has_exactly_one_outcome(year: Year) -> None:
    days = [date(2027, 1, 1) + timedelta(days=day) for day in range(365)]
    expected_days = {"berlin": days, "stjohns": [day for day in days if day.weekday() == 5]}
    for team, nights in year.nights.items():
        zone = ZoneInfo(ZONES[team])
        planned_days = [
            datetime.fromtimestamp(planned_at, UTC).astimezone(zone).date()
            for planned_at in sorted(year.outcomes(team))
        ]
        assert planned_days == expected_days[team]
        assert all(night.state.ended for night in nights)
        assert len({night.key for night in nights}) == len(nights)
        assert all(night.reason for night in nights), "every night has a reason"
        for night in nights:  # another attempt follows only an interrupted one
            before = [other for other in nights if (other.planned_at, other.attempt + 1) == night.key]
            assert night.attempt == 1 or before[0].state.interrupted


def test_the_year_contains_every_state(year: Year) -> None:
    states = Counter(night.state for nights in year.nights.values() for night in nights)
    assert set(states) >= {
        NightState.DONE, NightState.UNCHANGED, NightState.MISSED, NightState.FAILED, NightState.LOST,
        NightState.PARTIAL, NightState.NO_BUDGET,
    }, states  # fmt: skip


def test_no_month_costs_more_than_its_limit(year: Year) -> None:
    """According to the service's own records of its charges, not the product's ledger."""
    for spent in year.spent.values():
        assert max(spent.values()) <= MONTHLY_USD + 1e-9
    assert max(year.spent["berlin"].values()) > MONTHLY_USD / 2, "the limit was within reach"
    cost_bounds = {
        night.results["month"]["name"]: night.results["month"]["usd"]
        for night in year.nights["berlin"]
        if night.results.get("month")
    }
    for month, usd in cost_bounds.items():
        assert year.spent["berlin"].get(month, 0.0) <= usd + 1e-6, "the ledger never shows less than was charged"


def test_the_champion_hardly_ever_gets_worse(year: Year) -> None:
    ours = [challenge for rules in year.rules.values() for challenge in rules[0].challenges]
    latest = [challenge for rules in year.rules.values() for challenge in rules[2].challenges]
    assert len(ours) > 30
    assert sum(challenge.promoted for challenge in ours) >= 1, "some challengers win"
    worse = [challenge for challenge in ours if challenge.challenger < challenge.champion]
    # 2.5 % of the challenges by a worse model, plus what chance adds in one of a thousand years
    allowed = 0.025 * len(worse) + 3.1 * (0.025 * len(worse)) ** 0.5
    assert sum(challenge.promoted for challenge in worse) <= allowed
    assert sum(challenge.false for challenge in ours) < sum(challenge.false for challenge in latest)


def test_failures_are_always_reported(year: Year) -> None:
    for team, nights in year.nights.items():
        notified = {night.key for night in year.notified[team]}
        failures = [night for night in nights if night.state in (NightState.FAILED, NightState.LOST)]
        assert failures
        assert {night.key for night in failures} <= notified
        missed = [night for night in nights if night.state is NightState.MISSED]
        notifications = [night for night in year.notified[team] if night.state is NightState.MISSED]
        assert bool(missed) == bool(notifications)
        # one notification of several missed nights begins with their number
        counts = [int(night.reason.split()[0]) if night.reason[0].isdigit() else 1 for night in notifications]
        assert sum(counts) == len(missed)
        unchanged = [night for night in nights if night.state is NightState.UNCHANGED]
        assert not {night.key for night in unchanged} & notified


def test_a_new_price_alone_is_no_reason_to_train(tmp_path: Path) -> None:
    with backend_installed(tmp_path / "site"):
        simulation = Simulation(tmp_path, seed=3, days=2)
        team = simulation.world.teams["berlin"]
        before = fingerprint_of(plan_file(team.file, (), Workspace(tmp_path / ".sweep"), estimate=False))
        team.price *= 2
        team.write()
        assert fingerprint_of(plan_file(team.file, (), Workspace(tmp_path / ".sweep"), estimate=False)) == before
