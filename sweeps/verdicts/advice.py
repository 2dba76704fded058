"""Advice after a verdict: directions from the recommendation catalogue, values computed here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol, Self

from search_spaces.usual_names import role_of
from sweeps.verdicts.suggestion import FOR_ONE_EPOCH, IF_STILL_STUCK, SEPARATOR, Direction, Suggestion
from sweeps.verdicts.verdict import VerdictKind

if TYPE_CHECKING:
    from search_spaces.catalogue import Catalogue
    from search_spaces.resolved import ResolvedSpace

LEARNING_RATES = ("learning_rate_multiplier", "learning_rate")
"""The roles of hyperparameters that set the learning rate."""

EPOCHS = "n_epochs"
"""The role of the hyperparameter that sets how long a run trains."""

UNNAMED_EPOCHS = "the number of epochs"
"""Stands for the hyperparameter of a program that declares none for its epochs."""

_WHOLE_NUMBERS = (EPOCHS, "lora_rank")
"""The roles whose values are whole numbers."""

Symptom = Literal["underfitting", "overfitting", "divergence"]

NoLearningCause = Literal["slow", "collapsed", "unclear"]
"""Why a run learned nothing: a learning rate far too small, one far too large, or the curve does
not show which."""

_STEP = {"raise": 1.5, "lower": 1 / 1.5}
_RATE_STEP = {"raise": 2.0, "lower": 0.5}
_LARGE_RATE_STEP = {"raise": 4.0, "lower": 0.2}
"""The factors that move a value: by half, a learning rate by 2, and by more if it learns nothing
or diverges. These are our own: large enough to stand out from seed noise, small enough not to
jump over the good region."""

LATE = 2 / 3
"""More epochs are suggested only where the best epoch lies in the last third of a run: if an
earlier one was the best, the later ones did not help."""

_MAX_SUGGESTIONS = 2
"""How many suggestions one advice holds: after more of them nobody would know which one helped."""


class Recommended(Protocol):
    """The part of an entry of the recommendation catalogue that advice uses."""

    @property
    def parameter(self) -> str:
        """The hyperparameter."""
        ...

    @property
    def weight(self) -> str:
        """`major` or `minor`."""
        ...

    @property
    def when_underfitting(self) -> str:
        """`raise`, `lower`, or empty where there is no advice."""
        ...

    @property
    def when_overfitting(self) -> str:
        """`raise`, `lower`, or empty where there is no advice."""
        ...


@dataclass(frozen=True)
class AdjustableParameter:
    """A hyperparameter to change against a bad fit: the direction for each symptom, its value.

    `parameter` is the user's own name, and `role` the catalogue's name for what it does. `value` is
    the run's own value, None if it is unknown. `low` and `high` are the limits of the backend.
    """

    parameter: str
    directions: Mapping[Symptom, str]
    value: float | None = None
    low: float | None = None
    high: float | None = None
    role: str = ""

    @property
    def sets_rate(self) -> bool:
        """Whether it sets the learning rate."""
        return (self.role or self.parameter) in LEARNING_RATES

    @property
    def sets_epochs(self) -> bool:
        """Whether it sets how long a run trains."""
        return (self.role or self.parameter) == EPOCHS

    def suggest(
        self, symptom: Symptom, *, large_step: bool = False, best_epochs: BestEpochs | None = None
    ) -> str | None:
        """Return a suggestion such as "raise n_epochs from 3 to 5".

        Returns None if there is no advice, if the limits leave no change that three digits show, or
        if the change would contradict the epoch that is kept.
        """
        found = self.suggestion(symptom, large_step=large_step, best_epochs=best_epochs)
        return found.text if isinstance(found, Suggestion) else found

    def suggestion(
        self, symptom: Symptom, *, large_step: bool = False, best_epochs: BestEpochs | None = None
    ) -> Suggestion | str | None:
        """Return what `suggest` returns, as a value where the run's own value is known."""
        known = self.directions.get(symptom)
        if not known:
            return None
        direction: Direction = "raise" if known == "raise" else "lower"
        if self.sets_epochs and best_epochs is not None and not best_epochs.allows(direction):
            return None
        if self.value is None:
            return f"{direction} {self.parameter}"
        is_whole = (self.role or self.parameter) in _WHOLE_NUMBERS and self.value.is_integer()
        target = self._target(self.value, direction, large_step=large_step)
        if self.sets_epochs and direction == "lower" and best_epochs is not None:
            target = float(max(1, best_epochs.useful(self.value)))
        elif is_whole:
            target = float(max(math.ceil(target), self.value + 1) if direction == "raise" else math.floor(target))
        target = max(target, self.low) if self.low is not None else target
        target = min(target, self.high) if self.high is not None else target
        is_whole = is_whole and float(target).is_integer()
        found = Suggestion(direction, self.parameter, self.value, float(target), is_whole)
        return found if found.moves else None

    def _target(self, value: float, direction: Direction, *, large_step: bool) -> float:
        steps = _STEP if not self.sets_rate else _LARGE_RATE_STEP if large_step else _RATE_STEP
        return value * steps[direction]


@dataclass(frozen=True)
class BestEpochs:
    """Where a run was best: `kept` of `trained`, on the axis of its curve."""

    kept: float
    trained: float

    def allows(self, direction: Direction) -> bool:
        """Return whether the best epoch agrees with fewer or with more epochs."""
        return self.kept < self.trained if direction == "lower" else self.kept >= LATE * self.trained

    def useful(self, n_epochs: float) -> int:
        """Return how many epochs of a run with `n_epochs` reach the best one, rounded up.

        The axis may count evaluations or steps. It then goes beyond `n_epochs`, and the share
        counts.
        """
        scale = n_epochs / self.trained if self.trained > n_epochs else 1.0
        return math.ceil(round(self.kept * scale, 9))


