"""The plot of a learning curve: losses and metric by epoch, base model, onset, kept epoch,
verdict.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from backends.training_logs.learning_curve import CurvePoint, LearningCurve
from sweeps.trials.trial import Trial
from sweeps.verdicts.series import METRIC_SMOOTHED_FROM, SMOOTHED_FROM, Series
from sweeps.verdicts.verdict import FitVerdict, VerdictKind

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VERDICT_COLOURS = {
    VerdictKind.HEALTHY: "#2e7d32",
    VerdictKind.UNDERFIT: "#b26a00",
    VerdictKind.OVERFIT: "#8e24aa",
    VerdictKind.DIVERGED: "#c62828",
    VerdictKind.UNSETTLED: "#616161",
}
TRAIN, VALID, INK, PALE = "#7f8fa6", "#1f5fbf", "#222222", "#9a9a9a"

METRICS = ("accuracy", "macro_f1", "token_accuracy")
"""The plot shows the first of these metrics that the trial measured."""

CLIPPED_ABOVE = 6.0
"""Losses above this many times the curve's median are cut off, or they would flatten the rest."""


NARROW = 6.0
"""Plots below this many inches have smaller letters in the legend."""


@dataclass(frozen=True)
class _Picture:
    """The content of a plot.

    `kept` is the epoch whose weights are kept; `axis` is the unit of the epochs.
    """

    curve: LearningCurve
    verdict: FitVerdict | None
    kept: float | None
    axis: Literal["epoch", "step"]


@dataclass(frozen=True)
class PlotStyle:
    """How a plot is written: its format, its size in inches, its resolution, and its title.

    Without a title, the name of the curve is the title; an empty one leaves it out.
    """

    format: Literal["png", "svg", "pdf"] = "png"
    size: tuple[float, float] = (9.6, 4.2)
    dpi: int = 100
    title: str | None = None


def learning_curve_png(trial: Trial, title: str) -> bytes:
    """Draw a trial's evaluations as a PNG image of 960 x 420 pixels. An empty curve says so."""
    evaluations = [measurement for measurement in trial.curve if measurement.scope == "evaluation"]
    metric = next((m for m in METRICS if any(f"valid_{m}" in evaluation.values for evaluation in evaluations)), None)
    curve = LearningCurve.from_measurements(evaluations, metric=metric)
    return _image(_Picture(curve, trial.verdict, trial.best_epoch, "epoch"), title, PlotStyle())


def curve_image(
    curve: LearningCurve,
    verdict: FitVerdict,
    title: str,
    axis: Literal["epoch", "step"] = "epoch",
    style: PlotStyle = PlotStyle(),
) -> bytes:
    """Draw a judged curve like `learning_curve_png`. The epoch to keep comes from the verdict.

    Of a long curve, the smoothed validation values that were judged are drawn over the measured
    ones. The same curve gives the same bytes.
    """
    named = title if style.title is None else style.title
    return _image(_Picture(curve, verdict, verdict.keep_epoch, axis), named, style)


def _image(picture: _Picture, title: str, style: PlotStyle) -> bytes:
    # Not pyplot: it keeps figures in a global state that is neither thread-safe nor freed.
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = style.size
    figure = Figure(figsize=style.size, dpi=style.dpi, facecolor="white")
    FigureCanvasAgg(figure)
    names = ["loss"] if not _series(picture, "valid_metric")[0] else ["loss", "metric"]
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        _draw(axis, picture, name)
    labelled = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    legend_height = _legend(figure, labelled, width) if labelled else 0.0
    evidence_lines = _head(figure, picture.verdict, title, width, height)
    above = (0.55 if title or picture.verdict else 0.25) + 0.17 * evidence_lines + 0.25
    figure.subplots_adjust(
        left=0.72 / width,
        right=1 - 0.24 / width,
        top=1 - above / height,
        bottom=(0.55 + legend_height) / height,
        wspace=max(0.2, 1.1 / (width - 1.5)),  # room for the numbers beside the second axis
    )
    image = io.BytesIO()
    metadata = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None}}
    with rc_context({"svg.hashsalt": "sweep", "svg.fonttype": "none"}):
        figure.savefig(image, format=style.format, metadata=metadata[style.format])
    return image.getvalue()


def _legend(figure: Figure, labelled: Mapping[str, Any], width: float) -> float:
    """Write the legend in as few rows as the width allows. Returns its height in inches."""
    size = 9.0 if width >= NARROW else 7.5
    for rows in range(1, len(labelled) + 1):
        legend = figure.legend(
            labelled.values(), labelled.keys(), loc="lower center", ncols=math.ceil(len(labelled) / rows),
            frameon=False, fontsize=size, columnspacing=1.6, labelspacing=0.35, borderaxespad=0.2,
        )  # fmt: skip
        extent = legend.get_window_extent()
        if extent.width <= figure.dpi * (width - 0.1) or rows == len(labelled):
            break
        legend.remove()
    return float(extent.height / figure.dpi)


