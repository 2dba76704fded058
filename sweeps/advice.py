"""What to try next after a verdict, in the words of the recommendation catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, Self

from sweeps.record import VerdictKind

if TYPE_CHECKING:
    from search_spaces.catalogue import Catalogue
    from search_spaces.resolved import ResolvedSpace


RATES = ("learning_rate_multiplier", "learning_rate")
"""The hyperparameters that set the learning rate."""


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

    def advice(self, symptom: Literal["underfitting", "overfitting"]) -> str:
        """Return what to do, in words that name the hyperparameter; empty where there is no advice."""
        ...


@dataclass(frozen=True)
class Advice:
    """What to try next, in the catalogue's words, by hyperparameter, the weightiest first.

    `rates` are the hyperparameters that set the learning rate.
    """

    when_underfitting: Mapping[str, str] = field(default_factory=dict)
    when_overfitting: Mapping[str, str] = field(default_factory=dict)
    rates: tuple[str, ...] = ()

    @classmethod
    def of(cls, recommendations: Iterable[Recommended]) -> Self:
        """Take the advice of catalogue entries; major ones come first, otherwise in the given order."""
        ordered = sorted(recommendations, key=lambda each: each.weight != "major")

        def said(symptom: Literal["underfitting", "overfitting"]) -> dict[str, str]:
            return {each.parameter: text for each in ordered if (text := each.advice(symptom))}

        rates = tuple(each.parameter for each in ordered if each.parameter in RATES)
        return cls(said("underfitting"), said("overfitting"), rates)

    def against(self, kind: VerdictKind, *, rates_first: bool = False) -> str:
        """Return the two weightiest pieces of advice, or "" where there is none or the verdict needs none."""
        if kind is VerdictKind.DIVERGED:
            return " and ".join(f"lower {each}" for each in self.rates) or "lower the learning rate"
        said = {VerdictKind.UNDERFIT: self.when_underfitting, VerdictKind.OVERFIT: self.when_overfitting}.get(kind, {})
        ordered = sorted(said, key=lambda each: rates_first and each not in RATES)
        return "; ".join(said[each] for each in ordered[:2])


def advice_from(catalogue: Catalogue, scope: str, space: ResolvedSpace) -> Advice:
    """Take the scope's advice on the hyperparameters of a space, and on the epochs, which every run has."""
    names = dict.fromkeys(["n_epochs", *(each.name for each in space.parameters)])
    resolved = {each.name: each.recommendation for each in space.parameters}
    found = (resolved.get(name) or catalogue.get(name, scope) for name in names)
    return Advice.of(each for each in found if each is not None)
