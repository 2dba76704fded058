"""The monthly budget of a schedule: what its nights cost at most, and what is left. Pure.

A night counts, with everything that its trials can cost, to each calendar month that it touches, in
the schedule's zone. A night that runs past the end of a month therefore counts in both, and no
month exceeds its limit, whenever during a night a service charges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import Field

from backends import codec
from sweeps.scheduling.night import Night


@dataclass(frozen=True)
class NightCost:
    """What a night may cost; stored before its first trial.

    `sweep_id` identifies the study; it is empty if the sweep did not exist when the night began.
    `spent_before_usd` is what that sweep had spent by then, `limit_usd` the most that it may have
    spent when the night ends, and `monthly_limit_usd` the limit of the month.

    `cost_bound_usd` is the most that the sweep has cost, as far as is known at the night's end. It
    is None while the night runs, or if it ended without storing an outcome.

    The JSON names are those of version 0.1.
    """

    sweep_id: Annotated[str, Field(alias="study")]
    spent_before_usd: Annotated[float, Field(alias="before")]
    limit_usd: Annotated[float, Field(alias="limit")]
    monthly_limit_usd: Annotated[float, Field(alias="monthly")]
    cost_bound_usd: Annotated[float | None, Field(alias="at_most")] = None


@dataclass(frozen=True)
class MonthlySpend:
    """What the nights of a calendar month cost at most, and the limit.

    `name` is the month, as `2027-01`. The JSON names are those of version 0.1.
    """

    name: str
    cost_bound_usd: Annotated[float, Field(alias="usd")]
    limit_usd: Annotated[float, Field(alias="limit")]

    @property
    def left_usd(self) -> float:
        """What the nights of the month may still cost."""
        return max(0.0, self.limit_usd - self.cost_bound_usd)

    @property
    def text(self) -> str:
        """Both amounts, for people."""
        return f"${self.cost_bound_usd:,.2f} of ${self.limit_usd:,.2f}"


def cost_of(night: Night) -> NightCost | None:
    """Return the stored cost of a night, or None if it ran no trials or had no monthly limit."""
    stored = night.results.get("money")
    return codec.from_json(NightCost, stored) if stored else None


def month_name(tz: str, moment: float) -> str:
    """Return the local month, as `2027-01`, of a moment in seconds since the Unix epoch."""
    return f"{datetime.fromtimestamp(moment, UTC).astimezone(ZoneInfo(tz)):%Y-%m}"


def monthly_spend(nights: Sequence[Night], tz: str, limit_usd: float, now: float) -> MonthlySpend:
    """Add up the month of `now` over the nights of a schedule.

    A running night counts with its limit.
    """
    name = month_name(tz, now)
    total = math.fsum(share.added_usd for share in _shares(nights, tz, name, now))
    return MonthlySpend(name, total, limit_usd)


def sweep_limit(
    nights: Sequence[Night], tz: str, sweep_id: str, spent_before_usd: float, monthly_limit_usd: float, now: float
) -> float:
    """Return the most that a sweep may have cost, in dollars, after a night that begins now.

    `spent_before_usd` is what the sweep has spent so far.
    """
    counted = _already_counted(nights, tz, sweep_id, spent_before_usd, now)
    return spent_before_usd + counted + monthly_spend(nights, tz, monthly_limit_usd, now).left_usd


def _already_counted(nights: Sequence[Night], tz: str, sweep_id: str, spent_before_usd: float, now: float) -> float:
    """Return how much of the sweep's future cost this month counts already.

    An earlier night of this month counts with all that its trials can cost. If some of them are
    not settled yet, the month already includes what they may still cost.
    """
    bounds = [share.bound_usd for share in _shares(nights, tz, month_name(tz, now), now) if share.sweep_id == sweep_id]
    return max(0.0, bounds[-1] - spent_before_usd) if bounds and sweep_id else 0.0


@dataclass(frozen=True)
class _NightShare:
    """What one night adds to a month.

    `bound_usd` is the most that the night's sweep has cost when the night ends.
    """

    sweep_id: str
    bound_usd: float
    added_usd: float


def _shares(nights: Sequence[Night], tz: str, month: str, now: float) -> list[_NightShare]:
    """Return the shares of a month, in the order in which the nights began.

    A later night of the same sweep knows better what earlier ones have cost, so what a night adds
    may be negative.
    """
    shares: list[_NightShare] = []
    last_bounds: dict[str, float] = {}
    for night in sorted((night for night in nights if night.started_at is not None), key=_started_at):
        cost, start = cost_of(night), _started_at(night)
        end = night.ended_at if night.state.ended and night.ended_at is not None else now
        if cost is None or month not in (month_name(tz, start), month_name(tz, max(end, start))):
            continue
        bound = cost.limit_usd if cost.cost_bound_usd is None else cost.cost_bound_usd
        last_bound = last_bounds.get(cost.sweep_id, cost.spent_before_usd) if cost.sweep_id else cost.spent_before_usd
        counted = max(0.0, last_bound - cost.spent_before_usd)
        shares.append(_NightShare(cost.sweep_id, bound, bound - cost.spent_before_usd - counted))
        last_bounds[cost.sweep_id] = bound
    return shares


def _started_at(night: Night) -> float:
    return night.started_at or 0.0
