"""When a schedule's nights are due, and when their windows close.

Pure: the clock is an argument, and all arithmetic uses moments, not wall-clock times. Times of day
are local to the schedule's zone. A time that daylight saving skips becomes the next valid moment. A
time that occurs twice means its first occurrence. cronsim does both, as Debian's cron does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from sweeps.errors import Problem
from sweeps.scheduling.night import Night, NightState
from sweeps.scheduling.schedule import Schedule

MAX_ATTEMPTS = 3
"""The most attempts at one interrupted night. The night itself may be what kills its process."""

LOOKBACK = timedelta(days=400)
"""How far back planned times are enumerated one by one."""

_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)\Z")


@dataclass(frozen=True)
class DueNight:
    """What is due now: a night to start, and missed nights to record.

    `planned_at` is the planned time of the night to start, or None if none is due. `missed` are the
    planned times of the missed nights, in order. Times are in seconds since the Unix epoch.
    """

    planned_at: int | None
    attempt: int = 1
    missed: tuple[int, ...] = ()


def option_problems(cron: str, tz: str, until: str | None) -> Iterator[Problem]:
    """Yield every mistake in the three options, each with its option as the place."""
    try:
        zone = ZoneInfo(tz)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        hint = "Use a name of the IANA time zone database, such as Europe/Berlin or UTC."
        yield Problem("--tz", f"unknown time zone {tz!r}", hint)
        zone = ZoneInfo("UTC")
    try:
        if len(cron.split()) != 5:
            raise CronSimError("five fields")
        next(CronSim(cron, datetime.now(zone)))
    except (CronSimError, StopIteration) as error:
        what = "never occurs" if isinstance(error, StopIteration) else "is not a cron expression"
        hint = 'Give minute, hour, day, month and weekday: "0 2 * * *" means every day at 02:00.'
        yield Problem("--cron", f"{cron!r} {what}", hint)
    if until is not None and not _TIME.match(until):
        yield Problem("--until", f"{until!r} is not a time of day", "Write it as HH:MM, such as 06:00.")


def planned_times(cron: str, tz: str, after: datetime) -> Iterator[datetime]:
    """Yield the planned moments after `after`, in UTC, in order and without repetition."""
    last = after.astimezone(UTC)
    try:
        for local_time in CronSim(cron, after.astimezone(ZoneInfo(tz))):
            moment = local_time.astimezone(UTC)
            # Two skipped times become the same moment, and an hour that occurs twice counts once.
            if moment > last:
                last = moment
                yield moment
    except StopIteration:  # pragma: no cover - cronsim's iterator ends by itself
        return


def next_planned_time(schedule: Schedule, now: datetime) -> datetime | None:
    """Return the next planned moment after `now`.

    None if there is none or the schedule is paused.
    """
    return None if schedule.paused else next(planned_times(schedule.cron, schedule.tz, now), None)


def window_end(schedule: Schedule, planned_at: int) -> datetime | None:
    """Return when the window of a night closes, in UTC, or None if it has no end.

    That is the first `until` after the planned moment. Daylight saving moves an `until` that it
    skips: 02:30 becomes 03:30 when the clock jumps from 02:00 to 03:00.
    """
    if schedule.until is None:
        return None
    hour, minute = map(int, schedule.until.split(":"))
    planned = datetime.fromtimestamp(planned_at, UTC)
    zone = ZoneInfo(schedule.tz)
    day = planned.astimezone(zone).date()
    while True:
        # zoneinfo reads a time that daylight saving skips with the offset from before the change.
        moment = datetime.combine(day, time(hour, minute), tzinfo=zone).astimezone(UTC)
        if moment > planned:
            return moment
        day += timedelta(days=1)


def due_night(schedule: Schedule, nights: Sequence[Night], now: datetime) -> DueNight | None:
    """Return what is due for a schedule at `now`, or None if nothing is.

    `nights` are all nights of the schedule so far. If several planned moments passed without a
    night, the newest one starts, once, provided its window is still open; the others are missed. An
    interrupted night gets another attempt while its window is open and no newer night is due.
    Nothing starts while a night runs.
    """
    if schedule.paused or any(night.state is NightState.RUNNING for night in nights):
        return None
    planned = [night for night in nights if not night.manual]
    newest = max(planned, key=lambda night: night.key, default=None)
    begin = max(newest.planned_at, schedule.created_at) if newest else schedule.created_at
    start = datetime.fromtimestamp(begin, UTC)
    passed: list[int] = []
    for moment in planned_times(schedule.cron, schedule.tz, max(start, now - LOOKBACK)):
        if moment > now:
            break
        passed.append(int(moment.timestamp()))
    if passed:
        is_open = _is_open(schedule, passed[-1], now)
        return DueNight(passed[-1], 1, tuple(passed[:-1])) if is_open else DueNight(None, 1, tuple(passed))
    if newest is None or not newest.state.interrupted or newest.attempt >= MAX_ATTEMPTS:
        return None
    # the times have changed since, or the schedule was paused
    if newest.planned_at < schedule.created_at:
        return None
    # This includes a planned night that a user stopped, but no manual night: `planned` excludes
    # those.
    return DueNight(newest.planned_at, newest.attempt + 1) if _is_open(schedule, newest.planned_at, now) else None


def _is_open(schedule: Schedule, planned_at: int, now: datetime) -> bool:
    end = window_end(schedule, planned_at)
    return end is None or now < end
