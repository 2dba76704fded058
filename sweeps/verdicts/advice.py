"""Advice after a verdict: directions from the recommendation catalogue, values computed here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol, Self

from sweeps.verdicts.verdict import VerdictKind

if TYPE_CHECKING:
    from search_spaces.catalogue import Catalogue
    from search_spaces.resolved import ResolvedSpace

LEARNING_RATES = ("learning_rate_multiplier", "learning_rate")
"""The hyperparameters that set the learning rate."""

EPOCHS = "n_epochs"
"""The hyperparameter that sets how long a run trains."""

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

    `value` is the run's own value, None if it is unknown. `low` and `high` are the limits of the
    backend.
    """

    parameter: str
    directions: Mapping[Symptom, str]
    value: float | None = None
    is_integer: bool = False
    low: float | None = None
    high: float | None = None

    def suggest(self, symptom: Symptom, *, large_step: bool = False, useful_epochs: float | None = None) -> str | None:
        """Return a suggestion such as "raise n_epochs from 3 to 5".

        Returns None if there is no advice, or if the limits leave no change that three digits show.
        `useful_epochs` is how many epochs helped a run that overfitted.
        """
        direction = self.directions.get(symptom)
        if not direction:
            return None
        if self.value is None:
            return f"{direction} {self.parameter}"
        is_rate = self.parameter in LEARNING_RATES
        steps = (_LARGE_RATE_STEP if large_step else _RATE_STEP) if is_rate else _STEP
        target = self.value * steps[direction]
        if self.parameter == EPOCHS and symptom == "overfitting" and useful_epochs is not None:
            target = min(target, useful_epochs) if useful_epochs >= 1 else 1.0
        if self.is_integer:
            target = float(max(math.ceil(target), self.value + 1) if direction == "raise" else math.floor(target))
        target = max(target, self.low) if self.low is not None else target
        target = min(target, self.high) if self.high is not None else target
        before, after = (f"{number:.0f}" if self.is_integer else f"{number:.3g}" for number in (self.value, target))
        if float(after) <= float(before) if direction == "raise" else float(after) >= float(before):
            return None
        return f"{direction} {self.parameter} from {before} to {after}"


@dataclass(frozen=True)
class Advice:
    """The adjustable hyperparameters of a run, the most important first.

    Without any of them there is still advice on the learning rate.
    """

    parameters: tuple[AdjustableParameter, ...] = ()

    @classmethod
    def from_recommendations(cls, recommendations: Iterable[Recommended]) -> Self:
        """Take the directions of catalogue entries: major ones first, else in the given order."""
        ordered = sorted(recommendations, key=lambda recommendation: recommendation.weight != "major")
        return cls(
            tuple(
                AdjustableParameter(
                    recommendation.parameter,
                    {
                        "underfitting": recommendation.when_underfitting,
                        "overfitting": recommendation.when_overfitting,
                        "divergence": "lower" if recommendation.parameter in LEARNING_RATES else "",
                    },
                    is_integer=recommendation.parameter == EPOCHS,
                )
                for recommendation in ordered
            )
        )

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

    def for_verdict(
        self, kind: VerdictKind, *, cause: NoLearningCause | None = None, useful_epochs: float | None = None
    ) -> str:
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
                ordered = sorted(
                    self.parameters, key=lambda entry: learned_nothing and entry.parameter not in LEARNING_RATES
                )
                suggestions = [entry.suggest("underfitting", large_step=learned_nothing) for entry in ordered]
            case VerdictKind.OVERFIT:
                suggestions = [entry.suggest("overfitting", useful_epochs=useful_epochs) for entry in self.parameters]
                suggestions = [*filter(None, suggestions)] or ["add training examples"]
            case VerdictKind.HEALTHY | VerdictKind.UNSETTLED:
                return ""
        return "; ".join([*filter(None, suggestions)][:_MAX_SUGGESTIONS])

    def _lower_learning_rate(self) -> str:
        return "; ".join(self._learning_rate_suggestions("divergence")) or "lower the learning rate"

    def _try_one_epoch(self) -> str:
        """Suggest one epoch with a larger rate.

        That is the cheaper test: if the larger rate is right, the losses move within a few steps.
        """
        raised = self._learning_rate_suggestions("underfitting")
        lowered = self._learning_rate_suggestions("divergence")
        if not self.parameters:
            raised, lowered = ["raise the learning rate"], ["lower it"]
        steps = [f"{raised[0]} for one epoch"] if raised else []
        for suggestion in lowered[:1]:
            steps.append(f"if the losses still do not move, {suggestion}" if raised else suggestion)
        return "; ".join(steps)

    def _learning_rate_suggestions(self, symptom: Symptom) -> list[str]:
        suggestions = (
            parameter.suggest(symptom, large_step=True)
            for parameter in self.parameters
            if parameter.parameter in LEARNING_RATES
        )
        return [*filter(None, suggestions)]


def advice_for_space(catalogue: Catalogue, scope: str, space: ResolvedSpace) -> Advice:
    """Build a scope's advice on the hyperparameters of a space, and on the epochs of every run."""
    names = dict.fromkeys([EPOCHS, *(parameter.name for parameter in space.parameters)])
    own = {parameter.name: parameter.recommendation for parameter in space.parameters}
    recommendations = (own.get(name) or catalogue.get(name, scope) for name in names)
    return Advice.from_recommendations(
        recommendation for recommendation in recommendations if recommendation is not None
    )
