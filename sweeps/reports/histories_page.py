"""The verdicts on training histories as one self-contained HTML page: `sweep fit --html`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from importlib import resources

from sweeps.reports.judged_histories import Fitted, most_serious_first
from sweeps.reports.plots import VERDICT_COLOURS
from sweeps.reports.small_curves import HEIGHT, WIDTH, small_curve


def page(fitted: Sequence[Fitted], now: datetime) -> str:
    """Return the page: a row for each history, the most serious first. All texts are escaped."""
    from jinja2 import Environment

    template = resources.files(__package__).joinpath("histories_page.html").read_text(encoding="utf-8")
    rows = [
        {"history": one.history, "verdict": one.verdict, "lines": small_curve(one.history.curve)}
        for one in most_serious_first(fitted)
    ]
    return (
        Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        .from_string(template)
        .render(
            rows=rows,
            colours={kind.value: colour for kind, colour in VERDICT_COLOURS.items()},
            written=f"{now:%Y-%m-%d %H:%M}",
            width=WIDTH,
            height=HEIGHT,
        )
    )
