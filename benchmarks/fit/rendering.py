"""Rendering of a learning curve as a few lines of text, for inspecting misjudged curves."""

from __future__ import annotations

import math
from collections.abc import Sequence

from backends.training_logs.learning_curve import CurvePoint
from benchmarks.fit.records import Record

COLUMNS = 12
_BLOCKS = "▁▂▃▄▅▆▇█"
_SERIES = ("train_loss", "valid_loss", "train_metric", "valid_metric")


def render(record: Record) -> str:
    """Return the visible part of a run and the oracle's series, one line per series, the value
    before training first.
    """
    curve, oracle = record.curve, record.oracle
    sizes = f"train {curve.train_examples or '?'}, valid {curve.valid_examples or '?'}"
    known = f"classes {curve.classes or '?'}, chance {_number(curve.chance)}, best by {curve.best_by}, {curve.ended}"
    lines = [f"  {len(curve.points)} evaluations; {sizes}; {known}", f"  {dict(record.settings)}"]
    columns = _spread_indices(len(curve.points))
    epochs = " ".join(f"{_number(curve.points[at].epoch):>7}" for at in columns)
    lines.append(f"  {'epoch':13}{'0':>7} | {epochs}")
    for name in _SERIES:
        values = [getattr(point, name) for point in curve.points]
        if any(value is not None for value in values):
            lines.append(_line(name, _value_of(curve.baseline, name), values))
    lines.append(_line("oracle loss", oracle.base_loss, oracle.loss, oracle.later_loss))
    if oracle.metric is not None:
        lines.append(_line("oracle metric", oracle.base_metric, oracle.metric, oracle.later_metric or ()))
    return "\n".join(lines)


def _value_of(point: CurvePoint | None, name: str) -> float | None:
    return None if point is None else getattr(point, name)


def _line(name: str, before: float | None, values: Sequence[float | None], later: Sequence[float] = ()) -> str:
    numbers = " ".join(f"{_number(values[at]):>7}" for at in _spread_indices(len(values)))
    after = f"  later {' '.join(_number(later[at]) for at in _spread_indices(len(later), 3))}" if later else ""
    return f"  {name:13}{_number(before):>7} | {numbers}  {sparkline(values)}{after}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _spread_indices(size: int, columns: int = COLUMNS) -> list[int]:
    """Return evenly spread indices, including the first and the last."""
    if size <= columns:
        return list(range(size))
    return sorted({round(at * (size - 1) / (columns - 1)) for at in range(columns)})


def sparkline(values: Sequence[float | None], width: int = 40) -> str:
    """Return values as a line of blocks, low to high.

    `!` is a non-finite value, a blank an unknown one.
    """
    selected = [values[at] for at in _spread_indices(len(values), width)]
    finite = [value for value in selected if value is not None and math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)

    def block(value: float | None) -> str:
        if value is None:
            return " "
        if not math.isfinite(value):
            return "!"
        return _BLOCKS[min(7, int(8 * (value - low) / (high - low)))] if high > low else _BLOCKS[0]

    return "".join(map(block, selected))
