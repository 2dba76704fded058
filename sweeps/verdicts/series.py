"""A learning curve: what was measured of a run, epoch by epoch, in the form in which it is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Self

from backends.training_logs.learning_curve import CurvePoint

if TYPE_CHECKING:
    pass

SMOOTHED_FROM = 12
"""Curves of so many evaluations are smoothed by a running median; shorter ones have no point to spare."""


@dataclass(frozen=True)
class Series:
    """One measure over the epochs, where it is known; smoothed if there are enough points. Not empty."""

    epochs: tuple[float, ...]
    values: tuple[float, ...]
    roughness: float

    @classmethod
    def of(cls, points: Sequence[CurvePoint], measure: Callable[[CurvePoint], float | None]) -> Self | None:
        known = [(each.epoch, value) for each in points if (value := measure(each)) is not None]
        if not known:
            return None
        epochs, raw = tuple(epoch for epoch, _ in known), tuple(value for _, value in known)
        if len(raw) < SMOOTHED_FROM:
            return cls(epochs, raw, 0.0)
        reach = max(1, min(5, len(raw) // 20))
        smooth = tuple(median(raw[max(0, at - reach) : at + reach + 1]) for at in range(len(raw)))
        return cls(epochs, smooth, median(abs(one - other) for one, other in zip(raw, smooth, strict=True)))

    @property
    def last(self) -> float:
        return self.values[-1]

    def at(self, epoch: float) -> float:
        """The value at `epoch`, on the straight line between its neighbours; outside, the first or the last one."""
        after = next((n for n, each in enumerate(self.epochs) if each >= epoch), None)
        if after is None:
            return self.values[-1]
        if after == 0 or self.epochs[after] == epoch:
            return self.values[after]
        (x, y), (right, top) = ((self.epochs[n], self.values[n]) for n in (after - 1, after))
        return y + (top - y) * (epoch - x) / (right - x)

    def where(self, best: Callable[[Sequence[float]], float]) -> float:
        """The first epoch that has the best value."""
        return self.epochs[self.values.index(best(self.values))]
