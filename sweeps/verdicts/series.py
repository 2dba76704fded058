"""One measure of a learning curve by epoch, smoothed if it is long."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Self

from backends.training_logs.learning_curve import CurvePoint

SMOOTHED_FROM, METRIC_SMOOTHED_FROM = 16, 12
"""From this many evaluations on, a running median smooths a loss, and a metric; shorter curves have
no point to spare.

A metric is noisier: unsmoothed, one lucky evaluation of twelve hides that the metric is level
(benchmarks/fit/FREE_TEXT.md). A loss of twelve evaluations must still show a rise at the last
one."""

LOCAL = 8
"""How many of the latest evaluations show how rough a curve is now, at least."""


@dataclass(frozen=True)
class Series:
    """The known values of one measure, by epoch. Never empty.

    `roughness` is the median distance between the raw and the smoothed values; 0 for a short
    series, which is not smoothed. `deviations` are these distances, empty for a short series.
    """

    epochs: tuple[float, ...]
    values: tuple[float, ...]
    roughness: float
    deviations: tuple[float, ...] = ()

    @classmethod
    def of(
        cls,
        points: Sequence[CurvePoint],
        measure: Callable[[CurvePoint], float | None],
        smoothed_from: int = SMOOTHED_FROM,
    ) -> Self | None:
        """Build the series of a measure from points in epoch order; None if no value is known."""
        known = [(point.epoch, value) for point in points if (value := measure(point)) is not None]
        return cls.from_values([epoch for epoch, _ in known], [value for _, value in known], smoothed_from)

    @classmethod
    def from_values(
        cls, at: Sequence[float], known: Sequence[float], smoothed_from: int = SMOOTHED_FROM
    ) -> Self | None:
        """Build the series of values at these epochs, in order; None if there are none.

        A running median smooths `smoothed_from` values or more.
        """
        if not known:
            return None
        epochs, raw = tuple(at), tuple(known)
        if len(raw) < smoothed_from:
            return cls(epochs, raw, 0.0)
        reach = max(1, min(5, len(raw) // 20))
        smooth = tuple(median(raw[max(0, index - reach) : index + reach + 1]) for index in range(len(raw)))
        deviations = tuple(abs(raw_value - smoothed) for raw_value, smoothed in zip(raw, smooth, strict=True))
        return cls(epochs, smooth, median(deviations), deviations)

    def roughness_since(self, epoch: float) -> float:
        """Return the roughness from `epoch` on, over the last `LOCAL` evaluations or more.

        A curve may be rough for a hundred epochs and calm afterwards.
        """
        first = min(bisect.bisect_left(self.epochs, epoch), len(self.epochs) - LOCAL)
        return median(self.deviations[max(0, first) :]) if self.deviations else 0.0

    @property
    def last(self) -> float:
        """The last value."""
        return self.values[-1]

    def at(self, epoch: float) -> float:
        """Interpolate linearly at `epoch`; outside the series, return its first or last value."""
        after = bisect.bisect_left(self.epochs, epoch)
        if after == len(self.epochs):
            return self.values[-1]
        if after == 0 or self.epochs[after] == epoch:
            return self.values[after]
        left_epoch, left = self.epochs[after - 1], self.values[after - 1]
        right_epoch, right = self.epochs[after], self.values[after]
        return left + (right - left) * (epoch - left_epoch) / (right_epoch - left_epoch)

    def epoch_of(self, best: Callable[[Sequence[float]], float]) -> float:
        """Return the first epoch with the best value; `best` is `min` or `max`."""
        return self.epochs[self.values.index(best(self.values))]


def without_interpolated(points: Sequence[CurvePoint]) -> list[CurvePoint]:
    """Leave out points on the line between their neighbours: filled-in values, no evaluations."""
    kept: list[CurvePoint] = []
    for index, point in enumerate(points):
        if 0 < index < len(points) - 1 and _is_interpolated(kept[-1], point, points[index + 1]):
            continue
        kept.append(point)
    return kept


def _is_interpolated(before: CurvePoint, point: CurvePoint, after: CurvePoint) -> bool:
    if after.epoch <= before.epoch:
        return False
    share = (point.epoch - before.epoch) / (after.epoch - before.epoch)
    for name in ("train_loss", "valid_loss", "train_metric", "valid_metric"):
        left, own, right = (getattr(neighbour, name) for neighbour in (before, point, after))
        if left is None and own is None and right is None:
            continue
        if left is None or own is None or right is None:
            return False
        if not math.isclose(own, left + (right - left) * share, rel_tol=1e-9, abs_tol=0.0):
            return False
    return True
