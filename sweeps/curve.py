"""A learning curve: what was measured of a run, epoch by epoch, in the form in which it is judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Literal, Protocol, Self, TypeAlias

from backends.contract import Evaluation, Measured
from sweeps.record import Objective, Trial, TrialState

if TYPE_CHECKING:
    from sweeps.data.prepare import PreparedData

SMOOTHED_FROM = 12
"""Curves of so many evaluations are smoothed by a running median; shorter ones have no point to spare."""

Ended: TypeAlias = Literal["complete", "stopped", "failed", "diverged"]

_ENDED: Mapping[TrialState, Ended] = {
    TrialState.RUNNING: "stopped",
    TrialState.COMPLETE: "complete",
    TrialState.STOPPED: "stopped",
    TrialState.FAILED: "failed",
}


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
class Running:
    """What the training loop reported on its way: the mean loss of its last batches, its gradient's norm, its rate."""

    epoch: float
    loss: float
    grad_norm: float | None = None
    rate: float | None = None


FIRST, LAST = 10, 10
"""Of a long run so many reports of its beginning and its end are kept."""


def thinned(reports: Sequence[Measured]) -> tuple[Measured, ...]:
    """Return the first and the last reports of a training loop, and the one with the highest loss.

    What is kept of `(*thinned(reports), next)` is what is kept of all of them: it can be done report by report.
    """
    known = [each for each in reports if math.isfinite(each.values.get("batch_loss", math.nan))]
    if len(known) <= FIRST + LAST + 1:
        return tuple(known)
    middle = known[FIRST:-LAST]
    return (*known[:FIRST], max(middle, key=lambda each: each.values["batch_loss"]), *known[-LAST:])


class ScoredObjective(Protocol):
    """One objective of a sweep, as its specification has it."""

    @property
    def objective(self) -> Objective:
        """The metric and its direction."""
        ...


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
    running: tuple[Running, ...] = ()

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
                    Running(each.epoch, values["batch_loss"], values.get("grad_norm"), values.get("learning_rate"))
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

    @classmethod
    def from_trial(
        cls, trial: Trial, data: PreparedData, objectives: Sequence[ScoredObjective], *, diverged: bool = False
    ) -> Self:
        """Build the curve of a trial that has ended; `diverged` where the run itself found its loss not finite.

        It is judged by the first objective that is no loss, else by the accuracy where the data have labels.
        """
        metrics = [each.objective.metric for each in objectives]
        counts = data.label_counts.get("valid", {}) if data.task == "classification" else {}
        metric = next((each for each in metrics if not each.endswith("loss")), "accuracy" if counts else None)
        share = max(counts.values()) / sum(counts.values()) if any(counts.values()) else None
        labelled = metric is not None and metric.endswith(("accuracy", "macro_f1")) and "token" not in metric
        return cls.from_measurements(
            (*trial.curve, *trial.running),
            metric=metric,
            train_examples=min(Evaluation().train_examples, data.dataset.train.examples),
            valid_examples=data.dataset.valid.examples,
            classes=len(counts) if labelled and counts else None,
            chance=share if labelled and metric != "valid_macro_f1" else None,
            best_by="loss" if metrics and metrics[0].endswith("loss") else "metric",
            ended="diverged" if diverged else _ENDED[trial.state],
        )


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