def _head(figure: Figure, verdict: FitVerdict | None, title: str, width: float, height: float) -> int:
    """Write the title, the verdict and the evidence. Returns how many lines the evidence has."""
    top = 1 - 0.23 / height
    room = max(10, int(9.4 * (width - (1.4 if verdict else 0.4))))
    shown = textwrap.shorten(title, room, placeholder="…")
    figure.text(0.19 / width, top, shown, fontsize=13, fontweight="bold", color=INK, va="center")
    if verdict is None:
        return 0
    badge = {"boxstyle": "round,pad=0.35", "facecolor": VERDICT_COLOURS[verdict.kind], "edgecolor": "none"}
    figure.text(
        1 - 0.24 / width,
        top,
        verdict.kind.value,
        fontsize=11,
        fontweight="bold",
        color="white",
        ha="right",
        va="center",
        bbox=badge,
    )
    lines = textwrap.wrap(verdict.evidence, max(20, int(13.5 * width)), max_lines=3, placeholder=" …")
    figure.text(0.19 / width, 1 - 0.42 / height, "\n".join(lines), fontsize=9, color=INK, va="top")
    return len(lines)


def _draw(axis: Axes, picture: _Picture, name: str) -> None:
    heading = "loss" if name == "loss" else (picture.curve.metric or "metric").replace("_", " ")
    # a fixed position needs no layout pass
    axis.set_title(heading, loc="left", y=1.02, fontsize=10, color=INK)
    axis.set_xlabel(picture.axis, fontsize=9, color=INK)
    drawn = []
    for side, colour, style in (("train", TRAIN, "--"), ("valid", VALID, "-")):
        epochs, values = _series(picture, f"{side}_{name}")
        if epochs:
            label = "training" if side == "train" else "validation"
            marker = "o" if len(epochs) <= 40 else ""
            smooth = _judged(epochs, values, name) if side == "valid" else None
            faint = {"alpha": 0.35, "linewidth": 0.9} if smooth else {"linewidth": 1.8, "label": label}
            axis.plot(epochs, values, style, marker=marker, color=colour, markersize=4.5, **faint)
            if smooth:
                axis.plot(epochs, smooth, "-", color=colour, linewidth=1.8, label=f"{label}, smoothed")
            drawn += values
    base = _value(picture.curve.baseline, f"valid_{name}")
    if base is not None and math.isfinite(base) and base <= _limit(drawn):
        axis.axhline(base, color=PALE, linestyle=":", linewidth=1.4, label="base model, validation")
        drawn.append(base)
    _mark(axis, picture, name)
    _frame(axis, picture, drawn)


def _mark(axis: Axes, picture: _Picture, name: str) -> None:
    """Mark the onset of overfitting or divergence, the time after it, and the kept evaluation."""
    verdict, last = picture.verdict, _last(picture)
    if verdict is not None and verdict.onset_epoch is not None:
        onset, colour = verdict.onset_epoch, VERDICT_COLOURS[verdict.kind]
        axis.axvline(onset, color=colour, linewidth=1.4, zorder=1, label=f"onset: {picture.axis} {onset:g}")
        if last > onset:
            axis.axvspan(onset, last, color=colour, alpha=0.09, linewidth=0, label=verdict.kind.value)
    if picture.kept is None:
        return
    epochs, values = _series(picture, f"valid_{name}")
    if picture.kept in epochs:
        value = values[epochs.index(picture.kept)]
        label = f"kept: {picture.axis} {picture.kept:g}"
        axis.plot([picture.kept], [value], "o", markersize=11, markerfacecolor="none", markeredgecolor=INK, label=label)


def _last(picture: _Picture) -> float:
    return max((point.epoch for point in picture.curve.points if math.isfinite(point.epoch)), default=0.0)


def _frame(axis: Axes, picture: _Picture, drawn: list[float]) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(PALE)
    axis.tick_params(colors=INK, labelsize=8.5, color=PALE)
    axis.grid(axis="y", color="#e8e8e8", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.yaxis.set_major_locator(MaxNLocator(nbins=5))
    last = _last(picture)
    axis.set_xlim(0, max(last, 1.0) * 1.04)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=last >= 2))
    limit = _limit(drawn)
    within = [value for value in drawn if value <= limit]
    if len(within) < len(drawn):
        room = max(0.08 * (max(within) - min(within)), 1e-9)
        axis.set_ylim(min(within) - room, max(within) + room)
        axis.text(0.99, 0.98, "higher values are cut off", transform=axis.transAxes, fontsize=8, ha="right", va="top")
    if not drawn:
        axis.text(0.5, 0.5, "nothing was measured", transform=axis.transAxes, ha="center", color=PALE)
        axis.set_yticks([])


def _limit(drawn: list[float]) -> float:
    """Return the largest value that a plot of `drawn` shows."""
    middle = sorted(drawn)[len(drawn) // 2] if drawn else 0.0
    return CLIPPED_ABOVE * abs(middle) if middle else math.inf


def _judged(epochs: list[float], values: list[float], name: str) -> tuple[float, ...] | None:
    """Return the smoothed values by which a long curve is judged; None for a short curve."""
    series = Series.from_values(epochs, values, SMOOTHED_FROM if name == "loss" else METRIC_SMOOTHED_FROM)
    return series.values if series is not None and series.deviations else None


def _series(picture: _Picture, name: str) -> tuple[list[float], list[float]]:
    """Return a measure's epochs and finite values, in the order of the epochs."""
    known = sorted(
        (point.epoch, value)
        for point in picture.curve.points
        if math.isfinite(point.epoch) and (value := _value(point, name)) is not None and math.isfinite(value)
    )
    return [epoch for epoch, _ in known], [value for _, value in known]


def _value(point: CurvePoint | None, name: str) -> float | None:
    found: float | None = getattr(point, name, None)
    return found
