"""The books of a month: what the nights of a schedule have cost in it at most, and what is left for the next. Pure.

A night counts, with all that its trials can cost, to each calendar month of the schedule's zone that it touches. One
that runs past the end of a month so counts in both: whenever in a night a service charges, no month exceeds its limit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Self
from zoneinfo import ZoneInfo

from sweeps.scheduling.schedule import Night


@dataclass(frozen=True)
class Money:
    """What a night may cost, as it is stored of the night before its first trial.

    `study` is the sweep's identity, empty where it was not begun yet; `before` is what that had spent when the night
    began, `limit` the most that it may have cost at the night's end, `monthly` the month's limit. `at_most` is the most
    that it has cost as far as the night's end knows; None where the night ended without a word, or runs.
    """

    study: str
    before: float
    limit: float
    monthly: float
    at_most: float | None = None

    @classmethod
    def of(cls, night: Night) -> Self | None:
        """Return what is stored of a night, None where it had no trials or no monthly limit."""
        stored: Mapping[str, Any] | None = night.found.get("money")
        return cls(**stored) if stored else None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Month:
    """A calendar month of a schedule: its name, `2027-01`, what its nights cost at most, and its limit."""

    name: str
    usd: float
    limit: float

    @property
    def left(self) -> float:
        """What its nights may still cost."""
        return max(0.0, self.limit - self.usd)

    @property
    def text(self) -> str:
        """Both amounts for people."""
        return f"${self.usd:,.2f} of ${self.limit:,.2f}"


def name_of(tz: str, moment: float) -> str:
    """Return the month of a moment, in seconds since the Unix epoch, in the zone."""
    return f"{datetime.fromtimestamp(moment, UTC).astimezone(ZoneInfo(tz)):%Y-%m}"


def month(nights: Sequence[Night], tz: str, limit: float, now: float) -> Month:
    """Add up the month of `now` over the nights of a schedule. One that runs counts with the most it may cost."""
    name = name_of(tz, now)
    return Month(name, math.fsum(cost for _, _, cost in _counted(nights, tz, name, now)), limit)


def most(nights: Sequence[Night], tz: str, study: str, before: float, monthly: float, now: float) -> float:
    """Return the most that a study, which has spent `before`, may have cost after a night that begins now."""
    return before + _carried(nights, tz, study, before, now) + month(nights, tz, monthly, now).left


def _carried(nights: Sequence[Night], tz: str, study: str, before: float, now: float) -> float:
    """Return which part of what a study may cost beyond `before` is in this month's books already.

    That is what trials may still take that an earlier night of this month began and that are not settled.
    """
    ends = [end for each, end, _ in _counted(nights, tz, name_of(tz, now), now) if each == study]
    return max(0.0, ends[-1] - before) if ends and study else 0.0


def _counted(nights: Sequence[Night], tz: str, name: str, now: float) -> list[tuple[str, float, float]]:
    """Return of each night of a month its study, the most that this has cost at its end, and what the night adds.

    A later night of the same study knows better what earlier ones have cost; the difference may be negative.
    """
    found: list[tuple[str, float, float]] = []
    last: dict[str, float] = {}
    for each in sorted((night for night in nights if night.started_at is not None), key=_began):
        money = Money.of(each)
        ended = each.ended_at if each.state.ended and each.ended_at is not None else now
        if money is None or name not in (name_of(tz, _began(each)), name_of(tz, max(ended, _began(each)))):
            continue
        end = money.limit if money.at_most is None else money.at_most
        known = max(0.0, last.get(money.study, money.before) - money.before) if money.study else 0.0
        found.append((money.study, end, end - money.before - known))
        last[money.study] = end
    return found


def _began(night: Night) -> float:
    return night.started_at or 0.0
