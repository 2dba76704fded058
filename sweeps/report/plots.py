"""The picture of a trial's learning curve: losses and metric by epoch, the base model, the kept epoch, the verdict."""

from __future__ import annotations

import io
import math
import textwrap
from typing import TYPE_CHECKING

from sweeps.record import Trial, VerdictKind

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
"""The metric that is drawn is the first of these that was measured."""

CLIPPED_ABOVE = 6.0
"""A loss so many times the median of the curve's losses leaves the picture: else nothing but it would be seen."""


def learning_curve_png(trial: Trial, title: str) -> bytes:
    """Draw the evaluations of a trial as a PNG image of 960 x 420 pixels; an empty curve says that it is empty."""
    # The object interface only: pyplot keeps figures in a global state, which is neither thread-safe nor freed.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.2), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    metric = next((each for each in METRICS if _series(trial, f"valid_{each}")[0]), None)
    names = ["loss"] if metric is None else ["loss", metric]
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        _draw(axis, trial, name)
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False, fontsize=9)
    figure.subplots_adjust(left=0.075, right=0.975, top=0.76, bottom=0.2, wspace=0.2)
    _head(figure, trial, title)
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": None})
    return image.getvalue()


def _head(figure: Figure, trial: Trial, title: str) -> None:
    figure.text(0.02, 0.945, title, fontsize=13, fontweight="bold", color=INK, va="center")
    verdict = trial.verdict
    if verdict is None:
        return
    badge = {"boxstyle": "round,pad=0.35", "facecolor": VERDICT_COLOURS[verdict.kind], "edgecolor": "none"}
    figure.text(
        0.975,
        0.945,
        verdict.kind.value,
        fontsize=11,
        fontweight="bold",
        color="white",
        ha="right",
        va="center",
        bbox=badge,
    )
    evidence = textwrap.shorten(verdict.evidence, 260, placeholder=" …")
    figure.text(0.02, 0.905, textwrap.fill(evidence, 132), fontsize=9, color=INK, va="top")


def _draw(axis: Axes, trial: Trial, name: str) -> None:
    axis.set_title(name.replace("_", " "), loc="left", y=1.02, fontsize=10, color=INK)  # a fixed place costs no layout
    axis.set_xlabel("epoch", fontsize=9, color=INK)
    drawn = []
    for side, colour, style in (("train", TRAIN, "--"), ("valid", VALID, "-")):
        epochs, values = _series(trial, f"{side}_{name}")
        if epochs:
            label = "training" if side == "train" else "validation"
            marker = "o" if len(epochs) <= 40 else ""
            axis.plot(epochs, values, style, marker=marker, color=colour, markersize=4.5, linewidth=1.8, label=label)
            drawn += values
    base = next((each.values.get(f"valid_{name}") for each in trial.curve if each.step == 0), None)
    if base is not None and math.isfinite(base) and _within(base, drawn):
        axis.axhline(base, color=PALE, linestyle=":", linewidth=1.4, label="base model, validation")
        drawn.append(base)
    _mark(axis, trial, name)
    _frame(axis, trial, drawn)


def _mark(axis: Axes, trial: Trial, name: str) -> None:
    verdict = trial.verdict
    if verdict is not None and verdict.onset_epoch is not None:
        last = max((each.epoch for each in trial.curve), default=verdict.onset_epoch)
        colour = VERDICT_COLOURS[verdict.kind]
        if last > verdict.onset_epoch:
            axis.axvspan(verdict.onset_epoch, last, color=colour, alpha=0.09, linewidth=0, label=verdict.kind.value)
    if trial.best_epoch is None:
        return
    epochs, values = _series(trial, f"valid_{name}")
    if trial.best_epoch in epochs:
        value = values[epochs.index(trial.best_epoch)]
        label = f"kept: epoch {trial.best_epoch:g}"
        axis.plot(
            [trial.best_epoch], [value], "o", markersize=11, markerfacecolor="none", markeredgecolor=INK, label=label
        )


def _frame(axis: Axes, trial: Trial, drawn: list[float]) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(PALE)
    axis.tick_params(colors=INK, labelsize=8.5, color=PALE)
    axis.grid(axis="y", color="#e8e8e8", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.yaxis.set_major_locator(MaxNLocator(nbins=5))
    last = max((each.epoch for each in trial.curve), default=0.0)
    axis.set_xlim(0, max(last, 1.0) * 1.04)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=last >= 2))
    within = [each for each in drawn if _within(each, drawn)]
    if len(within) < len(drawn):
        room = max(0.08 * (max(within) - min(within)), 1e-9)
        axis.set_ylim(min(within) - room, max(within) + room)
        axis.text(0.99, 0.98, "higher values are cut off", transform=axis.transAxes, fontsize=8, ha="right", va="top")
    if not drawn:
        axis.text(0.5, 0.5, "nothing was measured", transform=axis.transAxes, ha="center", color=PALE)
        axis.set_yticks([])


def _within(value: float, drawn: list[float]) -> bool:
    """Whether a value fits into a picture of `drawn`."""
    if not drawn:
        return True
    middle = sorted(drawn)[len(drawn) // 2]
    return value <= CLIPPED_ABOVE * abs(middle) or middle == 0


def _series(trial: Trial, name: str) -> tuple[list[float], list[float]]:
    """The epochs and values of a measure; the base model's own and what is not finite stay away."""
    known = [
        (each.epoch, each.values[name])
        for each in trial.curve
        if each.step != 0 and math.isfinite(each.epoch) and math.isfinite(each.values.get(name, math.nan))
    ]
    return [epoch for epoch, _ in known], [value for _, value in known]
