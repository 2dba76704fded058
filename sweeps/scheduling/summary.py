"""The morning's summary of a night, as Markdown and as HTML that needs nothing beside it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from sweeps.scheduling.monthly_budget import Month
from sweeps.scheduling.schedule import Night, NightState, Schedule

WORDS: Mapping[NightState, str] = {
    NightState.RUNNING: "is running",
    NightState.DONE: "is done",
    NightState.PARTIAL: "goes on next night",
    NightState.UNCHANGED: "found nothing to do",
    NightState.NO_BUDGET: "was not begun: no budget",
    NightState.STOPPED: "was stopped",
    NightState.FAILED: "FAILED",
    NightState.LOST: "was LOST",
    NightState.MISSED: "was missed",
}


def is_telling(schedule: Schedule, night: Night) -> bool:
    """Return whether people want to hear of this night. Of a failure they hear in any case, as they do of a night that
    was missed, and of the first of those for which the month's limit left nothing.
    """
    if night.state.bad or night.found.get("problems") or night.found.get("news"):
        return True
    champion = night.found.get("champion") or {}
    match schedule.notify.when:
        case "always":
            return True
        case "failures":
            return False
        case "changes":
            if night.state in (NightState.UNCHANGED, NightState.NO_BUDGET):
                return False
            return night.found.get("worth") in ("first", "changed") or bool(champion.get("promoted"))


def title(schedule: Schedule, night: Night) -> str:
    """Return one line that says whether anything must be done."""
    champion = night.found.get("champion") or {}
    news = " · new champion" if champion.get("promoted") and night.state is NightState.DONE else ""
    return f"{schedule.name}: the night of {_day(schedule, night)} {WORDS[night.state]}{news}"


def markdown(schedule: Schedule, night: Night) -> str:
    """Return the summary. What comes from data, files or services cannot become markup."""
    lines = [f"# {_plain(title(schedule, night))}", ""]
    for name, value in _rows(schedule, night):
        lines.append(f"- **{name}**: {_plain(value)}")
    return "\n".join(lines) + "\n"


def text(schedule: Schedule, night: Night) -> str:
    """Return the summary for a screen."""
    rows = [f"  {name:<10} {value}\n" for name, value in _rows(schedule, night)]
    return f"{title(schedule, night)}\n{''.join(rows)}"


def html(schedule: Schedule, night: Night) -> str:
    """Return the same as HTML, escaped; addresses are links."""
    from jinja2 import Environment

    page = Environment(autoescape=True, trim_blocks=True).from_string(_PAGE)
    colour = "#b3261e" if night.state.bad else "#1b6e3c" if night.state is NightState.DONE else "#555"
    return page.render(title=title(schedule, night), rows=_rows(schedule, night), colour=colour)


def _rows(schedule: Schedule, night: Night) -> list[tuple[str, str]]:
    """Return what is told, name by name; what is not known has no line."""
    found = night.found
    rows = _state(night)
    if night.sweep:
        rows.append(("sweep", f"{night.sweep}{' on ' + str(found['data']) if found.get('data') else ''}"))
    if night.started_at and night.ended_at:
        rows.append(("time", f"{_clock(schedule, night.started_at)} to {_clock(schedule, night.ended_at)}"))
    if "trials" in found:
        counted = _counted(found["states"])
        of = f", {found['trials_of_the_sweep']} of {found['wanted_trials']} of the search are done"
        rows.append(("trials", f"{found['trials']} tonight{f' ({counted})' if counted else ''}{of}; {found['end']}"))
        rows.append(("verdicts", _counted(found["verdicts"]) or "none"))
        money = f"${found['usd']:,.2f}, " if found["priced"] else ""
        rows.append(("spent", f"{money}{found['tokens']:,} tokens"))
    if ledger := found.get("month"):
        rows.append(("month", f"{ledger['name']}: {Month(**ledger).text}"))
    if best := found.get("best"):
        point = ", ".join(f"{name} {_short(value)}" for name, value in best["hyperparameters"].items())
        rows.append(("best", f"trial {best['trial']}, {found['metric']} {best['value']:.4g}: {point}"))
    if test := found.get("test_accuracy"):
        rows.append(("test split", f"accuracy {test[0]:.4g} ({test[1]:.4g} .. {test[2]:.4g})"))
    rows += _champion_rows(found.get("champion"), night)
    drift = found.get("drift") or {}
    if drift:
        rows.append(("data drift", "; ".join(drift.get("words", ())) or drift.get("why_not") or "none seen"))
    rows += [("problem", each) for each in found.get("problems") or ()]
    links = (("report", found.get("report")), ("drift report", drift.get("report")), ("MLflow", found.get("mlflow")))
    return rows + [(name, str(each)) for name, each in links if each]


def _state(night: Night) -> list[tuple[str, str]]:
    """Return how the night ended; the reason of one that ran is why it did, of another why it did not or broke off."""
    if night.state in (NightState.DONE, NightState.PARTIAL) and night.reason:
        return [("state", night.state.value), ("why it ran", night.reason)]
    if night.reason.startswith(night.state.value):
        return [("state", night.reason)]
    return [("state", f"{night.state.value}{': ' + night.reason if night.reason else ''}")]


def _champion_rows(champion: Mapping[str, Any] | None, night: Night) -> list[tuple[str, str]]:
    if not champion:
        return []
    if night.state is NightState.UNCHANGED:
        return [("champion", "not challenged")]
    low, high = champion.get("difference_low"), champion.get("difference_high")
    numbers = f" ({low:+.3g} .. {high:+.3g})" if low is not None and high is not None else ""
    # Where nothing is promoted the alias stays on the champion that there was, or on none.
    name = f"{champion['model']} version {champion['version']}"
    verb = "is new" if champion["promoted"] else "did not become it"
    return [("champion", f"{name} {verb}{numbers}: {champion['reason']}")]


def _day(schedule: Schedule, night: Night) -> str:
    return f"{datetime.fromtimestamp(night.planned_at, UTC).astimezone(ZoneInfo(schedule.tz)):%Y-%m-%d}"


def _clock(schedule: Schedule, moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC).astimezone(ZoneInfo(schedule.tz)):%Y-%m-%d %H:%M %Z}"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda each: (-each[1], each[0])))


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(text: str) -> str:
    """Keep text from being read as markup, and on its line."""
    kept = " ".join(text.split())
    return "".join(f"\\{each}" if each in "\\`*[]<>#|" else each for each in kept)


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
