"""Schedules and nights as tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from rich.console import RenderableType
from rich.table import Table

from sweeps.scheduling.calendar import next_planned_time
from sweeps.scheduling.current_month import current_month
from sweeps.scheduling.night import Night
from sweeps.scheduling.schedule import Schedule


def schedules(found: Sequence[tuple[Schedule, Sequence[Night]]], now: datetime) -> RenderableType:
    """Show one row per schedule, with its next and its last night."""
    months = {schedule.name: current_month(schedule, nights, now) for schedule, nights in found}
    columns = ["schedule", "file", "cron", "zone", "until", "next night", "last night"]
    table = _table(*columns, *(["this month"] if any(months.values()) else []))
    for schedule, nights in found:
        moment = next_planned_time(schedule, now)
        coming = "paused" if schedule.paused else clock(schedule, moment) if moment is not None else "never"
        last = f"{_when(schedule, nights[-1])} {nights[-1].state.value}" if nights else ""
        known = months[schedule.name]
        last_column = [known.text if known else ""] if any(months.values()) else []
        table.add_row(
            schedule.name, schedule.file, schedule.cron, schedule.tz, schedule.until or "", coming, last, *last_column
        )
    return table


def nights(schedule: Schedule, found: Sequence[Night]) -> RenderableType:
    """Show one row per night, the newest last."""
    table = _table("night", "state", "sweep", "trials", "spent", "best", "champion", "why")
    for night in found:
        results, best = night.results, night.results.get("best")
        again = f" #{night.attempt}" if night.attempt > 1 else " by hand" if night.manual else ""
        tokens = f"{results['tokens']:,} tokens" if "tokens" in results else ""
        spent = f"${results['usd']:,.2f}" if results.get("priced") else tokens
        champion = results.get("champion") or {}
        table.add_row(
            _when(schedule, night) + again,
            night.state.value,
            night.sweep or "",
            str(results.get("trials", "")),
            spent,
            f"{results['metric']} {best['value']:.4g}" if best else "",
            "" if not champion or night.state.value == "unchanged" else "new" if champion["promoted"] else "kept",
            night.reason,
        )
    return table


def ledger(schedule: Schedule, found: Sequence[Night], now: datetime) -> str:
    """Say what this month's nights may have cost and what is left.

    Empty without a monthly limit.
    """
    known = current_month(schedule, found, now)
    return f"{known.name}: at most {known.text} spent, ${known.left_usd:,.2f} left" if known else ""


def clock(schedule: Schedule, moment: datetime) -> str:
    """Return a moment as local time in the schedule's zone."""
    return f"{moment.astimezone(ZoneInfo(schedule.tz)):%Y-%m-%d %H:%M %Z}"


def _when(schedule: Schedule, night: Night) -> str:
    return clock(schedule, datetime.fromtimestamp(night.planned_at, UTC))


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
