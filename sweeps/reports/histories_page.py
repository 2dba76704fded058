"""The verdicts on training histories as one self-contained HTML page: `sweep fit --html`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from importlib import resources

from backends.training_logs.learning_curve import LearningCurve
from sweeps.reports.judged_histories import Fitted, most_serious_first
from sweeps.reports.plots import VERDICT_COLOURS

WIDTH, HEIGHT = 220, 64
"""The size of a small curve, in pixels."""

MAX_POINTS = 400
"""A small curve shows no more points than this."""


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


def small_curve(curve: LearningCurve) -> dict[str, str]:
    """Return the points of the training and the validation line for SVG.

    They are the losses, or the metric where no loss is known. A line without points is left out.
    """
    for measure in ("loss", "metric"):
        lines = {side: _known(curve, f"{side}_{measure}") for side in ("train", "valid")}
        shown = {side: points for side, points in lines.items() if points}
        if shown:
            return _scaled(shown)
    return {}


def _known(curve: LearningCurve, name: str) -> list[tuple[float, float]]:
    points = [
        (point.epoch, value)
        for point in curve.points
        if (value := getattr(point, name)) is not None and math.isfinite(value) and math.isfinite(point.epoch)
    ]
    step = math.ceil(len(points) / MAX_POINTS) or 1
    return points[::step] if not points or points[-1] in points[::step] else [*points[::step], points[-1]]


def _scaled(lines: dict[str, list[tuple[float, float]]]) -> dict[str, str]:
    epochs = [epoch for points in lines.values() for epoch, _ in points]
    values = sorted(value for points in lines.values() for _, value in points)
    low, high = values[0], values[min(len(values) - 1, int(0.98 * len(values)))]  # a spike must not flatten the rest
    first, last = min(epochs), max(epochs)

    def place(epoch: float, value: float) -> str:
        x = (epoch - first) / (last - first) if last > first else 0.5
        y = (min(value, high) - low) / (high - low) if high > low else 0.5
        return f"{4 + x * (WIDTH - 8):.1f},{HEIGHT - 4 - y * (HEIGHT - 8):.1f}"

    return {side: " ".join(place(*point) for point in points) for side, points in lines.items()}
