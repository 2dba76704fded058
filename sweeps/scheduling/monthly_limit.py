"""The month's books of a schedule as they are shown: its limit is read from its file, without what checks that file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from sweeps.errors import UserInputError
from sweeps.scheduling.monthly_budget import Money, Month, month
from sweeps.scheduling.schedule import Night, Schedule
from sweeps.spec.yaml_source import read, with_overrides


def shown(schedule: Schedule, nights: Sequence[Night], now: datetime) -> Month | None:
    """Return this month's books; None where the file has no monthly limit.

    Where the file lies on another machine, the limit is the one of the last night that had one.
    """
    limit = _limit(schedule, nights)
    return None if limit is None else month(nights, schedule.tz, limit, now.timestamp())


def _limit(schedule: Schedule, nights: Sequence[Night]) -> float | None:
    try:
        budget = with_overrides(read(Path(schedule.file)), schedule.overrides).value.get("budget")
    except (UserInputError, OSError):
        known = [money.monthly for night in nights if (money := Money.of(night)) is not None]
        return known[-1] if known else None
    limit = budget.get("monthly_usd") if isinstance(budget, dict) else None
    return float(limit) if isinstance(limit, int | float) and not isinstance(limit, bool) else None
