"""Summary of an oracle's series: rise of the loss, last fall, and gain from more training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from benchmarks.fit.records import Oracle
from benchmarks.fit.tracing import last_stretch

# More training helps if a continuation is better by at least BETTER. It does not help if the
# continuation is better by at most SAME.
BETTER, BETTER_METRIC = 0.15, 0.04
SAME, SAME_OF_PRIOR, SAME_METRIC = 0.05, 0.02, 0.02
# The loss is still falling if the last quarter made this share of the whole improvement, or fell by
# this share of the final loss.
FALLING_SHARE, FALLING = 0.08, 0.05
# A held-out metric is level if it ends at most this much below its best.
LEVEL_METRIC = 0.015
SURE = 4.0
"""The number of the oracle's standard errors that makes an effect certain."""


class OracleSummary:
    """An oracle's series, smoothed by a running median if there are enough evaluations for one."""

    def __init__(self, oracle: Oracle) -> None:
        self.oracle, self.n = oracle, len(oracle.loss)
        self.loss, self.train_loss = _smooth(oracle.loss), _smooth(oracle.train_loss)
        self.metric = _smooth(oracle.metric) if oracle.metric else None
        self.train_metric = _smooth(oracle.train_metric) if oracle.train_metric else None
        self.prior = oracle.prior_loss
        self.lowest_at = min(range(self.n), key=self.loss.__getitem__)
        self.lowest, self.base_is_lowest = self.loss[self.lowest_at], oracle.base_loss < self.loss[self.lowest_at]
        if self.base_is_lowest:
            self.lowest = oracle.base_loss
        self.rise = self.loss[-1] - self.lowest
        self.rise_error = oracle.spread_rise / math.sqrt(oracle.examples)

    @property
    def onset(self) -> int:
        """The first evaluation at which the held-out metric is within one point of its best."""
        series = self.metric or self.loss
        return next(i for i, value in enumerate(series) if value >= max(series) - 0.01)

    @property
    def gap_growth(self) -> float:
        """The growth of the gap between training and held-out metric since `onset`."""
        if self.metric is None or self.train_metric is None:
            return 0.0
        at = self.onset
        return (self.train_metric[-1] - self.train_metric[at]) - (self.metric[-1] - self.metric[at])

    def metric_error(self, examples: int | None = None) -> float:
        """Return the standard error of the final metric on `examples` examples, by default as many
        as the oracle has.
        """
        share = self.metric[-1] if self.metric else 0.5
        return math.sqrt(max(share * (1 - share), 0.01) / (examples or self.oracle.examples))

    def reference(self, chance: float | None) -> float:
        """Return the metric of a model that has learnt nothing."""
        return max(chance or 0.0, self.oracle.base_metric or 0.0)

    @property
    def last_fall(self) -> float:
        """The fall of the held-out loss over the last quarter."""
        return self.loss[last_stretch(self.n)] - self.loss[-1]

    @property
    def is_falling(self) -> bool:
        """Whether the held-out loss was still clearly falling at the end of the curve."""
        start = min(self.oracle.base_loss, max(self.prior, self.loss[0]))
        improvement = start - self.loss[-1]
        fall = self.last_fall
        error = self.oracle.spread_last / math.sqrt(self.oracle.examples)
        return (
            fall > SURE * error
            and fall > 0
            and (fall >= FALLING * self.loss[-1] or fall >= FALLING_SHARE * improvement)
        )

    @property
    def later_is_better(self) -> bool:
        """Whether the continuation was clearly better."""
        if not self.oracle.later_loss:
            return False
        by_loss = min(self.oracle.later_loss) <= (1 - BETTER) * self.loss[-1]
        by_loss = by_loss and self.loss[-1] - min(self.oracle.later_loss) > 2 * SAME_OF_PRIOR * self.prior
        if self.metric is None or not self.oracle.later_metric:
            return by_loss
        gain = max(self.oracle.later_metric) - self.metric[-1]
        return gain >= BETTER_METRIC + 2 * self.metric_error() or (by_loss and gain > -LEVEL_METRIC)

    @property
    def later_is_same(self) -> bool:
        """Whether the continuation was not noticeably better."""
        if not self.oracle.later_loss:
            return False
        if self.loss[-1] - min(self.oracle.later_loss) > max(SAME * self.loss[-1], SAME_OF_PRIOR * self.prior):
            return False
        later = sorted(self.oracle.later_metric or (), reverse=True)[:3]
        return self.metric is None or not later or median(later) - self.metric[-1] <= SAME_METRIC


def _smooth(series: Sequence[float]) -> list[float]:
    radius = len(series) // 30
    return [median(series[max(0, i - radius) : i + radius + 1]) for i in range(len(series))]
