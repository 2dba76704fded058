"""When nights are due: a fake clock over whole years, daylight saving, windows, missed nights."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.errors import Problem
from sweeps.scheduling.calendar import (
    MAX_ATTEMPTS,
    due_night,
    next_planned_time,
    option_problems,
    planned_times,
    window_end,
)
from sweeps.scheduling.night import Night, NightState
from sweeps.scheduling.schedule import Schedule

pytestmark = pytest.mark.unit

ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata")
TIMES = ("0 2 * * *", "30 2 * * *", "30 1 * * *", "0 0 * * *")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def schedule(cron: str = "0 2 * * *", tz: str = "Europe/Berlin", until: str | None = None) -> Schedule:
    return Schedule("s", "/s.yaml", cron, tz, at("2027-01-01T12:00Z").timestamp(), until)


def nights_of_a_year(planned: Schedule, step: timedelta, asleep: tuple[str, str] | None = None) -> list[Night]:
    """Simulate a year of a scheduler that looks every `step`, except while `asleep`.

    Each night ends at once.
    """
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
        due = due_night(planned, nights, now)
        if due is None:
            continue
        nights += [Night("s", planned_at, state=NightState.MISSED) for planned_at in due.missed]
        if due.planned_at is not None:
            nights.append(Night("s", due.planned_at, due.attempt, state=NightState.DONE))
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
def test_around_daylight_saving_a_scheduler_that_looks_every_minute_starts_one_night_a_day(
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
        ("Europe/Berlin", "2027-10-31", "2027-10-31T00:30Z"),  # 02:30 occurs twice: the first, CEST
        ("America/New_York", "2027-03-14", "2027-03-14T07:00Z"),
        ("America/New_York", "2027-11-07", "2027-11-07T07:30Z"),  # 01:30 occurs twice there, 02:30 once
        ("Australia/Lord_Howe", "2027-10-03", "2027-10-02T15:30Z"),  # half an hour: 02:00 becomes 02:30
    ],
)
def test_a_night_during_a_clock_change_has_one_planned_time(zone: str, day: str, expected: str) -> None:
    midnight = datetime.combine(date.fromisoformat(day), datetime.min.time(), tzinfo=ZoneInfo(zone))
    assert next(planned_times("30 2 * * *", zone, midnight)) == at(expected)


def test_a_time_that_occurs_twice_means_its_first_occurrence() -> None:
    [first, second] = islice(planned_times("30 1 * * *", "America/New_York", at("2027-11-07T04:00Z")), 2)
    assert first == at("2027-11-07T05:30Z")
    assert second == at("2027-11-08T06:30Z")
    # From within the second occurrence, the next planned time is tomorrow's.
    assert next(planned_times("30 1 * * *", "America/New_York", at("2027-11-07T06:15Z"))) == at("2027-11-08T06:30Z")


def test_two_skipped_times_are_one_moment() -> None:
    times = list(islice(planned_times("0,30 2 * * *", "Europe/Berlin", at("2027-03-28T00:00Z")), 2))
    assert times == [at("2027-03-28T01:00Z"), at("2027-03-29T00:00Z")]


def test_missed_nights_are_caught_up_exactly_once() -> None:
    nights = nights_of_a_year(schedule(), timedelta(minutes=50), ("2027-05-01T00:00Z", "2027-05-04T09:00Z"))
    states = {datetime.fromtimestamp(night.planned_at, UTC).date().isoformat(): night.state for night in nights}
    assert len(nights) == 365
    assert [states[f"2027-05-0{day}"] for day in (1, 2, 3, 4, 5)] == [NightState.MISSED] * 3 + [NightState.DONE] * 2
    assert Counter(night.state for night in nights) == {NightState.DONE: 362, NightState.MISSED: 3}


def test_a_night_whose_window_has_closed_is_missed_and_does_not_start_by_day() -> None:
    planned = schedule(until="06:00")
    created = datetime.fromtimestamp(planned.created_at, UTC)
    morning = due_night(planned, [], created + timedelta(days=1))  # 13:00 in Berlin
    assert morning is not None
    assert morning.planned_at is None
    assert morning.missed == (int(at("2027-01-02T01:00Z").timestamp()),)
    nights = [Night("s", planned_at, state=NightState.MISSED) for planned_at in morning.missed]
    assert due_night(planned, nights, created + timedelta(days=1, hours=2)) is None, "it is missed once"
    late = due_night(planned, nights, at("2027-01-03T04:59Z"))
    assert late is not None
    assert late.planned_at == int(at("2027-01-03T01:00Z").timestamp()), "an open window is used"


@pytest.mark.parametrize(
    ("planned", "until", "expected"),
    [
        ("2027-01-02T01:00Z", "06:00", "2027-01-02T05:00Z"),
        ("2027-01-01T22:00Z", "06:00", "2027-01-02T05:00Z"),  # planned for 23:00 of the day before
        ("2027-03-28T00:30Z", "03:30", "2027-03-28T01:30Z"),  # the clock skips an hour in between
        ("2027-10-30T23:30Z", "03:00", "2027-10-31T02:00Z"),  # an hour occurs twice in between
        ("2027-10-30T23:30Z", "01:30", "2027-11-01T00:30Z"),  # planned for 01:30: a whole day of 25 hours
    ],
)
def test_a_window_closes_at_the_first_such_time_after_the_planned_time(planned: str, until: str, expected: str) -> None:
    assert window_end(schedule(until=until), int(at(planned).timestamp())) == at(expected)


def test_nights_do_not_overlap_and_a_night_that_was_due_meanwhile_follows() -> None:
    first = int(at("2027-01-02T01:00Z").timestamp())
    running = Night("s", first)
    assert due_night(schedule(), [running], at("2027-01-03T02:00Z")) is None
    due = due_night(schedule(), [replace(running, state=NightState.DONE)], at("2027-01-03T02:00Z"))
    assert due is not None
    assert due.planned_at == first + 86_400
    assert due.missed == ()


@pytest.mark.parametrize("state", [NightState.LOST, NightState.STOPPED])
def test_an_interrupted_night_gets_a_few_attempts(state: NightState) -> None:
    now, planned = at("2027-01-02T02:00Z"), int(at("2027-01-02T01:00Z").timestamp())
    nights: list[Night] = []
    for attempt in range(1, MAX_ATTEMPTS + 1):
        due = due_night(schedule(until="06:00"), nights, now)
        assert due is not None
        assert (due.planned_at, due.attempt) == (planned, attempt)
        nights.append(Night("s", planned, attempt, state=state))
    assert due_night(schedule(until="06:00"), nights, now) is None
    assert due_night(schedule(until="06:00"), nights[:1], at("2027-01-02T05:00Z")) is None, "the window is closed"
    assert due_night(schedule(), [replace(nights[0], state=NightState.FAILED)], now) is None, "a failure ends the night"


def test_a_paused_schedule_plans_nothing_and_skips_the_nights_of_the_pause() -> None:
    paused = replace(schedule(), paused=True)
    assert due_night(paused, [], at("2027-02-01T12:00Z")) is None
    assert next_planned_time(paused, at("2027-02-01T12:00Z")) is None
    resumed = replace(paused, paused=False, created_at=at("2027-02-01T12:00Z").timestamp())
    before = Night("s", int(at("2027-01-05T01:00Z").timestamp()), state=NightState.DONE)
    assert due_night(resumed, [before], at("2027-02-01T13:00Z")) is None
    assert due_night(resumed, [before], at("2027-02-02T01:00Z")) is not None
    assert due_night(resumed, [replace(before, state=NightState.STOPPED)], at("2027-02-01T13:00Z")) is None


def test_manual_nights_do_not_change_the_plan() -> None:
    by_hand = Night("s", int(at("2027-01-01T20:00Z").timestamp()), manual=True, state=NightState.STOPPED)
    assert due_night(schedule(), [by_hand], at("2027-01-01T21:00Z")) is None
    assert due_night(schedule(), [by_hand], at("2027-01-02T01:00Z")) is not None


@given(
    zone=st.sampled_from(ZONES),
    minute=st.integers(0, 59),
    hour=st.integers(0, 23),
    start=st.datetimes(datetime(2026, 1, 1), datetime(2030, 1, 1)),
)
def test_planned_times_ascend_and_occur_once_a_local_day(zone: str, minute: int, hour: int, start: datetime) -> None:
    times = list(islice(planned_times(f"{minute} {hour} * * *", zone, start.replace(tzinfo=UTC)), 40))
    assert all(one < other for one, other in pairwise(times))
    days = [moment.astimezone(ZoneInfo(zone)).date() for moment in times]
    assert [(other - one).days for one, other in pairwise(days)] == [1] * 39
    assert all(window_end(schedule(tz=zone, until="06:00"), int(moment.timestamp())) > moment for moment in times)  # type: ignore[operator]


def test_all_mistakes_are_reported_together_with_their_remedies() -> None:
    assert list(option_problems("0 2 * * *", "Europe/Berlin", "06:00")) == []
    problems = list(option_problems("0 25 * * *", "Mars/Olympus", "6"))
    assert [problem.place for problem in problems] == ["--tz", "--cron", "--until"]
    assert all(problem.hint for problem in problems)
    assert list(option_problems("0 0 2 * * *", "UTC", None)) == [
        Problem(
            "--cron",
            "'0 0 2 * * *' is not a cron expression",
            'Give minute, hour, day, month and weekday: "0 2 * * *" means every day at 02:00.',
        )
    ]
    assert [problem.place for problem in option_problems("0 2 31 2 *", "UTC", None)] == ["--cron"]
