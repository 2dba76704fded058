"""The morning's summary of a night as text, as Markdown, and as self-contained HTML. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from backends import codec
from sweeps.scheduling.monthly_budget import MonthlySpend
from sweeps.scheduling.night import Night, NightState
from sweeps.scheduling.schedule import Schedule

STATE_PHRASES: Mapping[NightState, str] = {
    NightState.RUNNING: "running",
    NightState.DONE: "done",
    NightState.PARTIAL: "incomplete; the next night continues",
    NightState.UNCHANGED: "nothing to do",
    NightState.NO_BUDGET: "not started, no budget",
    NightState.STOPPED: "stopped",
    NightState.FAILED: "FAILED",
    NightState.LOST: "LOST",
    NightState.MISSED: "missed",
}


def should_notify(schedule: Schedule, night: Night) -> bool:
    """Return whether the schedule's settings ask for a notification of this night.

    Failures, missed nights, nights with problems, and the first of several nights without budget
    are reported in any case.
    """
    if night.state.is_failure or night.results.get("problems") or night.results.get("news"):
        return True
    champion = night.results.get("champion") or {}
    match schedule.notify.when:
        case "always":
            return True
        case "failures":
            return False
        case "changes":
            if night.state in (NightState.UNCHANGED, NightState.NO_BUDGET):
                return False
            return night.results.get("worth") in ("first", "changed") or bool(champion.get("promoted"))


def title(schedule: Schedule, night: Night) -> str:
    """Return one line that shows whether anyone must act."""
    champion = night.results.get("champion") or {}
    news = " · new champion" if champion.get("promoted") and night.state is NightState.DONE else ""
    date = f"{_local_time(schedule, night.planned_at):%Y-%m-%d}"
    return f"{schedule.name}, night of {date}: {STATE_PHRASES[night.state]}{news}"


def markdown(schedule: Schedule, night: Night) -> str:
    """Return the summary as Markdown. Texts from data, files or services cannot become markup."""
    lines = [f"# {_escaped(title(schedule, night))}", ""]
    for name, value in _rows(schedule, night):
        lines.append(f"- **{name}**: {_escaped(value)}")
    return "\n".join(lines) + "\n"


def text(schedule: Schedule, night: Night) -> str:
    """Return the summary for a terminal."""
    rows = [f"  {name:<12} {value}\n" for name, value in _rows(schedule, night)]
    return f"{title(schedule, night)}\n{''.join(rows)}"


def html(schedule: Schedule, night: Night) -> str:
    """Return the summary as an HTML page. All texts are escaped, and addresses are links."""
    from jinja2 import Environment

    page = Environment(autoescape=True, trim_blocks=True).from_string(_PAGE)
    colour = "#b3261e" if night.state.is_failure else "#1b6e3c" if night.state is NightState.DONE else "#555"
    return page.render(title=title(schedule, night), rows=_rows(schedule, night), colour=colour)


def _rows(schedule: Schedule, night: Night) -> list[tuple[str, str]]:
    """Return the rows of the summary as name and value. Unknown values have no row."""
    results = night.results
    rows = _state_rows(night)
    if night.sweep:
        rows.append(("sweep", f"{night.sweep}{' on ' + str(results['data']) if results.get('data') else ''}"))
    if night.started_at and night.ended_at:
        start, end = _local_time(schedule, night.started_at), _local_time(schedule, night.ended_at)
        rows.append(("time", f"{start:%Y-%m-%d %H:%M %Z} to {end:%Y-%m-%d %H:%M %Z}"))
    if "trials" in results:
        rows += _trial_rows(results)
    if month := results.get("month"):
        rows.append(("month", f"{month['name']}: {codec.from_json(MonthlySpend, month).text}"))
    if best := results.get("best"):
        point = ", ".join(f"{name} {_short(value)}" for name, value in best["hyperparameters"].items())
        rows.append(("best trial", f"{best['trial']}, {results['metric']} {best['value']:.4g}: {point}"))
    if test := results.get("test") or results.get("test_accuracy"):  # the second one is of version 0.2
        name = results.get("test_metric") or "accuracy"
        rows.append(("test split", f"{name} {test[0]:.4g} ({test[1]:.4g} .. {test[2]:.4g})"))
    if baselines := results.get("baselines"):
        rows.append(("baselines", str(baselines)))
    if warnings := results.get("warnings"):
        rows.append(("warnings", f"{', '.join(warnings)}; sweep check explains them"))
    rows += _champion_rows(results.get("champion"), night)
    drift = results.get("drift") or {}
    if drift:
        rows.append(("data drift", "; ".join(drift.get("words", ())) or drift.get("why_not") or "none"))
    rows += [("problem", problem) for problem in results.get("problems") or ()]
    links = {"report": results.get("report"), "drift report": drift.get("report"), "MLflow": results.get("mlflow")}
    return rows + [(name, str(link)) for name, link in links.items() if link]


def _state_rows(night: Night) -> list[tuple[str, str]]:
    """Return the state and the reason: why the night ran, or why it did not or ended early."""
    if night.state in (NightState.DONE, NightState.PARTIAL) and night.reason:
        return [("state", night.state.value), ("why it ran", night.reason)]
    if night.reason.startswith(night.state.value):
        return [("state", night.reason)]
    return [("state", f"{night.state.value}{': ' + night.reason if night.reason else ''}")]


def _trial_rows(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    states = _counts(results["states"])
    tonight = f"{results['trials']} tonight{f' ({states})' if states else ''}"
    total = f"{results['trials_of_the_sweep']} of {results['wanted_trials']} in all"
    dollars = f"${results['usd']:,.2f}, " if results["priced"] else ""
    return [
        ("trials", f"{tonight}, {total}; {results['end']}"),
        ("verdicts", _counts(results["verdicts"]) or "none"),
        ("spent", f"{dollars}{results['tokens']:,} tokens"),
    ]


def _champion_rows(champion: Mapping[str, Any] | None, night: Night) -> list[tuple[str, str]]:
    if not champion:
        return []
    if night.state is NightState.UNCHANGED:
        return [("champion", "not challenged")]
    low, high = champion.get("difference_low"), champion.get("difference_high")
    difference = f" (difference {low:+.3g} .. {high:+.3g})" if low is not None and high is not None else ""
    version = f"{champion['model']} version {champion['version']}"
    # Without a promotion the alias stays on the previous champion, or on none.
    decision = "is the new champion" if champion["promoted"] else "was not promoted"
    return [("champion", f"{version} {decision}{difference}: {champion['reason']}")]


def _local_time(schedule: Schedule, moment: float) -> datetime:
    return datetime.fromtimestamp(moment, UTC).astimezone(ZoneInfo(schedule.tz))


def _counts(counts: Mapping[str, int]) -> str:
    by_count = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {name}" for name, count in by_count)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _escaped(text: str) -> str:
    """Escape Markdown, and join the lines of a text."""
    line = " ".join(text.split())
    return "".join(f"\\{character}" if character in "\\`*[]<>#|" else character for character in line)


_PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title></head>
<body style="font: 15px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 1.5rem auto; color: #222">
<h1 style="font-size: 1.25rem; color: {{ colour }}">{{ title }}</h1>
<table style="border-collapse: collapse">
{% for name, value in rows %}
<tr><th style="text-align: left; vertical-align: top; padding: .2rem 1rem .2rem 0">{{ name }}</th>
<td style="padding: .2rem 0">
{% if value.startswith(("http://", "https://")) %}<a href="{{ value }}">{{ value }}</a>{% else %}{{ value }}{% endif %}
</td></tr>
{% endfor %}
</table></body></html>
"""