@dataclass(frozen=True)
class Advice:
    """The adjustable hyperparameters of a run, the most important first.

    Without any of them there is still advice on the learning rate.
    """

    parameters: tuple[AdjustableParameter, ...] = ()
    best_epochs: BestEpochs | None = None

    @classmethod
    def from_recommendations(cls, recommendations: Iterable[Recommended]) -> Self:
        """Take the directions of catalogue entries: major ones first, else in the given order."""
        return cls.of_named((recommendation.parameter, recommendation) for recommendation in recommendations)

    @classmethod
    def of_named(cls, recommendations: Iterable[tuple[str, Recommended]]) -> Self:
        """Take the directions of catalogue entries for hyperparameters with names of their own."""
        ordered = sorted(recommendations, key=lambda named: named[1].weight != "major")
        return cls(
            tuple(
                AdjustableParameter(
                    name,
                    {
                        "underfitting": recommendation.when_underfitting,
                        "overfitting": recommendation.when_overfitting,
                        "divergence": "lower" if recommendation.parameter in LEARNING_RATES else "",
                    },
                    role=recommendation.parameter,
                )
                for name, recommendation in ordered
            )
        )

    def for_curve(self, kept_epoch: float | None, last_epoch: float) -> Self:
        """Return the advice for a run whose best weights are those of `kept_epoch`."""
        return replace(self, best_epochs=None if kept_epoch is None else BestEpochs(kept_epoch, last_epoch))

    def for_run(
        self, values: Mapping[str, object], limits: Mapping[str, tuple[float | None, float | None]] | None = None
    ) -> Self:
        """Return the advice for a run with these values and these limits of the backend."""
        parameters = []
        for parameter in self.parameters:
            value = values.get(parameter.parameter)
            low, high = (limits or {}).get(parameter.parameter, (None, None))
            number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
            parameters.append(replace(parameter, value=number, low=low, high=high))
        return replace(self, parameters=tuple(parameters))

    def for_verdict(self, kind: VerdictKind, *, cause: NoLearningCause | None = None) -> str:
        """Return the two most important suggestions; "" if the verdict needs none.

        A run that learned nothing for a known `cause` needs another learning rate first; if the
        curve does not show in which direction, one short run that finds out. A run that overfitted
        needs more data if no hyperparameter is left to change.
        """
        match kind:
            case VerdictKind.DIVERGED:
                return self._lower_learning_rate()
            case VerdictKind.UNDERFIT if cause == "collapsed":
                return self._lower_learning_rate()
            case VerdictKind.UNDERFIT if cause == "unclear":
                return self._try_one_epoch()
            case VerdictKind.UNDERFIT:
                learned_nothing = cause is not None
                ordered = sorted(self.parameters, key=lambda entry: learned_nothing and not entry.sets_rate)
                suggestions = [
                    entry.suggest("underfitting", large_step=learned_nothing, best_epochs=self.best_epochs)
                    for entry in ordered
                ]
            case VerdictKind.OVERFIT:
                suggestions = [entry.suggest("overfitting", best_epochs=self.best_epochs) for entry in self.parameters]
                suggestions = [*filter(None, suggestions)] or ["add training examples"]
            case VerdictKind.HEALTHY | VerdictKind.UNSETTLED:
                return ""
        return SEPARATOR.join([*filter(None, suggestions)][:_MAX_SUGGESTIONS])

    def _lower_learning_rate(self) -> str:
        return SEPARATOR.join(self._learning_rate_suggestions("divergence")) or "lower the learning rate"

    def _try_one_epoch(self) -> str:
        """Suggest one epoch with a larger rate.

        That is the cheaper test: if the larger rate is right, the losses move within a few steps.
        """
        raised = self._learning_rate_suggestions("underfitting")
        lowered = self._learning_rate_suggestions("divergence")
        if not self.parameters:
            raised, lowered = ["raise the learning rate"], ["lower it"]
        steps = [f"{raised[0]}{FOR_ONE_EPOCH}"] if raised else []
        for suggestion in lowered[:1]:
            steps.append(f"{IF_STILL_STUCK}{suggestion}" if raised else suggestion)
        return SEPARATOR.join(steps)

    def _learning_rate_suggestions(self, symptom: Symptom) -> list[str]:
        suggestions = (
            parameter.suggest(symptom, large_step=True) for parameter in self.parameters if parameter.sets_rate
        )
        return [*filter(None, suggestions)]


def advice_for_space(catalogue: Catalogue, scope: str, space: ResolvedSpace, accepted: Iterable[str]) -> Advice:
    """Build a scope's advice on the hyperparameters of a space, and on the epochs of every run.

    `accepted` are the hyperparameters that the backend knows. A hyperparameter of a user's program
    gets the advice of its role, under its own name.
    """
    epochs = next((name for name in accepted if role_of(name) == EPOCHS), UNNAMED_EPOCHS)
    if not any(role_of(parameter.name) == EPOCHS for parameter in space.parameters):
        names = dict.fromkeys([epochs, *(parameter.name for parameter in space.parameters)])
    else:
        ordered = sorted(space.parameters, key=lambda parameter: role_of(parameter.name) != EPOCHS)
        names = dict.fromkeys(parameter.name for parameter in ordered)
    own = {parameter.name: parameter.recommendation for parameter in space.parameters}
    roles = {name: EPOCHS if name == UNNAMED_EPOCHS else role_of(name) for name in names}
    named = ((name, own.get(name) or catalogue.get(roles[name], scope)) for name in names)
    return Advice.of_named((name, recommendation) for name, recommendation in named if recommendation is not None)
