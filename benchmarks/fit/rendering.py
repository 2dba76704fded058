"""A learning curve as a few lines of text, for looking at what a judge got wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence

from backends.training_logs.learning_curve import CurvePoint
from benchmarks.fit.records import Record

COLUMNS = 12
_BLOCKS = "▁▂▃▄▅▆▇█"
_SERIES = ("train_loss", "valid_loss", "train_metric", "valid_metric")


def rendered(record: Record) -> str:
    """Return what is shown of a run and what the oracle saw, one line a series, the value before training first."""
    curve, oracle = record.curve, record.oracle
    sizes = f"train {curve.train_examples or '?'}, valid {curve.valid_examples or '?'}"
    known = f"classes {curve.classes or '?'}, chance {_number(curve.chance)}, best by {curve.best_by}, {curve.ended}"
    lines = [f"  {len(curve.points)} evaluations; {sizes}; {known}", f"  {dict(record.settings)}"]
    shown = _chosen(len(curve.points))
    epochs = " ".join(f"{_number(curve.points[at].epoch):>7}" for at in shown)
    lines.append(f"  {'epoch':13}{'0':>7} | {epochs}")
    for name in _SERIES:
        values = [getattr(each, name) for each in curve.points]
        if any(each is not None for each in values):
            lines.append(_line(name, _of(curve.baseline, name), values))
    lines.append(_line("oracle loss", oracle.base_loss, oracle.loss, oracle.later_loss))
    if oracle.metric is not None:
        lines.append(_line("oracle metric", oracle.base_metric, oracle.metric, oracle.later_metric or ()))
    return "\n".join(lines)


def _of(point: CurvePoint | None, name: str) -> float | None:
    return None if point is None else getattr(point, name)


def _line(name: str, before: float | None, values: Sequence[float | None], later: Sequence[float] = ()) -> str:
    numbers = " ".join(f"{_number(values[at]):>7}" for at in _chosen(len(values)))
    after = f"  later {' '.join(_number(later[at]) for at in _chosen(len(later), 3))}" if later else ""
    return f"  {name:13}{_number(before):>7} | {numbers}  {spark(values)}{after}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _chosen(size: int, columns: int = COLUMNS) -> list[int]:
    """Return evenly spread positions, the first and the last among them."""
    if size <= columns:
        return list(range(size))
    return sorted({round(at * (size - 1) / (columns - 1)) for at in range(columns)})


def spark(values: Sequence[float | None], width: int = 40) -> str:
    """Return values as a line of blocks, low to high; `!` is a value that is not finite, a blank one not known."""
    picked = [values[at] for at in _chosen(len(values), width)]
    finite = [each for each in picked if each is not None and math.isfinite(each)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)

    def block(value: float | None) -> str:
        if value is None:
            return " "
        if not math.isfinite(value):
            return "!"
        return _BLOCKS[min(7, int(8 * (value - low) / (high - low)))] if high > low else _BLOCKS[0]

    return "".join(map(block, picked))
