"""The monthly budget: what a night adds, what stays open, and that no month exceeds its limit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import codec
from sweeps.cli import schedule_tables
from sweeps.cli.plan_view import limits
from sweeps.errors import UserInputError
from sweeps.planning.plan import make_plan
from sweeps.scheduling import summary
from sweeps.scheduling.current_month import current_month
from sweeps.scheduling.monthly_budget import NightCost, month_name, monthly_spend, sweep_limit
from sweeps.scheduling.night import Night, NightState
from sweeps.scheduling.schedule import Schedule
from sweeps.spec.loading import from_document
from sweeps.spec.sweep_file import BudgetSpec
from sweeps.spec.yaml_source import parse, with_overrides
from sweeps.workspace import Workspace

pytestmark = pytest.mark.unit

BERLIN = "Europe/Berlin"
FILE = """\
name: pairs
data: {checks: quick, source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 120, valid_examples: 60, test_examples: 30}
backend: {type: fake, model: fake-small, price_usd_per_token: 0.001}
space: {n_epochs: [1, 2]}
search: {trials: 3}
objective: {maximize: valid_accuracy}
"""


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(BERLIN)).timestamp()


def night(
    begin: str, end: str, *, sweep_id: str = "s", spent_before: float, bound: float | None, limit: float = 10.0
) -> Night:
    cost = NightCost(sweep_id, spent_before, limit, 40.0, bound)
    return Night("n", int(at(begin)), state=NightState.DONE, started_at=at(begin), ended_at=at(end), sweep="n",
                 results={"money": codec.to_json(cost)})  # fmt: skip


def test_a_night_over_the_end_of_a_month_counts_in_both() -> None:
    nights = [night("2027-01-31 23:00", "2027-02-01 02:00", spent_before=0.0, bound=7.0)]

    def cost_bound(tz: str, moment: str) -> float:
        return monthly_spend(nights, tz, 40.0, at(moment)).cost_bound_usd

    assert cost_bound(BERLIN, "2027-01-31 23:30") == 7.0
    assert cost_bound(BERLIN, "2027-02-14 12:00") == 7.0
    assert cost_bound(BERLIN, "2027-03-01 12:00") == 0.0
    assert cost_bound("America/St_Johns", "2027-02-14 12:00") == 0.0, "in that zone it was January throughout"


def test_a_later_night_of_the_same_sweep_corrects_what_earlier_ones_cost() -> None:
    first = night("2027-01-10 02:00", "2027-01-10 03:00", spent_before=0.0, bound=10.0)  # 6 spent, 4 open
    second = night("2027-01-11 02:00", "2027-01-11 03:00", spent_before=6.0, bound=12.0)  # the open ones took 1, then 5
    restarted = night("2027-01-12 02:00", "2027-01-12 03:00", sweep_id="t", spent_before=0.0, bound=3.0)

    def cost_bound(nights: list[Night], moment: str) -> float:
        return monthly_spend(nights, BERLIN, 40.0, at(moment)).cost_bound_usd

    assert cost_bound([first], "2027-01-10 12:00") == 10.0
    assert cost_bound([first, second], "2027-01-11 12:00") == 12.0
    assert cost_bound([second, first, restarted], "2027-01-12 12:00") == 15.0


def test_a_sweep_may_use_what_is_left_and_its_own_open_cost() -> None:
    first = night("2027-01-10 02:00", "2027-01-10 03:00", spent_before=0.0, bound=10.0)  # 6 spent, 4 open
    assert sweep_limit([first], BERLIN, "s", 6.0, 40.0, at("2027-01-11 02:00")) == 40.0, "6 spent, 4 open, 30 left"
    assert sweep_limit([first], BERLIN, "t", 0.0, 40.0, at("2027-01-11 02:00")) == 30.0
    february = sweep_limit([first], BERLIN, "s", 6.0, 40.0, at("2027-02-11 02:00"))
    assert february == 46.0, "the open cost may be charged in February"


def test_a_night_without_a_stored_outcome_counts_with_its_limit() -> None:
    lost = night("2027-01-10 02:00", "2027-01-10 03:00", spent_before=2.0, bound=None)
    month = monthly_spend([replace(lost, state=NightState.LOST)], BERLIN, 40.0, at("2027-01-12 12:00"))
    assert (month.cost_bound_usd, month.left_usd, month.text) == (8.0, 32.0, "$8.00 of $40.00")


@dataclass
class World:
    """A service that charges at some time within the night of a trial, and its charges by month."""

    charged: dict[str, float] = field(default_factory=dict)
    nights: list[Night] = field(default_factory=list)
    spent: dict[str, float] = field(default_factory=dict)
    open: dict[str, float] = field(default_factory=dict)

    def charge(self, moment: float, sweep_id: str, usd: float) -> None:
        name = month_name(BERLIN, moment)
        self.charged[name] = self.charged.get(name, 0.0) + usd
        self.spent[sweep_id] = self.spent.get(sweep_id, 0.0) + usd


NIGHTS = st.lists(
    st.tuples(
        st.integers(1, 80),  # hours after the end of the last night
        st.floats(0.1, 30.0),  # duration in hours
        st.lists(st.tuples(st.floats(0.01, 9.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0)), max_size=5),
        st.sampled_from(["done", "cut off", "lost"]),
        st.booleans(),  # a new sweep
    ),
    max_size=25,
)


@given(NIGHTS, st.floats(1.0, 20.0), st.integers(0, 700))
def test_no_sequence_of_nights_exceeds_a_monthly_limit(
    plan: list[tuple[int, float, list[tuple[float, float, float]], str, bool]], monthly: float, hour: int
) -> None:
    """Each trial has a cost bound, costs a share of it, and is charged at some moment of its night.

    A night that is cut off leaves its last trial open. The next night that continues the sweep
    pays for it.
    """
    world, now, number = World(), at("2027-01-01 00:00") + 3600.0 * hour, 0
    for pause, hours, trials, how, new in plan:
        now += 3600.0 * pause
        number += new
        sweep_id = f"study-{number}"
        before = world.spent.get(sweep_id, 0.0)
        limit = sweep_limit(world.nights, BERLIN, sweep_id, before, monthly, now)
        ends = now + 3600.0 * hours
        if (open_usd := world.open.pop(sweep_id, 0.0)) > 0.0:
            world.charge(ends, sweep_id, open_usd * 0.9)
        for index, (bound, share, when) in enumerate(trials):
            if world.spent.get(sweep_id, 0.0) + bound > limit:
                continue
            if how == "cut off" and index == len(trials) - 1:
                world.open[sweep_id] = bound
            else:
                world.charge(now + share * 3600.0 * hours, sweep_id, bound * when)
        cost_bound = None if how == "lost" else world.spent.get(sweep_id, 0.0) + world.open.get(sweep_id, 0.0)
        cost = NightCost(sweep_id, before, limit, monthly, cost_bound)
        world.nights.append(
            Night(
                "n",
                int(now),
                state=NightState.LOST if how == "lost" else NightState.DONE,
                started_at=now,
                ended_at=ends,
                sweep="n",
                results={"money": codec.to_json(cost)},
            )
        )
        now = ends
        assert all(usd <= monthly + 1e-9 for usd in world.charged.values())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["budget.monthly_usd=0"], "write a number above 0"),
        (["budget.monthly_usd=much"], "cannot be 'much'"),
        (["budget.monthly_usd=0.01"], "the limit does not cover one trial"),
        (["budget.monthly_usd=9", "backend.price_usd_per_token=null"], "the price of a trial is unknown"),
        (["budget.monthly_euro=9"], "monthly_usd"),
    ],
)
def test_a_bad_limit_is_reported_with_its_place(overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserInputError) as raised:
        make_plan(from_document(with_overrides(parse(FILE, "f.yaml"), overrides)), Workspace(tmp_path), estimate=False)
    text = " ".join(f"{problem.place} {problem.message} {problem.hint}" for problem in raised.value.problems)
    assert message in text
    assert "budget.monthly_" in text


def test_plan_list_history_and_summary_show_the_limit(tmp_path: Path) -> None:
    assert "$40.00 per month for the nights of a schedule" in limits(BudgetSpec(monthly_usd=40.0))
    file = tmp_path / "pairs.yaml"
    file.write_text(FILE + "budget: {monthly_usd: 40}\n")
    schedule = Schedule("n", str(file), "0 2 * * *", BERLIN, 0.0)
    now = datetime(2027, 1, 14, 12, tzinfo=ZoneInfo(BERLIN))
    paid = night("2027-01-10 02:00", "2027-01-10 03:00", spent_before=0.0, bound=7.5)
    month = current_month(schedule, [paid], now)
    assert month is not None
    assert month.text == "$7.50 of $40.00"
    assert schedule_tables.ledger(schedule, [paid], now) == "2027-01: at most $7.50 of $40.00 spent, $32.50 left"
    file.unlink()
    assert current_month(schedule, [paid], now) == month, "without the file, the last night knows the limit"
    assert current_month(replace(schedule, overrides=("budget.monthly_usd=9",)), [], now) is None
    reported = replace(paid, results={**paid.results, "month": {"name": "2027-01", "usd": 7.5, "limit": 40.0}})
    assert "- **month**: 2027-01: $7.50 of $40.00\n" in summary.markdown(schedule, reported)
