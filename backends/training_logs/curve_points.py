"""The points of a learning curve: rows of a position together, training values averaged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from backends.training_logs.errors import TrainingLogError
from backends.training_logs.learning_curve import CurvePoint
from backends.training_logs.log_table import LogTable
from backends.training_logs.parsed_rows import ParsedRow

LEAST_PER_CENT = 2.0
"""A metric in per cent exceeds this at least once; a smaller value above 1 is a mistake."""

ABOVE_ONE = 1.001
"""A metric above this is in per cent: rounding alone cannot carry a share so far above 1."""


def merged(rows: Sequence[tuple[float, ParsedRow]]) -> list[CurvePoint]:
    """Make one point of the rows at the same position, in the order of positions.

    Of two values, the later one wins.
    """
    points: dict[float, CurvePoint] = {}
    for count, (x, row) in enumerate(rows, 1):
        step = int(row.stamp.step) if row.stamp.step is not None else count if x else 0
        points[x] = replace(points.get(x, CurvePoint(x, step)), step=step, **row.values)
    return [points[x] for x in sorted(points)]


def with_averaged_training_values(points: Sequence[CurvePoint]) -> tuple[list[CurvePoint], list[str]]:
    """Move training values that were logged between evaluations to the evaluation that follows.

    An evaluation gets the mean over the later half of the values since the previous evaluation: the
    earlier half belongs to a less trained model. Values that are not finite keep their own points.
    """
    kept: list[CurvePoint] = []
    since_evaluation: list[CurvePoint] = []
    longest, has_points_between = 0, False
    for point in points:
        since_evaluation.append(point)
        if point.valid_loss is None and point.valid_metric is None:
            continue
        if len(since_evaluation) > 1:
            has_points_between = True
        longest = max(longest, len(since_evaluation))
        kept += [*_not_finite(since_evaluation[:-1]), _with_mean_training_values(point, since_evaluation)]
        since_evaluation = []
    if not kept or not (has_points_between or since_evaluation):
        return list(points), []
    kept += _not_finite(since_evaluation)
    # training went on long after the last evaluation
    if len(since_evaluation) >= max(2, longest / 2):
        kept.append(_with_mean_training_values(since_evaluation[-1], since_evaluation))
    kept = list({point.epoch: point for point in kept}.values())
    return kept, ["training values between two evaluations are averaged over their later half"]


def _not_finite(points: Iterable[CurvePoint]) -> list[CurvePoint]:
    return [point for point in points if not all(map(math.isfinite, point.values))]


def _with_mean_training_values(point: CurvePoint, since_evaluation: Sequence[CurvePoint]) -> CurvePoint:
    means: dict[str, Any] = {}
    for field in ("train_loss", "train_metric"):
        own_value = getattr(point, field)
        values = [getattr(logged, field) for logged in since_evaluation]
        finite = [value for value in values if value is not None and math.isfinite(value)]
        if (own_value is None or math.isfinite(own_value)) and finite:
            later = finite[len(finite) // 2 :]
            means[field] = later[0] if len(later) == 1 else math.fsum(later) / len(later)
    return replace(point, **means)


def as_shares(table: LogTable, points: list[CurvePoint], metric: str | None) -> tuple[list[CurvePoint], list[str]]:
    """Convert a metric in per cent to a share. Training and validation may differ in that."""
    in_per_cent = {field for field in ("train_metric", "valid_metric") if _is_in_per_cent(table, points, field, metric)}
    if not in_per_cent:
        return points, []

    def converted(point: CurvePoint) -> CurvePoint:
        known = {field: value for field in in_per_cent if (value := getattr(point, field)) is not None}
        shares: dict[str, Any] = {field: value / 100 for field, value in known.items()}
        return replace(point, **shares)

    of_side = "" if len(in_per_cent) == 2 else f" of {'training' if 'train_metric' in in_per_cent else 'validation'}"
    note = f"the {metric}{of_side} is in per cent, and is judged as a share"
    return [converted(point) for point in points], [note]


def _is_in_per_cent(table: LogTable, points: Sequence[CurvePoint], field: str, metric: str | None) -> bool:
    values = [value for point in points if (value := getattr(point, field)) is not None and math.isfinite(value)]
    if not values or (min(values) >= 0 and max(values) <= ABOVE_ONE):
        return False
    if min(values) < 0 or not LEAST_PER_CENT < max(values) <= 100 * ABOVE_ONE:
        outside = min(values) if min(values) < 0 else max(values)
        hint = "choose a metric between 0 and 1, or 0 and 100 per cent, with --metric, or leave the column out"
        raise TrainingLogError(table.name, f"the metric `{metric}` has the value {outside:g}, which is no share", hint)
    return True
