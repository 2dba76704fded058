"""The points that a study tries before its sampler proposes any.

The queue is derived from what the study records, so no crash can lose or double an entry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from backends.contract import FailureKind, Scalar
from sweeps.study import attributes
from sweeps.trials.trial import Trial, TrialState


@dataclass(frozen=True)
class QueuedPoint:
    """A point to train next.

    `origin` holds the Optuna attributes by which a later process recognises that it was trained.
    """

    point: Mapping[str, Scalar]
    origin: Mapping[str, Any]

    @property
    def is_deliberate_repetition(self) -> bool:
        """Whether the point is known and must be trained again: a retry, or one of the finals."""
        return bool({attributes.RETRY_OF, attributes.REPEAT_OF} & set(self.origin))


class PointQueue:
    """Queued points in their order, and the origins of all points that have been taken.

    An origin is accepted once: queueing it again, or after it was taken, does nothing.
    """

    def __init__(self) -> None:
        self._points: deque[QueuedPoint] = deque()
        self._known_origins: set[tuple[tuple[str, Any], ...]] = set()
        self._repetitions = 0

    def __len__(self) -> int:
        return len(self._points)

    @property
    def has_repetitions(self) -> bool:
        """Whether a retry or a repetition for the finals is queued."""
        return self._repetitions > 0

    @property
    def owed_search_trials(self) -> int:
        """How many trials of the search are retried and wait here."""
        return sum(
            attributes.RETRY_OF in queued.origin and attributes.REPEAT_OF not in queued.origin
            for queued in (self._points if self._repetitions else ())
        )

    def mark_taken(self, user_attrs: Mapping[str, Any]) -> None:
        """Remember the origin of a recorded trial, so that its point is not queued again."""
        if origin := _origin(user_attrs):
            self._known_origins.add(_key(origin))

    def add(self, queued: QueuedPoint) -> None:
        """Queue a point at the end, unless its origin is known."""
        key = _key(queued.origin)
        if key not in self._known_origins:
            self._known_origins.add(key)
            self._points.append(queued)
            self._repetitions += queued.is_deliberate_repetition

    def add_stored(self, points: Sequence[Mapping[str, Scalar]]) -> None:
        """Queue the points of the study's attribute `QUEUED_POINTS`.

        The origin of such a point is its index.
        """
        for index, point in enumerate(points):
            self.add(QueuedPoint(point, {attributes.QUEUED_POINT: index}))

    def forget_stored(self, index: int) -> None:
        """Accept no stored point of this index in this process. The next one queues it."""
        self._known_origins.add(_key({attributes.QUEUED_POINT: index}))

    def take(self, *, only_repetitions: bool = False) -> QueuedPoint | None:
        """Return the first point and remove it; None if there is none.

        With `only_repetitions` it is the first retry or repetition for the finals.
        """
        for queued in self._points:
            if queued.is_deliberate_repetition or not only_repetitions:
                self._points.remove(queued)
                self._repetitions -= queued.is_deliberate_repetition
                return queued
        return None


def retry_of(trial: Trial) -> QueuedPoint:
    """Return the point of a failed trial, to be trained again with the same seed."""
    origin: dict[str, Any] = {attributes.RETRY_OF: trial.number, attributes.SEED: trial.seed}
    if trial.repeat_of is not None:
        origin[attributes.REPEAT_OF] = trial.repeat_of
    return QueuedPoint(trial.hyperparameters, origin)


def repetition_of(trial: Trial, seed: int) -> QueuedPoint:
    """Return the point of a trial, to be trained again with another seed for the finals."""
    return QueuedPoint(trial.hyperparameters, {attributes.REPEAT_OF: trial.number, attributes.SEED: seed})


def owed_retries(trials: Iterable[Trial]) -> list[QueuedPoint]:
    """Return the retries that an earlier process owed and may not have queued.

    Those are the failures that it recorded as retryable, and those with a cause that the user could
    mend, such as a missing data file: the user has run the sweep again.
    """
    return [
        retry_of(trial)
        for trial in trials
        if trial.state is TrialState.FAILED and (trial.will_retry or trial.failure is FailureKind.USER)
    ]


def waiting_points(frozen_trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that wait in Optuna's own queue, where version 0.1 kept all points."""
    return [frozen for frozen in frozen_trials if frozen.state is OptunaState.WAITING]


def _origin(user_attrs: Mapping[str, Any]) -> dict[str, Any]:
    if attributes.RETRY_OF in user_attrs:
        return {attributes.RETRY_OF: user_attrs[attributes.RETRY_OF]}
    names = (attributes.REPEAT_OF, attributes.SEED, attributes.QUEUED_POINT)
    return {name: user_attrs[name] for name in names if name in user_attrs}


def _key(origin: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(_origin(origin).items()))
