"""The plan and the result of a scale run as rich renderables. Prints nothing."""

from __future__ import annotations

import math
from collections import Counter

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweeps.cli import data_view, plan_view
from sweeps.reports.formatting import clock, in_words
from sweeps.scaling.curves import Measure, MeasuredPoint
from sweeps.scaling.plan import ScalePlan, ScalePoint
from sweeps.scaling.result import ScaleResult

MAX_FINDINGS = 6


def plan(planned: ScalePlan) -> RenderableType:
    """Show the runs of each point, their hyperparameters, and what they take."""
    table = _table("model", "examples", "runs", *(["at most"] if _is_priced(planned) else []))
    has_times = all(point.plan.estimate is not None for point in planned.points)
    if has_times:
        table.add_column("about", justify="right")
    table.add_column("space" if planned.request.searches else "hyperparameters", overflow="fold")
    for point in planned.points:
        cells = [point.choice.label, f"{point.size:,}", str(point.trainings)]
        cells += [_cost(point)] if _is_priced(planned) else []
        cells += [_time(point)] if has_times else []
        searched = ", ".join(f"{each.name} {each.text}" for each in point.plan.space)
        table.add_row(*map(Text, (*cells, in_words(point.hyperparameters) or searched)))
    runs = sum(point.trainings for point in planned.points)
    lines = [f"{len(planned.points)} points, {runs} runs; limits: {plan_view.limits(planned.budget)}"]
    if has_times and (seconds := _seconds(planned)) is not None:
        lines.append(f"about {clock(seconds)} in all; points that are trained already take no time again")
        if planned.budget.hours is not None and seconds > planned.budget.hours * 3600:
            lines.append(
                f"that is more than budget.hours: the last points would be missing. Allow {seconds / 3600:.2g}."
            )
    found = list(data_view.findings(planned.findings))[:MAX_FINDINGS]
    return Group(data_view.data_line(planned.points[-1].plan), *found, Text(), table, *map(Text, lines))


def result(measured: ScaleResult) -> RenderableType:
    """Show the mean of each point with its interval, and what the curves say."""
    metric = measured.measure.metric
    has_test = any(point.test is not None for curve in measured.curves for point in curve.points)
    test_metric = next((point.test_metric for curve in measured.curves for point in curve.points if point.test), "")
    table = _table("model", "examples", metric, *([f"test {test_metric}"] if has_test else []))
    table.add_column("runs", overflow="fold")
    for curve in measured.curves:
        for number, point in enumerate(curve.points):
            label = curve.label if number == 0 else ""
            cells = [label, f"{point.size:,}", _mean(point, measured.measure)]
            cells += ["" if point.test is None else f"{point.test[0]:.3f}"] if has_test else []
            table.add_row(*map(Text, (*cells, point.missing or _runs(point))))
    notes = []
    if any(point.half_width is not None for curve in measured.curves for point in curve.points):
        notes.append("±: 95 % interval of the mean over the seeds, all on the same subset")
    if any(measured.measure.is_guessed(point.mean) for curve in measured.curves for point in curve.measured):
        guess = measured.measure.guess
        assert guess is not None
        notes.append(f"?: no better than always answering the most frequent label ({guess:.3f})")
    if (baseline := measured.measure.baseline) is not None:
        notes.append(f"to beat: {baseline:.3f} ({measured.measure.baseline_name})")
    said = [Text(f"- {sentence}") for sentence in measured.sentences]
    end = [Text(f"The curves are not complete: {measured.end} the last points.")] if measured.end else []
    return Group(table, *(Text(note, style="dim") for note in notes), Text(), *said, *end)


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    return table


def _runs(point: MeasuredPoint) -> str:
    counts = Counter(point.verdicts)
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common()) or str(len(point.values))


def _mean(point: MeasuredPoint, measure: Measure) -> str:
    if not point.values:
        return "-"
    around = "" if point.half_width is None else f" ±{point.half_width:.3f}"
    mark = "?" if measure.is_guessed(point.mean) else ""
    return f"{point.mean:.3f}{mark}{around}"


def _is_priced(planned: ScalePlan) -> bool:
    return any(point.most.usd for point in planned.points)


def _cost(point: ScalePoint) -> str:
    return f"${point.most.usd:,.2f}"


def _time(point: ScalePoint) -> str:
    seconds = point.plan.seconds_without_early_stopping
    return "?" if seconds is None else clock(seconds)


def _seconds(planned: ScalePlan) -> float | None:
    seconds = [point.plan.seconds_without_early_stopping for point in planned.points]
    known = [each for each in seconds if each is not None]
    return math.fsum(known) if len(known) == len(seconds) else None
