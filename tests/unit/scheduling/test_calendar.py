"""When schedules are due: a fake clock over whole years, daylight saving, windows, missed nights."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.scheduling.calendar import MOST_ATTEMPTS, closing, due, moments, next_moment, problems
from sweeps.scheduling.schedule import Night, NightState, Schedule

pytestmark = pytest.mark.unit

ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata")
TIMES = ("0 2 * * *", "30 2 * * *", "30 1 * * *", "0 0 * * *")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def schedule(cron: str = "0 2 * * *", tz: str = "Europe/Berlin", until: str | None = None) -> Schedule:
    return Schedule("s", "/s.yaml", cron, tz, at("2027-01-01T12:00Z").timestamp(), until)


def nights_of_a_year(planned: Schedule, step: timedelta, asleep: tuple[str, str] | None = None) -> list[Night]:
    """Let a daemon look at its clock every `step` for a year; each night is over at once."""
    return nights_between("2027-01-01T12:00Z", "2028-01-01T12:00Z", planned, step, asleep)


def nights_between(
    start: str, end: str, planned: Schedule, step: timedelta, asleep: tuple[str, str] | None = None
) -> list[Night]:
    nights: list[Night] = []
    now = at(start)
    while now < at(end):
        now += step
        if asleep and at(asleep[0]) <= now < at(asleep[1]):
            continue
        found = due(planned, nights, now)
        if found is None:
            continue
        nights += [Night("s", each, state=NightState.MISSED) for each in found.missed]
        if found.planned_at is not None:
            nights.append(Night("s", found.planned_at, found.attempt, state=NightState.DONE))
    return nights


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("cron", TIMES)
def test_over_a_year_there_is_exactly_one_night_a_local_day(zone: str, cron: str) -> None:
    nights = nights_of_a_year(schedule(cron, zone), timedelta(minutes=173))
    days = Counter(datetime.fromtimestamp(night.planned_at, ZoneInfo(zone)).date() for night in nights)
    assert set(days.values()) == {1}
    assert len(days) in (365, 366)
    assert len(days) == (max(days) - min(days)).days + 1, "no day is left out"
    assert {night.state for night in nights} == {NightState.DONE}


@pytest.mark.parametrize(
    ("zone", "start", "end"),
    [
        ("Europe/Berlin", "2027-03-27T12:00Z", "2027-03-29T12:00Z"),
        ("Europe/Berlin", "2027-10-30T12:00Z", "2027-11-01T12:00Z"),
        ("America/New_York", "2027-03-13T17:00Z", "2027-03-15T17:00Z"),
        ("America/New_York", "2027-11-06T17:00Z", "2027-11-08T17:00Z"),
    ],
)
@pytest.mark.parametrize("cron", TIMES)
def test_around_daylight_saving_a_daemon_that_looks_every_minute_begins_one_night_a_day(
    zone: str, start: str, end: str, cron: str
) -> None:
    planned = replace(schedule(cron, zone), created_at=at(start).timestamp())
    nights = nights_between(start, end, planned, timedelta(minutes=1))
    days = [datetime.fromtimestamp(night.planned_at, ZoneInfo(zone)).date() for night in nights]
    assert len(days) == len(set(days)) == 2


@pytest.mark.parametrize(
    ("zone", "day", "expected"),
    [
        ("Europe/Berlin", "2027-03-28", "2027-03-28T01:00Z"),  # 02:30 is skipped: 03:00 CEST
        ("Europe/Berlin", "2027-10-31", "2027-10-31T00:30Z"),  # 02:30 comes twice: the first, CEST
        ("America/New_York", "2027-03-14", "2027-03-14T07:00Z"),
        ("America/New_York", "2027-11-07", "2027-11-07T07:30Z"),  # 01:30 comes twice there, 02:30 once
        ("Australia/Lord_Howe", "2027-10-03", "2027-10-02T15:30Z"),  # half an hour: 02:00 becomes 02:30
    ],
)
def test_nights_of_daylight_saving(zone: str, day: str, expected: str) -> None:
    midnight = datetime.combine(date.fromisoformat(day), datetime.min.time(), tzinfo=ZoneInfo(zone))
    assert next(moments("30 2 * * *", zone, midnight)) == at(expected)


def test_a_time_that_comes_twice_is_taken_at_its_first_occurrence() -> None:
    [first, second] = islice(moments("30 1 * * *", "America/New_York", at("2027-11-07T04:00Z")), 2)
    assert first == at("2027-11-07T05:30Z")
    assert second == at("2027-11-08T06:30Z")
    # Asked within the second occurrence, the next one is tomorrow's.
    assert next(moments("30 1 * * *", "America/New_York", at("2027-11-07T06:15Z"))) == at("2027-11-08T06:30Z")


def test_two_skipped_times_are_one_moment() -> None:
    found = list(islice(moments("0,30 2 * * *", "Europe/Berlin", at("2027-03-28T00:00Z")), 2))
    assert found == [at("2027-03-28T01:00Z"), at("2027-03-29T00:00Z")]


def test_missed_nights_are_caught_up_exactly_once() -> None:
    nights = nights_of_a_year(schedule(), timedelta(minutes=50), ("2027-05-01T00:00Z", "2027-05-04T09:00Z"))
    states = {datetime.fromtimestamp(night.planned_at, UTC).date().isoformat(): night.state for night in nights}
    assert len(nights) == 365
    assert [states[f"2027-05-0{day}"] for day in (1, 2, 3, 4, 5)] == [NightState.MISSED] * 3 + [NightState.DONE] * 2
    assert Counter(night.state for night in nights) == {NightState.DONE: 362, NightState.MISSED: 3}


def test_a_night_whose_window_has_closed_is_missed_and_not_begun_by_day() -> None:
    planned = schedule(until="06:00")
    created = datetime.fromtimestamp(planned.created_at, UTC)
    morning = due(planned, [], created + timedelta(days=1))  # 13:00 in Berlin
    assert morning is not None
    assert morning.planned_at is None
    assert morning.missed == (int(at("2027-01-02T01:00Z").timestamp()),)
    nights = [Night("s", each, state=NightState.MISSED) for each in morning.missed]
    assert due(planned, nights, created + timedelta(days=1, hours=2)) is None, "it is written down once"
    late = due(planned, nights, at("2027-01-03T04:59Z"))
    assert late is not None
    assert late.planned_at == int(at("2027-01-03T01:00Z").timestamp()), "an open window is used"


@pytest.mark.parametrize(
    ("planned", "until", "expected"),
    [
        ("2027-01-02T01:00Z", "06:00", "2027-01-02T05:00Z"),
        ("2027-01-01T22:00Z", "06:00", "2027-01-02T05:00Z"),  # begins at 23:00 of the day before
        ("2027-03-28T00:30Z", "03:30", "2027-03-28T01:30Z"),  # an hour is skipped in between
        ("2027-10-30T23:30Z", "03:00", "2027-10-31T02:00Z"),  # an hour comes twice in between
        ("2027-10-30T23:30Z", "01:30", "2027-11-01T00:30Z"),  # at 01:30 it begins: a whole day, of 25 hours
    ],
)
def test_a_window_closes_at_the_first_such_time_after_its_beginning(planned: str, until: str, expected: str) -> None:
    assert closing(schedule(until=until), int(at(planned).timestamp())) == at(expected)


def test_nights_do_not_overlap_and_what_was_due_meanwhile_follows() -> None:
    first = int(at("2027-01-02T01:00Z").timestamp())
    running = Night("s", first)
    assert due(schedule(), [running], at("2027-01-03T02:00Z")) is None
    found = due(schedule(), [replace(running, state=NightState.DONE)], at("2027-01-03T02:00Z"))
    assert found is not None
    assert found.planned_at == first + 86_400
    assert found.missed == ()


@pytest.mark.parametrize("state", [NightState.LOST, NightState.STOPPED])
def test_a_night_that_was_cut_off_is_taken_up_a_few_times(state: NightState) -> None:
    now, planned = at("2027-01-02T02:00Z"), int(at("2027-01-02T01:00Z").timestamp())
    nights: list[Night] = []
    for attempt in range(1, MOST_ATTEMPTS + 1):
        found = due(schedule(until="06:00"), nights, now)
        assert found is not None
        assert (found.planned_at, found.attempt) == (planned, attempt)
        nights.append(Night("s", planned, attempt, state=state))
    assert due(schedule(until="06:00"), nights, now) is None
    assert due(schedule(until="06:00"), nights[:1], at("2027-01-02T05:00Z")) is None, "the window is closed"
    assert due(schedule(), [replace(nights[0], state=NightState.FAILED)], now) is None, "a failure waits for a night"


def test_a_pause_plans_nothing_and_is_not_made_up_for() -> None:
    paused = replace(schedule(), paused=True)
    assert due(paused, [], at("2027-02-01T12:00Z")) is None
    assert next_moment(paused, at("2027-02-01T12:00Z")) is None
    resumed = replace(paused, paused=False, created_at=at("2027-02-01T12:00Z").timestamp())
    before = Night("s", int(at("2027-01-05T01:00Z").timestamp()), state=NightState.DONE)
    assert due(resumed, [before], at("2027-02-01T13:00Z")) is None
    assert due(resumed, [before], at("2027-02-02T01:00Z")) is not None
    assert due(resumed, [replace(before, state=NightState.STOPPED)], at("2027-02-01T13:00Z")) is None


def test_nights_begun_by_hand_do_not_move_the_plan() -> None:
    by_hand = Night("s", int(at("2027-01-01T20:00Z").timestamp()), manual=True, state=NightState.STOPPED)
    assert due(schedule(), [by_hand], at("2027-01-01T21:00Z")) is None
    assert due(schedule(), [by_hand], at("2027-01-02T01:00Z")) is not None


@given(
    zone=st.sampled_from(ZONES),
    minute=st.integers(0, 59),
    hour=st.integers(0, 23),
    start=st.datetimes(datetime(2026, 1, 1), datetime(2030, 1, 1)),
)
def test_moments_rise_and_come_once_a_local_day_or_shift_within_it(
    zone: str, minute: int, hour: int, start: datetime
) -> None:
    found = list(islice(moments(f"{minute} {hour} * * *", zone, start.replace(tzinfo=UTC)), 40))
    assert all(one < other for one, other in pairwise(found))
    days = [each.astimezone(ZoneInfo(zone)).date() for each in found]
    assert [(other - one).days for one, other in pairwise(days)] == [1] * 39
    assert all(closing(schedule(tz=zone, until="06:00"), int(each.timestamp())) > each for each in found)  # type: ignore[operator]


def test_mistakes_are_told_together_with_their_remedies() -> None:
    assert list(problems("0 2 * * *", "Europe/Berlin", "06:00")) == []
    assert [problem[0] for problem in problems("0 25 * * *", "Mars/Olympus", "6")] == ["--tz", "--cron", "--until"]
    [(place, what, remedy)] = problems("0 0 2 * * *", "UTC", None)
    assert (place, what) == ("--cron", "'0 0 2 * * *' is no cron expression")
    assert "0 2 * * *" in remedy
    assert [problem[0] for problem in problems("0 2 31 2 *", "UTC", None)] == ["--cron"]
