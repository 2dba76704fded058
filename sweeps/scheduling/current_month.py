"""The current month of a schedule, for display.

Reads the limit from the sweep file without checking the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from sweeps.errors import UserInputError
from sweeps.scheduling.monthly_budget import MonthlySpend, cost_of, monthly_spend
from sweeps.scheduling.night import Night
from sweeps.scheduling.schedule import Schedule
from sweeps.spec.yaml_source import read, with_overrides


def current_month(schedule: Schedule, nights: Sequence[Night], now: datetime) -> MonthlySpend | None:
    """Return the spend of this month, or None if the sweep file has no monthly limit.

    If the file is on another machine, the limit is that of the last night that had one.
    """
    limit_usd = _limit_usd(schedule, nights)
    return None if limit_usd is None else monthly_spend(nights, schedule.tz, limit_usd, now.timestamp())


def _limit_usd(schedule: Schedule, nights: Sequence[Night]) -> float | None:
    try:
        budget = with_overrides(read(Path(schedule.file)), schedule.overrides).value.get("budget")
    except (UserInputError, OSError):
        limits = [cost.monthly_limit_usd for night in nights if (cost := cost_of(night)) is not None]
        return limits[-1] if limits else None
    limit = budget.get("monthly_usd") if isinstance(budget, dict) else None
    return float(limit) if isinstance(limit, int | float) and not isinstance(limit, bool) else None
