"""Schedules, nights, costs and fingerprints that version 0.1 stored load, and print as they did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backends import codec
from sweeps.scheduling.fingerprint import Fingerprint
from sweeps.scheduling.monthly_budget import MonthlySpend, NightCost, cost_of
from sweeps.scheduling.night import Night, NightState
from sweeps.scheduling.schedule import NotificationSettings, Schedule

pytestmark = pytest.mark.unit

STATE = Path(__file__).parents[2] / "data/version_0_1/expected"
RECORDED = json.loads((STATE / "codec.json").read_text(encoding="utf-8"))
CASES = [
    (now, value)
    for name, now in {
        "Schedule": Schedule,
        "Night": Night,
        "Money": NightCost,
        "Month": MonthlySpend,
        "Fingerprint": Fingerprint,
    }.items()
    for value in RECORDED[name]["values"]
]


@pytest.mark.parametrize(("now", "value"), CASES)
def test_a_recorded_value_loads_and_prints_the_same(now: type[Any], value: dict[str, Any]) -> None:
    loaded = codec.from_json(now, value)
    printed = codec.to_json(loaded)
    assert json.dumps(printed, sort_keys=True) == json.dumps(value, sort_keys=True)
    assert list(printed) == list(value), "the order of the keys, too"
    assert codec.from_json(now, json.loads(json.dumps(printed))) == loaded


def test_the_fields_of_a_stored_night_have_their_types() -> None:
    [first, *_] = json.loads((STATE / "schedule-history-nightly.json").read_text(encoding="utf-8"))
    night = codec.from_json(Night, first)
    assert night.state is NightState.DONE
    assert night.results["trials"] == 4
    assert cost_of(night) == NightCost(
        sweep_id=night.results["money"]["study"],
        spent_before_usd=0.0,
        limit_usd=1.0,
        monthly_limit_usd=2.0,
        cost_bound_usd=0.019426,
    )
    assert codec.from_json(Fingerprint, night.fingerprint).models == {"fake-small": "by its name"}


def test_a_schedule_without_later_fields_loads_with_their_defaults() -> None:
    oldest = {
        "name": "s", "file": "/s.yaml", "cron": "0 2 * * *", "tz": "UTC", "created_at": 1.0, "until": None,
        "data": None, "overrides": ["search.trials=8"],
        "notify": {"variables": ["TEAM"], "files": [], "when": "changes"}, "paused": False,
    }  # fmt: skip
    assert codec.from_json(Schedule, oldest) == Schedule(
        "s", "/s.yaml", "0 2 * * *", "UTC", 1.0,
        overrides=("search.trials=8",), notify=NotificationSettings(("TEAM",), (), "changes"),
    )  # fmt: skip
