"""A learning curve: the evaluations of a run, and the facts that a judge of the curve needs.

Plain values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, TypeAlias

from backends.contract import Measured

RunEnd: TypeAlias = Literal["complete", "stopped", "failed", "diverged"]
"""How a run ended. `diverged`: the training program itself found a loss that is not finite."""


@dataclass(frozen=True)
class MetricScale:
    """What a metric of 0 and one of 1 on the curve mean in the metric's own unit.

    Where lower is better, `zero` is above `one`.
    """

    zero: float = 0.0
    one: float = 1.0

    @property
    def lower_is_better(self) -> bool:
        """Whether the metric itself falls while the curve rises."""
        return self.zero > self.one

    def share(self, value: float) -> float:
        """Return a value of the metric as a share of its range, higher is better."""
        return (value - self.zero) / (self.one - self.zero)

    def value(self, share: float) -> float:
        """Return a share of the range as a value of the metric."""
        return self.zero + share * (self.one - self.zero)


@dataclass(frozen=True)
class CurvePoint:
    """One evaluation after `step` steps, at `epoch` (1.5 is the middle of the second epoch).

    None means unknown.
    """

    epoch: float
    step: int
    train_loss: float | None = None
    valid_loss: float | None = None
    train_metric: float | None = None
    valid_metric: float | None = None

    @property
    def values(self) -> tuple[float, ...]:
        """The known values."""
        values = (self.train_loss, self.valid_loss, self.train_metric, self.valid_metric)
        return tuple(value for value in values if value is not None)


@dataclass(frozen=True)
class LoopReport:
    """A report of the training loop. `loss` is the mean over the last batches."""

    epoch: float
    loss: float
    grad_norm: float | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class LearningCurve:
    """The evaluations of a run, and the facts that a judge of the curve needs.

    `points` are in order and do not include `baseline`, the score of the base model before
    training. `metric` names the metric of the points, which is a share of its range, and
    `metric_scale` says what it is in its own unit. `train_examples` and `valid_examples` say how
    many examples each side was *evaluated* on, and `metric_examples` on how many validation
    examples the metric was measured, if not on all. `chance` is the metric of a model that knows
    nothing but the frequencies of the labels, which is the share of the most frequent one; if it is
    None, it is one in `classes`. `best_by` says which side decides which epoch to keep.
    `loop_reports` are the reports of the training loop between the evaluations, in order; empty
    if they are unknown.
    """

    points: tuple[CurvePoint, ...]
    baseline: CurvePoint | None = None
    metric: str | None = None
    train_examples: int | None = None
    valid_examples: int | None = None
    classes: int | None = None
    chance: float | None = None
    best_by: Literal["metric", "loss"] = "metric"
    ended: RunEnd = "complete"
    loop_reports: tuple[LoopReport, ...] = ()
    metric_scale: MetricScale = MetricScale()
    metric_examples: int | None = None

    @classmethod
    def from_measurements(
        cls,
        measurements: Sequence[Measured],
        *,
        metric: str | None,
        train_examples: int | None = None,
        valid_examples: int | None = None,
        classes: int | None = None,
        chance: float | None = None,
        best_by: Literal["metric", "loss"] = "metric",
        ended: RunEnd = "complete",
        metric_scale: MetricScale = MetricScale(),
        metric_examples: int | None = None,
    ) -> Self:
        """Build a curve from a run's measurements. The points keep the order of the measurements.

        The measurements have the metric in its own unit. `metric` may carry a prefix
        (`valid_accuracy`); a loss does not count as a metric. A
        measurement of scope `step` becomes a loop report, or a point with that training loss if
        its `batch_loss` is not finite.
        """
        name = (metric or "").removeprefix("valid_").removeprefix("train_")
        name = "" if name == "loss" else name
        points, loop_reports = [], []
        for measured in measurements:
            values = measured.values
            if measured.scope == "evaluation":
                known = [values.get(key) for key in ("train_loss", "valid_loss")]
                in_own_unit = [values.get(f"{side}_{name}") if name else None for side in ("train", "valid")]
                known += [None if value is None else metric_scale.share(value) for value in in_own_unit]
                points.append(CurvePoint(measured.epoch, measured.step, *known))
                continue
            if "batch_loss" not in values:
                continue
            loss = values["batch_loss"]
            if math.isfinite(loss):
                loop_reports.append(
                    LoopReport(measured.epoch, loss, values.get("grad_norm"), values.get("learning_rate"))
                )
            else:
                points.append(CurvePoint(measured.epoch, measured.step, train_loss=loss))
        return cls(
            points=tuple(point for point in points if point.step != 0),
            baseline=next((point for point in points if point.step == 0), None),
            metric=name or None,
            train_examples=train_examples,
            valid_examples=valid_examples,
            classes=classes,
            chance=chance,
            best_by=best_by,
            ended=ended,
            loop_reports=tuple(sorted(loop_reports, key=lambda report: report.epoch)),
            metric_scale=metric_scale,
            metric_examples=metric_examples,
        )
