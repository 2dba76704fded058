"""The figure of a scale run: the metric by the number of training examples, one line a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.scaling.curves import ModelCurve
from sweeps.scaling.result import ScaleResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#1f5fbf", "#c2571a", "#2e7d32", "#8e24aa", "#00838f", "#6d4c41")
INK, PALE = "#222222", "#8a8a8a"
ENDINGS = (".png", ".svg", ".pdf")

WIDTH_OF_A_LETTER = 0.0125
"""Of a label, as a share of the width of the figure."""

MAX_LABEL = 24


def draw(result: ScaleResult, file: Path) -> None:
    """Write the figure as PNG, SVG or PDF, by the ending of the file.

    Each point has the 95 % interval of its mean over the seeds. A dashed line continues the fitted
    law to twice the data, with its interval, where the points carry that.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Text stays text, and the same result gives the same bytes.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "finesweep"}):
        figure = Figure(figsize=(7.6, 4.4), dpi=110, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        widest = max((len(_shown(curve.label)) for curve in result.curves), default=0)
        figure.subplots_adjust(left=0.1, right=0.96 - WIDTH_OF_A_LETTER * widest, top=0.86, bottom=0.13)
        figure.text(0.1, 0.94, f"How much data is enough? {result.name}", fontsize=13, fontweight="bold", color=INK)
        figure.text(0.1, 0.895, _caption(result), fontsize=8.5, color=PALE)
        shown = [curve for curve in result.curves if curve.measured]
        for curve, colour in zip(shown, _colours(len(shown)), strict=True):
            _draw_curve(axes, curve, colour)
        _draw_frame(axes, result, shown)
        metadata = {"Date": None} if file.suffix == ".svg" else {}
        figure.savefig(file, metadata=metadata)


def _caption(result: ScaleResult) -> str:
    runs = "1 run per point" if result.seeds == 1 else f"mean of {result.seeds} seeds with its 95 % interval"
    how = "hyperparameters swept at each size" if result.searches else "default hyperparameters"
    return f"{result.data}, {result.measure.valid_examples:,} validation examples; {how}; {runs}"


def _colours(count: int) -> Sequence[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(count)]


def _draw_curve(axes: Axes, curve: ModelCurve, colour: str) -> None:
    points = curve.measured
    sizes, means = [point.size for point in points], [point.mean for point in points]
    axes.plot(sizes, means, color=colour, linewidth=1.8, marker="o", markersize=4.5, zorder=3)
    for point in points:
        axes.plot([point.size] * len(point.values), point.values, ".", color=colour, alpha=0.35, markersize=4, zorder=2)
        if point.half_width is not None:
            ends = (point.mean - point.half_width, point.mean + point.half_width)
            axes.plot([point.size] * 2, ends, color=colour, linewidth=1.2, alpha=0.8, zorder=2)
    if (found := curve.extrapolation) is not None:
        beyond = [row for row in found.band if row[0] >= found.size]
        beyond_sizes = [found.size, *(row[0] for row in beyond)]
        axes.plot(beyond_sizes, [found.law.at(size) for size in beyond_sizes], "--", color=colour, linewidth=1.4)
        lows, highs = [row[1] for row in found.band], [row[2] for row in found.band]
        axes.fill_between([row[0] for row in found.band], lows, highs, color=colour, alpha=0.1, linewidth=0)


def _draw_frame(axes: Axes, result: ScaleResult, shown: Sequence[ModelCurve]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    sizes = sorted({point.size for curve in shown for point in curve.points})
    doubled = [2 * found.size for curve in shown if (found := curve.extrapolation) is not None]
    axes.xaxis.set_major_locator(FixedLocator([*sizes, *sorted(set(doubled))]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    axes.set_xlabel("training examples (log scale)", fontsize=9, color=INK)
    axes.set_ylabel(result.measure.metric, fontsize=9, color=INK)
    if result.measure.is_share:
        low, high = axes.get_ylim()
        axes.set_ylim(max(0.0, low), min(1.0, high))
    _draw_level(axes, result.measure.guess, "always the most frequent label")
    _draw_level(axes, result.measure.baseline, result.measure.baseline_name)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=8.5, colors=INK)
    _label_lines(axes, shown)


def _draw_level(axes: Axes, level: float | None, name: str) -> None:
    """Draw a level to compare with, inside the axes."""
    if level is None:
        return
    low, high = axes.get_ylim()
    margin = 0.03 * (high - low)
    axes.set_ylim(min(low, level - margin), max(high, level + 2 * margin))
    axes.axhline(level, color=PALE, linewidth=0.8, linestyle=":", zorder=1)
    axes.annotate(
        name,
        (0.99, level),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="right",
        fontsize=7.5,
        color=PALE,
    )


def _label_lines(axes: Axes, shown: Sequence[ModelCurve]) -> None:
    """Write the name of each model beside the end of its line, apart from each other."""
    low, high = axes.get_ylim()
    gap = 0.055 * (high - low)
    ends = []
    for curve, colour in zip(shown, _colours(len(shown)), strict=True):
        found = curve.extrapolation
        last = curve.measured[-1]
        end = (last.size, last.mean) if found is None else (2 * found.size, found.law.at(2 * found.size))
        ends.append((end[1], end[0], curve.label, colour))
    height = -float("inf")
    for value, size, label, colour in sorted(ends):
        height = max(value, height + gap)
        axes.annotate(
            _shown(label),
            (size, value),
            xytext=(1.015, height),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=9.5,
            fontweight="bold",
            color=colour,
            annotation_clip=False,
        )


def _shown(label: str) -> str:
    return label if len(label) <= MAX_LABEL else f"{label[: MAX_LABEL - 1]}…"
