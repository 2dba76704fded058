"""A registered model's champion and its history, as tables and as JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from backends import codec
from sweeps.champions.history import DECISION_TAG, HistoryEntry
from sweeps.tracking.registry import RegisteredVersion

_FACTS = ("sweep", "trial", "base_model", "backend", "data.name", "data", "space", "hyperparameters", "usd")
_MEASURED = ("recall", "latency_ms")


def to_json(model: str, champion: RegisteredVersion | None, entries: Sequence[HistoryEntry]) -> dict[str, Any]:
    """Return the champion as plain JSON values. Its fields are None if there is no champion."""
    since = _since(champion, entries)
    return {
        "model": model,
        "version": champion.number if champion else None,
        "run": champion.run_id if champion else None,
        "since": since.at if since else None,
        "tags": {name: value for name, value in champion.tags.items() if name != DECISION_TAG} if champion else None,
        "became": codec.to_json(since) if since else None,
    }


def shown(champion: RegisteredVersion, entries: Sequence[HistoryEntry]) -> RenderableType:
    """Show the champion: since when, why, and how it was trained."""
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    facts.add_row("champion", f"version {champion.number} of {champion.model}")
    since = _since(champion, entries)
    if since is not None:
        facts.add_row("since", since.at)
        facts.add_row("because", Text(_why(since)))
    tested = [tag.removeprefix("finesweep.") for tag in champion.tags if tag.startswith("finesweep.test_")]
    for fact in (*tested, *_MEASURED, *_FACTS):
        if value := champion.tags.get(f"finesweep.{fact}"):
            facts.add_row(fact.replace("_", " "), Text(value))
    asked = f'mlflow.pyfunc.load_model("models:/{champion.model}@champion")'
    return Group(facts, Text(f"in Python: {asked}", style="dim"))


def history(entries: Sequence[HistoryEntry]) -> RenderableType:
    """Show every decision, the newest last."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("time", "version", "what", "score", "champion's", "difference (95 %)", "why"):
        table.add_column(column, overflow="fold", ratio=1 if column == "why" else None, no_wrap=column == "time")
    for entry in entries:
        decision = entry.decision
        what = "rolled back to" if decision is None else "promoted" if decision.promoted else "not promoted"
        numbers = ("", "", "")
        if decision is not None:
            numbers = (_number(decision.challenger_score), _number(decision.champion_score), "")
            if decision.difference_low is not None and decision.difference_high is not None:
                numbers = (*numbers[:2], f"{decision.difference_low:+.3g} .. {decision.difference_high:+.3g}")
        table.add_row(entry.at[:19], entry.version, what, *numbers, Text(_why(entry)))
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _why(entry: HistoryEntry) -> str:
    if entry.decision is not None:
        return entry.decision.reason
    before = f", from version {entry.before}" if entry.before else ""
    return f"by {entry.by}{before}" + (f": {entry.why}" if entry.why else "")


def _since(champion: RegisteredVersion | None, entries: Sequence[HistoryEntry]) -> HistoryEntry | None:
    moves = [
        entry for entry in entries if champion is not None and entry.moved_alias and entry.version == champion.number
    ]
    return moves[-1] if moves else None
