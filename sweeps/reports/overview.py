"""The plots of a whole sweep: the search over time, its cost, and the objective by
hyperparameter.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from backends.contract import Scalar
from sweeps.reports.plots import INK, PALE, VERDICT_COLOURS
from sweeps.spec.objective import Objective
from sweeps.trials.trial import Trial
from sweeps.verdicts.verdict import VerdictKind

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
PANEL_INCHES = (3.6, 2.5)
MOST_PANELS = 9
"""The most panels drawn. Hyperparameters beyond them appear only in the table of trials."""

LOG_FROM = 5.0
"""An axis is logarithmic if its highest value is at least this many times its lowest."""


def overview_svg(trials: Sequence[Trial], objective: Objective) -> str:
    """Draw the trials that have a value as an SVG element; empty if there are none.

    The panels show the value by trial number with the best so far, by cost with the Pareto front,
    and by each hyperparameter that varies.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    scored = [trial for trial in trials if trial.values is not None and math.isfinite(trial.values[0])]
    if not scored:
        return ""
    names = _varied(scored)[: MOST_PANELS - 2]
    rows = -(-(2 + len(names)) // COLUMNS)
    figure = Figure(figsize=(COLUMNS * PANEL_INCHES[0], rows * PANEL_INCHES[1]), facecolor="white")
    FigureCanvasSVG(figure)
    panels: list[Axes] = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    _by_number(panels[0], scored, objective)
    _by_cost(panels[1], scored, objective)
    for panel, name in zip(panels[2:], names, strict=False):
        known = [trial for trial in scored if name in trial.hyperparameters]
        _points(panel, [trial.hyperparameters[name] for trial in known], known)
        panel.set_xlabel(name, fontsize=9, color=INK)
    for panel in panels[2 + len(names) :]:
        panel.set_visible(False)
    for row in range(rows):
        panels[row * COLUMNS].set_ylabel(objective.metric, fontsize=9, color=INK)
    _legend(figure, scored)
    image = io.StringIO()
    # the same trials give the same bytes
    with rc_context({"svg.hashsalt": "sweep", "svg.fonttype": "none"}):
        figure.savefig(image, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    drawn = image.getvalue()
    return drawn[drawn.index("<svg") :]


def costs(trials: Sequence[Trial]) -> tuple[list[float], str]:
    """Return each trial's cost and the unit: dollars if all are known, else tokens, else
    seconds.
    """
    usd = [trial.spend.usd for trial in trials if trial.spend.usd is not None]
    if len(usd) == len(trials):
        return usd, "dollars"
    if all(trial.spend.tokens for trial in trials):
        return [float(trial.spend.tokens) for trial in trials], "tokens"
    return [trial.spend.seconds for trial in trials], "seconds"


def front(trials: Sequence[Trial], objective: Objective) -> list[tuple[float, float]]:
    """Return cost and value of the trials on the Pareto front, the cheapest first."""
    found: list[tuple[float, float]] = []
    values = [_value(trial) for trial in trials]
    by_cost = sorted(zip(costs(trials)[0], values, strict=True), key=lambda pair: pair[0])
    for _, same in itertools.groupby(by_cost, key=lambda pair: pair[0]):
        best = functools.reduce(lambda one, other: other if objective.better(other[1], one[1]) else one, same)
        if not found or objective.better(best[1], found[-1][1]):
            found.append(best)
    return found


def _varied(trials: Sequence[Trial]) -> list[str]:
    names = dict.fromkeys(name for trial in trials for name in trial.hyperparameters)
    return [name for name in names if len({trial.hyperparameters.get(name) for trial in trials}) > 1]


def _value(trial: Trial) -> float:
    assert trial.values is not None
    return trial.values[0]


def _by_number(panel: Axes, trials: Sequence[Trial], objective: Objective) -> None:
    best: list[float] = []
    for trial in (ordered := sorted(trials, key=lambda trial: trial.number)):
        best.append(_value(trial) if not best or objective.better(_value(trial), best[-1]) else best[-1])
    numbers = [trial.number for trial in ordered]
    panel.step(numbers, best, where="post", color=PALE, linewidth=1.4, zorder=1)
    _points(panel, numbers, ordered)
    panel.set_xlabel("trial (line: best so far)", fontsize=9, color=INK)


def _by_cost(panel: Axes, trials: Sequence[Trial], objective: Objective) -> None:
    at, unit = costs(trials)
    panel.plot(*zip(*front(trials, objective), strict=True), color=PALE, linewidth=1.4, zorder=1)
    _points(panel, at, trials)
    panel.set_xlabel(f"{unit} (line: best for its cost)", fontsize=9, color=INK)


def _points(panel: Axes, at: Sequence[Scalar], trials: Sequence[Trial]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in at)
    places = [float(value) for value in at] if numeric else _categories(panel, at)
    for kind in (*VerdictKind, None):
        chosen = [
            index for index, trial in enumerate(trials) if (trial.verdict.kind if trial.verdict else None) is kind
        ]
        colour = VERDICT_COLOURS[kind] if kind else PALE
        panel.scatter(
            [places[index] for index in chosen], [_value(trials[index]) for index in chosen], s=26, color=colour,
            edgecolors="white", linewidths=0.5, zorder=2,
        )  # fmt: skip
    if numeric and min(places) > 0 and max(places) >= LOG_FROM * min(places) and len(set(places)) > 2:
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
    elif numeric:
        panel.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=all(place.is_integer() for place in places)))
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(PALE)
    panel.tick_params(colors=INK, labelsize=8, color=PALE)
    panel.grid(axis="y", color="#e8e8e8", linewidth=0.8)
    panel.set_axisbelow(True)


def _categories(panel: Axes, at: Sequence[Scalar]) -> list[float]:
    names = sorted({str(value) for value in at})
    panel.set_xticks(range(len(names)), names)
    panel.set_xlim(-0.5, len(names) - 0.5)
    return [float(names.index(str(value))) for value in at]


def _legend(figure: Figure, trials: Sequence[Trial]) -> None:
    from matplotlib.lines import Line2D

    kinds = [kind for kind in VerdictKind if any(trial.verdict and trial.verdict.kind is kind for trial in trials)]
    handles = [
        Line2D([], [], marker="o", linestyle="", color=VERDICT_COLOURS[kind], label=kind.value) for kind in kinds
    ]
    figure.subplots_adjust(left=0.07, right=0.98, top=0.97, bottom=0.2, wspace=0.25, hspace=0.45)
    if handles:
        below = (0.5, 0.02)  # the titles of the axes reach down to here where there is one row of panels
        figure.legend(
            handles=handles, loc="upper center", bbox_to_anchor=below, ncols=len(handles), frameon=False, fontsize=9
        )
