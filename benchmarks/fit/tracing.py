"""Following a run: at each evaluation, every example's loss and whether it is right, and what is made of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from backends.training_logs.learning_curve import CurvePoint, LearningCurve
from benchmarks.fit.records import Oracle

Floats = NDArray[np.float64]

LATER_EVALUATIONS = 12
"""How often a continuation is scored at most."""


@dataclass(frozen=True)
class Scores:
    """For each example its loss and, for classification, whether the prediction is right (0 or 1)."""

    loss: Floats
    right: Floats | None

    @property
    def mean_loss(self) -> float:
        return float(np.mean(self.loss))

    @property
    def metric(self) -> float | None:
        return None if self.right is None else float(np.mean(self.right))


@dataclass(frozen=True)
class State:
    """A model at one evaluation, on all three parts. `running_loss` is the mean loss of the batches since the last."""

    epoch: float
    step: int
    train: Scores
    valid: Scores
    oracle: Scores
    running_loss: float | None = None

    @property
    def finite(self) -> bool:
        return all(np.isfinite(each.loss).all() for each in (self.train, self.valid, self.oracle))


class Learner(Protocol):
    """A model in training."""

    def state(self) -> State:
        """Score the model as it is now."""
        ...

    def advance(self) -> bool:
        """Train up to the next evaluation; False where the run broke down."""
        ...

    def further(self) -> None:
        """Be told that what follows is the continuation, which no judge sees."""
        ...


@dataclass(frozen=True)
class Trace:
    """A run's states: before training (scikit-learn: the constant prediction), at the shown evaluations, later."""

    before: State
    states: tuple[State, ...]
    later: tuple[State, ...]
    prior_loss: float
    broke_down: bool


def follow(learner: Learner, evaluations: int, later: int, prior_loss: float) -> Trace:
    """Train for some evaluations and go on for `later` more. A state that is not finite is the last one."""
    start = learner.state()
    states: list[State] = []
    broke_down = False
    for _ in range(evaluations):
        broke_down = not learner.advance()
        if broke_down:
            break
        states.append(learner.state())
        if not states[-1].finite:
            break
    after: list[State] = []
    if later and states and states[-1].finite and not broke_down:
        learner.further()
        every = max(1, later // LATER_EVALUATIONS)
        for number in range(1, later + 1):
            if not learner.advance():
                break
            if number % every == 0:
                after.append(learner.state())
    return Trace(start, tuple(states), tuple(each for each in after if each.finite), prior_loss, broke_down)


# ------------------------------------------------------------------------------------------------ what is made of it
def curve_of(
    trace: Trace,
    *,
    metric: str | None,
    classes: int | None,
    chance: float | None,
    train_sample: int,
    running: bool,
    ended: Literal["complete", "stopped", "failed", "diverged"],
) -> LearningCurve:
    """Return everything that can be shown of a run. Training is scored on a sample, or by its batches (`running`)."""

    def point(state: State) -> CurvePoint:
        train = state.train.loss[:train_sample], None if state.train.right is None else state.train.right[:train_sample]
        seen = Scores(*train)
        return CurvePoint(
            state.epoch,
            state.step,
            state.running_loss if running else seen.mean_loss,
            state.valid.mean_loss,
            None if running else seen.metric,
            state.valid.metric,
        )

    return LearningCurve(
        tuple(point(each) for each in trace.states),
        point(trace.before),
        metric=metric,
        train_examples=min(train_sample, len(trace.states[0].train.loss)),
        valid_examples=len(trace.states[0].valid.loss),
        classes=classes,
        chance=chance,
        best_by="metric" if metric else "loss",
        ended="diverged" if trace.broke_down else ended,
    )


def oracle_of(trace: Trace) -> Oracle:
    """Return what the oracle saw."""
    states = trace.states
    first, before = states[0], trace.before
    losses = [each.oracle.mean_loss for each in states]
    shown = [each.valid.mean_loss for each in states]
    metrics = first.oracle.right is not None
    return Oracle(
        examples=len(first.oracle.loss),
        base_loss=before.oracle.mean_loss,
        prior_loss=trace.prior_loss,
        loss=tuple(losses),
        train_loss=tuple(each.train.mean_loss for each in states),
        spread_rise=_spread(states, _lowest(losses), -1),
        spread_shown=_spread(states, _lowest(shown), -1),
        spread_last=_spread(states, last_stretch(len(states)), -1),
        base_train_loss=before.train.mean_loss,
        base_metric=before.oracle.metric,
        metric=tuple(float(np.mean(each.oracle.right)) for each in states) if metrics else None,
        train_metric=tuple(float(np.mean(each.train.right)) for each in states) if metrics else None,
        later_loss=tuple(each.oracle.mean_loss for each in trace.later),
        later_metric=tuple(float(np.mean(each.oracle.right)) for each in trace.later) if metrics else None,
    )


def last_stretch(evaluations: int) -> int:
    """Return where the last quarter of a curve begins: the number of an evaluation, never the last one of several."""
    return max(0, min(evaluations - 2, round(0.75 * evaluations) - 1))


def _lowest(values: Sequence[float]) -> int:
    known = np.array(values)
    return 0 if np.isnan(known).all() else int(np.nanargmin(known))


def _spread(states: Sequence[State], one: int, other: int) -> float:
    with np.errstate(all="ignore"):
        return float(np.std(states[other].oracle.loss - states[one].oracle.loss))
