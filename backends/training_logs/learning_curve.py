"""A learning curve: the evaluations of a run, and what else is needed to judge them. Plain values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, TypeAlias

from backends.contract import Measured

Ended: TypeAlias = Literal["complete", "stopped", "failed", "diverged"]


@dataclass(frozen=True)
class CurvePoint:
    """One evaluation after `step` steps, at `epoch` (1.5 is the middle of the second epoch). None is not known."""

    epoch: float
    step: int
    train_loss: float | None = None
    valid_loss: float | None = None
    train_metric: float | None = None
    valid_metric: float | None = None

    @property
    def values(self) -> tuple[float, ...]:
        """What is known."""
        every = (self.train_loss, self.valid_loss, self.train_metric, self.valid_metric)
        return tuple(each for each in every if each is not None)


@dataclass(frozen=True)
class LoopReport:
    """What the training loop reported on its way: the mean loss of its last batches, its gradient's norm, its rate."""

    epoch: float
    loss: float
    grad_norm: float | None = None
    rate: float | None = None


@dataclass(frozen=True)
class LearningCurve:
    """The evaluations of a run, and what is needed to judge them.

    `baseline` is the base model before training. `metric` names the metric of the points. `train_examples` and
    `valid_examples` say how many examples the two sides were *evaluated* on. `chance` is the metric of a model that
    knows nothing but the labels' frequencies (the share of the commonest); without it, one of `classes`. `best_by`
    says which side decides about the epoch to keep. A run that found its own loss not finite has `ended` "diverged".
    `running` is what the training loop reported between the evaluations, in order, where anything is known of it.
    """

    points: tuple[CurvePoint, ...]
    baseline: CurvePoint | None = None
    metric: str | None = None
    train_examples: int | None = None
    valid_examples: int | None = None
    classes: int | None = None
    chance: float | None = None
    best_by: Literal["metric", "loss"] = "metric"
    ended: Ended = "complete"
    running: tuple[LoopReport, ...] = ()

    @classmethod
    def from_measurements(
        cls,
        measured: Sequence[Measured],
        *,
        metric: str | None,
        train_examples: int | None = None,
        valid_examples: int | None = None,
        classes: int | None = None,
        chance: float | None = None,
        best_by: Literal["metric", "loss"] = "metric",
        ended: Ended = "complete",
    ) -> Self:
        """Build a curve from a run's measurements, in any order.

        `metric` may carry a prefix (`valid_accuracy`); a loss is no metric. The training loop's own values (scope
        `step`) are kept apart; one that is not finite counts as a training loss.
        """
        name = (metric or "").removeprefix("valid_").removeprefix("train_")
        name = "" if name == "loss" else name
        points, running = [], []
        for each in measured:
            values = each.values
            if each.scope == "evaluation":
                known = [values.get(key) for key in ("train_loss", "valid_loss")]
                known += [values.get(f"{side}_{name}") for side in ("train", "valid")] if name else [None, None]
                points.append(CurvePoint(each.epoch, each.step, *known))
            elif not math.isfinite(values.get("batch_loss", 0.0)):
                points.append(CurvePoint(each.epoch, each.step, train_loss=values["batch_loss"]))
            elif "batch_loss" in values:
                running.append(
                    LoopReport(each.epoch, values["batch_loss"], values.get("grad_norm"), values.get("learning_rate"))
                )
        baseline = next((each for each in points if each.step == 0), None)
        return cls(
            points=tuple(each for each in points if each.step != 0),
            baseline=baseline,
            metric=name or None,
            train_examples=train_examples,
            valid_examples=valid_examples,
            classes=classes,
            chance=chance,
            best_by=best_by,
            ended=ended,
            running=tuple(sorted(running, key=lambda each: each.epoch)),
        )
