"""When a schedule is due. Pure: the clock is an argument, and all arithmetic is done on moments, not on wall clocks.

Times of day are those of the schedule's zone. One that daylight saving skips is taken at the next valid moment, one
that occurs twice at its first occurrence; cronsim does both, as Debian's cron does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from sweeps.scheduling.schedule import Night, NightState, Schedule

MOST_ATTEMPTS = 3
"""A night that was cut off is begun so often at most: what kills it may be the night itself."""

ACCOUNTED = timedelta(days=400)
"""Planned times that lie back further than this are not gone through one by one."""

_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)\Z")


@dataclass(frozen=True)
class Due:
    """What to do now: begin the night planned for `planned_at`, and write down those of `missed`, in their order."""

    planned_at: int | None
    attempt: int = 1
    missed: tuple[int, ...] = ()


def problems(cron: str, tz: str, until: str | None) -> Iterator[tuple[str, str, str]]:
    """Tell what is wrong with these three: the option, the mistake, the remedy."""
    try:
        zone = ZoneInfo(tz)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        yield "--tz", f"there is no time zone {tz!r}", "a name of the IANA list, such as Europe/Berlin or UTC"
        zone = ZoneInfo("UTC")
    try:
        if len(cron.split()) != 5:
            raise CronSimError("five fields")
        next(CronSim(cron, datetime.now(zone)))
    except (CronSimError, StopIteration) as error:
        what = "never comes" if isinstance(error, StopIteration) else "is no cron expression"
        yield "--cron", f"{cron!r} {what}", 'minute, hour, day, month, weekday; "0 2 * * *" is every day at 02:00'
    if until is not None and not _TIME.match(until):
        yield "--until", f"{until!r} is no time of day", "HH:MM, such as 06:00"


def moments(cron: str, tz: str, after: datetime) -> Iterator[datetime]:
    """Yield the planned moments after `after`, in UTC, each once, in order."""
    last = after.astimezone(UTC)
    try:
        for each in CronSim(cron, after.astimezone(ZoneInfo(tz))):
            moment = each.astimezone(UTC)
            if moment > last:  # two skipped times fall on one moment; a doubled hour is not gone through twice
                last = moment
                yield moment
    except StopIteration:  # pragma: no cover - cronsim's iterator ends by itself
        return


def next_moment(schedule: Schedule, now: datetime) -> datetime | None:
    """Return the next planned moment after `now`, or None where none comes or the schedule is paused."""
    return None if schedule.paused else next(moments(schedule.cron, schedule.tz, now), None)


def closing(schedule: Schedule, planned_at: int) -> datetime | None:
    """Return when the window of a night closes, in UTC; None where it has no end.

    That is the first `until` after the planned moment; one that daylight saving skips is the next valid moment.
    """
    if schedule.until is None:
        return None
    hour, minute = map(int, schedule.until.split(":"))
    planned = datetime.fromtimestamp(planned_at, UTC)
    zone = ZoneInfo(schedule.tz)
    day = planned.astimezone(zone).date()
    while True:
        # A time that does not exist becomes the moment as far after the change as it lies after the gap's start.
        moment = datetime.combine(day, time(hour, minute), tzinfo=zone).astimezone(UTC)
        if moment > planned:
            return moment
        day += timedelta(days=1)


def due(schedule: Schedule, nights: Sequence[Night], now: datetime) -> Due | None:
    """Return what is to be done for a schedule at `now`, or None where nothing is.

    `nights` are all of its nights so far. Of several planned moments that passed without a night, the newest one whose
    window is still open is begun, once, and the others are missed. A night that was cut off is taken up again while its
    window is open and no newer one is due. While a night runs, nothing is begun.
    """
    if schedule.paused or any(night.state is NightState.RUNNING for night in nights):
        return None
    planned = [night for night in nights if not night.manual]
    newest = max(planned, key=lambda each: (each.planned_at, each.attempt), default=None)
    begin = max(newest.planned_at, schedule.created_at) if newest else schedule.created_at
    start = datetime.fromtimestamp(begin, UTC)
    passed: list[int] = []
    for moment in moments(schedule.cron, schedule.tz, max(start, now - ACCOUNTED)):
        if moment > now:
            break
        passed.append(int(moment.timestamp()))
    if passed:
        is_open = _is_open(schedule, passed[-1], now)
        return Due(passed[-1], 1, tuple(passed[:-1])) if is_open else Due(None, 1, tuple(passed))
    before = newest is not None and newest.planned_at < schedule.created_at  # of an earlier plan, or before a pause
    if newest is not None and not before and newest.state.cut_off and newest.attempt < MOST_ATTEMPTS:
        # One that somebody stopped by hand says so in its state as well; see Night.manual for those begun by hand.
        return Due(newest.planned_at, newest.attempt + 1) if _is_open(schedule, newest.planned_at, now) else None
    return None


def _is_open(schedule: Schedule, planned_at: int, now: datetime) -> bool:
    end = closing(schedule, planned_at)
    return end is None or now < end
