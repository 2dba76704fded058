"""Tracing a run: every example's loss at each evaluation, and the curve and oracle from them."""

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
"""The most evaluations of a continuation."""


@dataclass(frozen=True)
class ExampleScores:
    """The loss (N,) of each example and, for classification, whether its prediction is correct
    (N,), 0 or 1.
    """

    loss: Floats
    correct: Floats | None

    @property
    def mean_loss(self) -> float:
        return float(np.mean(self.loss))

    @property
    def metric(self) -> float | None:
        return None if self.correct is None else float(np.mean(self.correct))


@dataclass(frozen=True)
class State:
    """The scores of a model on all three parts at one evaluation.

    `batch_loss` is the mean training loss of the batches since the previous evaluation.
    """

    epoch: float
    step: int
    train: ExampleScores
    valid: ExampleScores
    oracle: ExampleScores
    batch_loss: float | None = None

    @property
    def is_finite(self) -> bool:
        return all(np.isfinite(scores.loss).all() for scores in (self.train, self.valid, self.oracle))


class Learner(Protocol):
    """A model in training."""

    def state(self) -> State:
        """Score the model as it is now."""
        ...

    def advance(self) -> bool:
        """Train until the next evaluation. Return False if the run broke down."""
        ...

    def start_continuation(self) -> None:
        """Prepare for the continuation, which no judge sees."""
        ...


@dataclass(frozen=True)
class Trace:
    """A run's states: before training (scikit-learn: the constant prediction), at the visible
    evaluations, and later.
    """

    before: State
    states: tuple[State, ...]
    later: tuple[State, ...]
    prior_loss: float
    broke_down: bool


def follow(learner: Learner, evaluations: int, later: int, prior_loss: float) -> Trace:
    """Train for `evaluations` evaluations and continue for `later` more.

    A non-finite state is the last one.
    """
    start = learner.state()
    states: list[State] = []
    broke_down = False
    for _ in range(evaluations):
        broke_down = not learner.advance()
        if broke_down:
            break
        states.append(learner.state())
        if not states[-1].is_finite:
            break
    continuation: list[State] = []
    if later and states and states[-1].is_finite and not broke_down:
        learner.start_continuation()
        every = max(1, later // LATER_EVALUATIONS)
        for number in range(1, later + 1):
            if not learner.advance():
                break
            if number % every == 0:
                continuation.append(learner.state())
    return Trace(
        start, tuple(states), tuple(state for state in continuation if state.is_finite), prior_loss, broke_down
    )


# --------------------------------------------------------------------------------- curve and oracle
def curve_of(
    trace: Trace,
    *,
    metric: str | None,
    classes: int | None,
    chance: float | None,
    train_sample: int,
    use_batch_loss: bool,
    ended: Literal["complete", "stopped", "failed", "diverged"],
) -> LearningCurve:
    """Return the complete curve of a run.

    The training values come from a sample of `train_sample` examples, or from the loss of the
    batches if `use_batch_loss`.
    """

    def point(state: State) -> CurvePoint:
        correct = None if state.train.correct is None else state.train.correct[:train_sample]
        sample = ExampleScores(state.train.loss[:train_sample], correct)
        return CurvePoint(
            state.epoch,
            state.step,
            state.batch_loss if use_batch_loss else sample.mean_loss,
            state.valid.mean_loss,
            None if use_batch_loss else sample.metric,
            state.valid.metric,
        )

    return LearningCurve(
        tuple(point(state) for state in trace.states),
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
    """Return the oracle's series."""
    states = trace.states
    first, before = states[0], trace.before
    losses = [state.oracle.mean_loss for state in states]
    valid_losses = [state.valid.mean_loss for state in states]
    has_metric = first.oracle.correct is not None
    return Oracle(
        examples=len(first.oracle.loss),
        base_loss=before.oracle.mean_loss,
        prior_loss=trace.prior_loss,
        loss=tuple(losses),
        train_loss=tuple(state.train.mean_loss for state in states),
        spread_rise=_spread(states, _lowest(losses), -1),
        spread_shown=_spread(states, _lowest(valid_losses), -1),
        spread_last=_spread(states, last_stretch(len(states)), -1),
        base_train_loss=before.train.mean_loss,
        base_metric=before.oracle.metric,
        metric=tuple(float(np.mean(state.oracle.correct)) for state in states) if has_metric else None,
        train_metric=tuple(float(np.mean(state.train.correct)) for state in states) if has_metric else None,
        later_loss=tuple(state.oracle.mean_loss for state in trace.later),
        later_metric=tuple(float(np.mean(state.oracle.correct)) for state in trace.later) if has_metric else None,
    )


def last_stretch(evaluations: int) -> int:
    """Return the index of the evaluation where the last quarter of a curve begins, never the last
    of several.
    """
    return max(0, min(evaluations - 2, round(0.75 * evaluations) - 1))


def _lowest(values: Sequence[float]) -> int:
    known = np.array(values)
    return 0 if np.isnan(known).all() else int(np.nanargmin(known))


def _spread(states: Sequence[State], start: int, end: int) -> float:
    with np.errstate(all="ignore"):
        return float(np.std(states[end].oracle.loss - states[start].oracle.loss))
