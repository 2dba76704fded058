"""The books of a month: what a night adds, what is in doubt, and that no schedule of nights exceeds a month's limit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.cli import schedule_tables
from sweeps.cli.screen import limits
from sweeps.errors import UserInputError
from sweeps.planning.plan import make_plan
from sweeps.scheduling import summary
from sweeps.scheduling.monthly_budget import Money, month, most, name_of
from sweeps.scheduling.monthly_limit import shown
from sweeps.scheduling.schedule import Night, NightState, Notify, Schedule
from sweeps.spec.loading import from_document
from sweeps.spec.sweep_file import BudgetSpec
from sweeps.spec.yaml_source import parse, with_overrides
from sweeps.workspace import Workspace

pytestmark = pytest.mark.unit

BERLIN = "Europe/Berlin"
FILE = """\
name: pairs
data: {source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 120, valid_examples: 60, test_examples: 30}
backend: {type: fake, model: fake-small, price_usd_per_token: 0.001}
space: {n_epochs: [1, 2]}
search: {trials: 3}
objective: {maximize: valid_accuracy}
"""


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(BERLIN)).timestamp()


def night(begin: str, end: str, *, study: str = "s", before: float, most: float | None, limit: float = 10.0) -> Night:
    money = Money(study, before, limit, 40.0, most)
    return Night("n", int(at(begin)), state=NightState.DONE, started_at=at(begin), ended_at=at(end), sweep="n",
                 found={"money": money.to_json()})  # fmt: skip


def test_a_night_over_the_end_of_a_month_counts_in_both() -> None:
    nights = [night("2027-01-31 23:00", "2027-02-01 02:00", before=0.0, most=7.0)]
    assert month(nights, BERLIN, 40.0, at("2027-01-31 23:30")).usd == 7.0
    assert month(nights, BERLIN, 40.0, at("2027-02-14 12:00")).usd == 7.0
    assert month(nights, BERLIN, 40.0, at("2027-03-01 12:00")).usd == 0.0
    assert month(nights, "America/St_Johns", 40.0, at("2027-02-14 12:00")).usd == 0.0, "there it was January throughout"


def test_a_later_night_of_the_same_sweep_knows_what_earlier_ones_cost() -> None:
    first = night("2027-01-10 02:00", "2027-01-10 03:00", before=0.0, most=10.0)  # 6 spent, 4 may follow
    second = night("2027-01-11 02:00", "2027-01-11 03:00", before=6.0, most=12.0)  # those took 1, and 5 more
    anew = night("2027-01-12 02:00", "2027-01-12 03:00", study="t", before=0.0, most=3.0)
    assert month([first], BERLIN, 40.0, at("2027-01-10 12:00")).usd == 10.0
    assert month([first, second], BERLIN, 40.0, at("2027-01-11 12:00")).usd == 12.0
    assert month([second, first, anew], BERLIN, 40.0, at("2027-01-12 12:00")).usd == 15.0
    assert most([first], BERLIN, "s", 6.0, 40.0, at("2027-01-11 02:00")) == 40.0, "4 of 30 left are its own"
    assert most([first], BERLIN, "t", 0.0, 40.0, at("2027-01-11 02:00")) == 30.0
    assert most([first], BERLIN, "s", 6.0, 40.0, at("2027-02-11 02:00")) == 46.0, "what is open may be paid in February"


def test_what_ended_without_a_word_counts_in_full() -> None:
    dead = replace(night("2027-01-10 02:00", "2027-01-10 03:00", before=2.0, most=None), state=NightState.LOST)
    found = month([dead], BERLIN, 40.0, at("2027-01-12 12:00"))
    assert (found.usd, found.left, found.text) == (8.0, 32.0, "$8.00 of $40.00")


@dataclass
class World:
    """A service that charges some time within the night that began a trial, and what it charged in which month."""

    charged: dict[str, float] = field(default_factory=dict)
    nights: list[Night] = field(default_factory=list)
    spent: dict[str, float] = field(default_factory=dict)
    open: dict[str, float] = field(default_factory=dict)

    def charge(self, moment: float, study: str, usd: float) -> None:
        name = name_of(BERLIN, moment)
        self.charged[name] = self.charged.get(name, 0.0) + usd
        self.spent[study] = self.spent.get(study, 0.0) + usd


NIGHTS = st.lists(
    st.tuples(
        st.integers(1, 80),  # hours after the end of the last night
        st.floats(0.1, 30.0),  # how many hours it takes
        st.lists(st.tuples(st.floats(0.01, 9.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0)), max_size=5),
        st.sampled_from(["done", "cut off", "lost"]),
        st.booleans(),  # a new sweep
    ),
    max_size=25,
)


@given(NIGHTS, st.floats(1.0, 20.0), st.integers(0, 700))
def test_no_schedule_of_nights_exceeds_a_month(
    plan: list[tuple[int, float, list[tuple[float, float, float]], str, bool]], monthly: float, hour: int
) -> None:
    """Each trial may take so much at most, takes a share of it, and is charged at some moment of its night.

    A night that is cut off leaves its last trial open: it is charged in the next night that goes on with the sweep.
    """
    world, now, number = World(), at("2027-01-01 00:00") + 3600.0 * hour, 0
    for pause, hours, trials, how, new in plan:
        now += 3600.0 * pause
        number += new
        study = f"study-{number}"
        before = world.spent.get(study, 0.0)
        limit = most(world.nights, BERLIN, study, before, monthly, now)
        ends = now + 3600.0 * hours
        if (open_usd := world.open.pop(study, 0.0)) > 0.0:
            world.charge(ends, study, open_usd * 0.9)
        for index, (bound, share, when) in enumerate(trials):
            if world.spent.get(study, 0.0) + bound > limit:
                continue
            if how == "cut off" and index == len(trials) - 1:
                world.open[study] = bound
            else:
                world.charge(now + share * 3600.0 * hours, study, bound * when)
        at_most = None if how == "lost" else world.spent.get(study, 0.0) + world.open.get(study, 0.0)
        money = Money(study, before, limit, monthly, at_most)
        state = NightState.LOST if how == "lost" else NightState.DONE
        world.nights.append(
            Night(
                "n", int(now), state=state, started_at=now, ended_at=ends, sweep="n", found={"money": money.to_json()}
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
def test_bad_limits_are_told_with_their_place(overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserInputError) as caught:
        make_plan(from_document(with_overrides(parse(FILE, "f.yaml"), overrides)), Workspace(tmp_path), estimate=False)
    told = " ".join(f"{problem.place} {problem.message} {problem.hint}" for problem in caught.value.problems)
    assert message in told
    assert "budget.monthly_" in told


def test_the_limit_is_shown_in_plan_list_history_and_summary(tmp_path: Path) -> None:
    assert "$40.00 per month for the nights of a schedule" in limits(BudgetSpec(monthly_usd=40.0))
    file = tmp_path / "pairs.yaml"
    file.write_text(FILE + "budget: {monthly_usd: 40}\n")
    kept = Schedule("n", str(file), "0 2 * * *", BERLIN, 0.0)
    now = datetime(2027, 1, 14, 12, tzinfo=ZoneInfo(BERLIN))
    ran = night("2027-01-10 02:00", "2027-01-10 03:00", before=0.0, most=7.5)
    found = shown(kept, [ran], now)
    assert found is not None
    assert found.text == "$7.50 of $40.00"
    assert schedule_tables.ledger(kept, [ran], now) == "2027-01: $7.50 of $40.00 may be spent, $32.50 are left"
    file.unlink()
    assert shown(kept, [ran], now) == found, "the file is elsewhere: the night knows"
    assert shown(replace(kept, overrides=("budget.monthly_usd=9",)), [], now) is None
    told = replace(ran, found={**ran.found, "month": {"name": "2027-01", "usd": 7.5, "limit": 40.0}})
    assert "2027-01: $7.50 of $40.00" in summary.markdown(kept, told)


def test_missed_nights_and_the_first_without_budget_are_told_whatever_is_asked_for() -> None:
    quiet = Schedule("n", "f", "0 2 * * *", BERLIN, 0.0, notify=Notify(("T",), (), "failures"))
    plain = Night("n", int((datetime(2027, 1, 1, tzinfo=ZoneInfo(BERLIN)) + timedelta(hours=2)).timestamp()))
    assert summary.is_telling(quiet, replace(plain, state=NightState.MISSED))
    first = replace(plain, state=NightState.NO_BUDGET, found={"news": True})
    again = replace(first, found={"news": False})
    assert summary.is_telling(quiet, first)
    assert not summary.is_telling(quiet, again)
    assert not summary.is_telling(replace(quiet, notify=Notify(("T",), (), "changes")), again)
    assert summary.is_telling(replace(quiet, notify=Notify(("T",), (), "always")), again)
    assert "no budget" in summary.title(quiet, first)


def test_a_price_is_no_reason_to_train_again(tmp_path: Path) -> None:
    def fingerprint(price: str) -> str:
        written = with_overrides(parse(FILE, "f.yaml"), [f"backend.price_usd_per_token={price}"])
        return make_plan(from_document(written), Workspace(tmp_path), estimate=False).fingerprint

    assert fingerprint("0.001") == fingerprint("0.002")
