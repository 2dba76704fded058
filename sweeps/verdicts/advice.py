"""What to try next after a verdict: the directions are the recommendation catalogue's, the value is computed here."""

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

Symptom = Literal["underfitting", "overfitting", "divergence"]

Lost = Literal["slow", "collapsed", "unclear"]
"""Why a run learnt nothing: by a rate far too small, by one far too large, or the curve does not tell which."""

_STEP = {"raise": 1.5, "lower": 1 / 1.5}
_RATE_STEP = {"raise": 2.0, "lower": 0.5}
_LOST_RATE_STEP = {"raise": 4.0, "lower": 0.2}
"""By how much a value is moved: by half, a learning rate by a factor of 2, and one that learns nothing or diverges by
more. Ours: large enough to be told apart from seed noise, small enough not to pass over the good region."""

_SHOWN = 2
"""Pieces of advice that are given at once: with more nobody knows which of them helped."""


class Recommended(Protocol):
    """What advice is taken from: an entry of the recommendation catalogue."""

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
        """The same."""
        ...


@dataclass(frozen=True)
class Lever:
    """A hyperparameter that may be moved against a bad fit: by which direction for which symptom, and where it stands.

    `value` is the run's own, None where it is not known; `low` and `high` are what the backend accepts.
    """

    parameter: str
    directions: Mapping[Symptom, str]
    value: float | None = None
    whole: bool = False
    low: float | None = None
    high: float | None = None

    def move(self, symptom: Symptom, *, far: bool = False, useful_epochs: float | None = None) -> str | None:
        """Return "raise n_epochs from 3 to 5", or None where there is no advice or no room that three digits show.

        `far` asks for a large step. `useful_epochs` is how many epochs were of use to a run that over-fitted.
        """
        direction = self.directions.get(symptom)
        if not direction:
            return None
        if self.value is None:
            return f"{direction} {self.parameter}"
        steps = (_LOST_RATE_STEP if far else _RATE_STEP) if self.parameter in LEARNING_RATES else _STEP
        target = self.value * steps[direction]
        if self.parameter == EPOCHS and symptom == "overfitting" and useful_epochs is not None:
            target = min(target, useful_epochs) if useful_epochs >= 1 else 1.0
        if self.whole:
            target = float(max(math.ceil(target), self.value + 1) if direction == "raise" else math.floor(target))
        target = max(target, self.low) if self.low is not None else target
        target = min(target, self.high) if self.high is not None else target
        was, to = (f"{each:.0f}" if self.whole else f"{each:.3g}" for each in (self.value, target))
        if float(to) <= float(was) if direction == "raise" else float(to) >= float(was):
            return None
        return f"{direction} {self.parameter} from {was} to {to}"


@dataclass(frozen=True)
class Advice:
    """The levers of a run, the weightiest first. Without any there is advice on the learning rate alone."""

    levers: tuple[Lever, ...] = ()

    @classmethod
    def from_recommendations(cls, recommendations: Iterable[Recommended]) -> Self:
        """Take the directions of catalogue entries; major ones come first, otherwise in the given order."""
        ordered = sorted(recommendations, key=lambda each: each.weight != "major")
        return cls(
            tuple(
                Lever(
                    each.parameter,
                    {
                        "underfitting": each.when_underfitting,
                        "overfitting": each.when_overfitting,
                        "divergence": "lower" if each.parameter in LEARNING_RATES else "",
                    },
                    whole=each.parameter == EPOCHS,
                )
                for each in ordered
            )
        )

    def for_run(
        self, values: Mapping[str, object], room: Mapping[str, tuple[float | None, float | None]] | None = None
    ) -> Self:
        """Return the advice for a run with these values; `room` is what the backend accepts by hyperparameter."""
        levers = []
        for each in self.levers:
            value, (low, high) = values.get(each.parameter), (room or {}).get(each.parameter, (None, None))
            number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
            levers.append(replace(each, value=number, low=low, high=high))
        return replace(self, levers=tuple(levers))

    def for_verdict(self, kind: VerdictKind, *, lost: Lost | None = None, useful_epochs: float | None = None) -> str:
        """Return the two weightiest pieces of advice; "" where the verdict needs none.

        A run that learns nothing (`lost`) is helped by its rate first, and where the curve does not tell which way, by
        an epoch that would; one that over-fits, where no lever is left, by data.
        """
        match kind:
            case VerdictKind.DIVERGED:
                return self._lower_rate()
            case VerdictKind.UNDERFIT if lost == "collapsed":
                return self._lower_rate()
            case VerdictKind.UNDERFIT if lost == "unclear":
                return self._trial_epoch()
            case VerdictKind.UNDERFIT:
                levers = sorted(self.levers, key=lambda each: lost is not None and each.parameter not in LEARNING_RATES)
                moves = [each.move("underfitting", far=lost is not None) for each in levers]
            case VerdictKind.OVERFIT:
                moves = [each.move("overfitting", useful_epochs=useful_epochs) for each in self.levers]
                moves = [*filter(None, moves)] or ["give more training examples"]
            case VerdictKind.HEALTHY | VerdictKind.UNSETTLED:
                return ""
        return "; ".join([*filter(None, moves)][:_SHOWN])

    def _lower_rate(self) -> str:
        return "; ".join(self._rates("divergence")) or "lower the learning rate"

    def _trial_epoch(self) -> str:
        """One epoch with the larger rate is the cheaper test: where it is right, the losses move within a few steps."""
        raised, lowered = self._rates("underfitting"), self._rates("divergence")
        if not self.levers:
            raised, lowered = ["raise the learning rate"], ["lower it"]
        steps = [f"{raised[0]} for one epoch"] if raised else []
        steps += [f"where the losses still do not move, {each}" if raised else each for each in lowered[:1]]
        return "; ".join(steps)

    def _rates(self, symptom: Symptom) -> list[str]:
        moves = (each.move(symptom, far=True) for each in self.levers if each.parameter in LEARNING_RATES)
        return [*filter(None, moves)]


def advice_for_space(catalogue: Catalogue, scope: str, space: ResolvedSpace) -> Advice:
    """Take the scope's advice on the hyperparameters of a space, and on the epochs, which every run has."""
    names = dict.fromkeys([EPOCHS, *(each.name for each in space.parameters)])
    resolved = {each.name: each.recommendation for each in space.parameters}
    found = (resolved.get(name) or catalogue.get(name, scope) for name in names)
    return Advice.from_recommendations(each for each in found if each is not None)
