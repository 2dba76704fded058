"""Learning curves as small drawings in a page: one line each for training and validation."""

from __future__ import annotations

import math
from collections.abc import Sequence

from backends.training_logs.learning_curve import LearningCurve

WIDTH, HEIGHT = 220, 64
"""The size of a small curve, in pixels."""

MAX_POINTS = 400
"""A small curve shows no more points than this."""


def small_curve(curve: LearningCurve, measures: Sequence[str] = ("loss", "metric")) -> dict[str, str]:
    """Return the points of the training and the validation line for SVG.

    They are those of the first of the `measures` that is known. A line without points is left out.
    """
    for measure in measures:
        lines = {side: _known(curve, f"{side}_{measure}") for side in ("train", "valid")}
        shown = {side: points for side, points in lines.items() if points}
        if shown:
            return _scaled(shown)
    return {}


def _known(curve: LearningCurve, name: str) -> list[tuple[float, float]]:
    points = [
        (point.epoch, value)
        for point in (*filter(None, (curve.baseline,)), *curve.points)
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
