"""The advice of a whole sweep: which edge of which range to move, which way, and how sure it is.

A pure function of the trials. Verdicts speak first, as in steering; then the ranking of the trials.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from optuna.distributions import FloatDistribution, IntDistribution, json_to_distribution

from search_spaces.domains import Domain
from sweeps.spec.objective import Objective
from sweeps.study.no_learning import no_learning
from sweeps.study.range_advice import MIN_TRIALS, RangeAdvice, from_ranking, from_verdicts
from sweeps.study.range_evidence import (
    Limits,
    Parameter,
    ends,
    evidence,
    ranked,
    searched_domains,
)
from sweeps.study.steering import Change, propose_changes
from sweeps.study.trial_advice import consistent_advice
from sweeps.trials.trial import Trial
from sweeps.verdicts.suggestion import Direction


@dataclass(frozen=True)
class SweepAdvice:
    """The advice on the ranges, and for each trial the advice that agrees with all trials.

    `cause` says where the hyperparameters are not the cause of a bad result; there is then no other
    advice. `trials` has the number of each trial that needs a change.
    """

    ranges: tuple[RangeAdvice, ...] = ()
    cause: str = ""
    trials: Mapping[int, str] = field(default_factory=dict)

    @property
    def moves(self) -> tuple[RangeAdvice, ...]:
        """The edges to move."""
        return tuple(entry for entry in self.ranges if entry.finding == "move")

    @property
    def sentences(self) -> tuple[str, ...]:
        """The advice on the sweep, the most important sentence first."""
        if self.cause:
            return (self.cause,)
        told = [entry.text for kind in ("move", "at-limit") for entry in self._with(kind)]
        if wide := self._with("wide-enough"):
            told.append(f"{_ranges(wide)} wide enough")
        if unclear := self._with("unclear"):
            told.append(f"open whether {_ranges(unclear)} wide enough: the best trial lies at an edge, maybe by chance")
        few = self._with("too-few")
        if few:
            most = max(entry.trials for entry in few)
            counted = f"{most} of {MIN_TRIALS}" if most else f"none of {MIN_TRIALS}"
            told.append(f"too few trials ({counted}) to say whether {_ranges(few)} wide enough")
        return tuple(told)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "sentences": list(self.sentences),
            "ranges": [asdict(entry) for entry in self.ranges],
            "cause": self.cause,
            "trials": {str(number): text for number, text in self.trials.items()},
        }

    def _with(self, finding: str) -> list[RangeAdvice]:
        return [entry for entry in self.ranges if entry.finding == finding]


class StoredParameter(NamedTuple):
    """A hyperparameter of a stored plan."""

    name: str
    distribution: Domain | None


def stored_space(plan: Mapping[str, Any], changes: Sequence[Change] = ()) -> list[Parameter]:
    """Return the space of a stored plan (`plan.json`) after these changes."""
    parameters: list[Parameter] = []
    moved = {change.parameter: change for change in changes}
    for written in plan["space"]["parameters"]:
        stored, name = written.get("distribution"), str(written["name"])
        domain = None if stored is None else json_to_distribution(json.dumps(stored))
        change = moved.get(name)
        if change is not None and isinstance(domain, IntDistribution):
            domain = IntDistribution(math.ceil(change.low), math.floor(change.high), domain.log, domain.step)
        elif change is not None and isinstance(domain, FloatDistribution):
            domain = FloatDistribution(change.low, change.high, domain.log, domain.step)
        assert domain is None or isinstance(domain, Domain)
        parameters.append(StoredParameter(name, domain))
    return parameters


def stored_limits(plan: Mapping[str, Any]) -> dict[str, Limits]:
    """Return how far the ranges of a stored plan may go; none for a plan of an earlier version."""
    return {name: (low, high) for name, (low, high) in plan.get("limits", {}).items()}


def advise_on_stored(
    plan: Mapping[str, Any], objective: Objective, trials: Sequence[Trial], changes: Sequence[Change]
) -> SweepAdvice:
    """Return the advice on a sweep from its stored plan and the trials of its search."""
    return advise(trials, stored_space(plan, changes), stored_limits(plan), changes, objective)


def advise(
    trials: Sequence[Trial],
    space: Sequence[Parameter],
    limits: Mapping[str, Limits],
    changes: Sequence[Change],
    objective: Objective,
) -> SweepAdvice:
    """Return the advice on a sweep from the trials of its search.

    `space` is the space as `changes` have made it. A hyperparameter without an entry in `limits`
    has none. Trials that still run say nothing yet. No trials, no advice.
    """
    ended = sorted((trial for trial in trials if trial.state.ended), key=lambda trial: trial.ended_at or 0.0)
    if not ended:
        return SweepAdvice()
    domains = searched_domains(space)
    proposed = {change.parameter: change for change in propose_changes(ended, space, limits, changes, objective)}
    nothing = no_learning(ended, domains, objective)
    if nothing is not None and (nothing.excludes_hyperparameters or not proposed):
        return SweepAdvice(cause=nothing.text)
    comparable = ranked(ended, objective)
    numeric = [name for name, domain in domains.items() if ends(domain) is not None]
    ranges = []
    for name in numeric:
        found = evidence(name, domains, comparable)
        by_ranking = from_ranking(name, domains[name], found, limits.get(name, (None, None)), len(numeric))
        if name not in proposed:
            ranges.append(by_ranking)
            continue
        by_verdicts = from_verdicts(proposed[name], found, len(numeric))
        ranges.append(by_verdicts)
        if by_ranking.finding == "move" and by_ranking.edge != by_verdicts.edge and by_ranking.way == by_verdicts.way:
            ranges.append(by_ranking)  # the range goes the same way with its other edge
    ways: dict[str, Direction] = {entry.parameter: entry.way for entry in ranges if entry.way and entry.extends}
    reach = {name: bounds for name, domain in domains.items() if name not in ways and (bounds := ends(domain))}
    for entry in ranges:
        if entry.target is not None and entry.parameter in reach:  # the range is cut at its upper edge
            reach[entry.parameter] = (reach[entry.parameter][0], entry.target)
        elif entry.finding not in ("wide-enough", "move"):
            reach.pop(entry.parameter, None)
    return SweepAdvice(tuple(ranges), trials=consistent_advice(ended, domains, comparable, ways, reach))


def _ranges(entries: Sequence[RangeAdvice]) -> str:
    """Name ranges as the subject of a sentence, with its verb: "the ranges of a and b are"."""
    names = [entry.parameter for entry in entries]
    if len(names) == 1:
        return f"the range of {names[0]} is"
    return f"the ranges of {', '.join(names[:-1])} and {names[-1]} are"
