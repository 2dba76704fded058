"""The advice of a whole sweep: which edge of which range to move, which way, and how sure it is.

A pure function of the trials. Verdicts speak first, as in steering; then the ranking of the trials.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution, json_to_distribution

from search_spaces.domains import Domain
from search_spaces.usual_names import role_of
from sweeps.spec.objective import Objective
from sweeps.study.no_learning import no_learning
from sweeps.study.range_evidence import (
    Limits,
    Parameter,
    RangeEvidence,
    ends,
    evidence,
    position,
    ranked,
    searched_domains,
)
from sweeps.study.steering import EPOCHS_FACTOR, RATE_FACTOR, Change, NumericRange, propose_changes
from sweeps.study.trial_advice import consistent_advice
from sweeps.trials.trial import Trial
from sweeps.verdicts.advice import EPOCHS, LEARNING_RATES
from sweeps.verdicts.verdict import VerdictKind

Finding = Literal["move", "at-limit", "wide-enough", "unclear", "too-few"]
"""What the trials say about a range. MLflow and JSON show it: an existing name must not change."""

MIN_TRIALS = 8
"""Fewer trials do not show where in a range the best ones lie."""

NEAR_EDGE = 0.8
"""The outer fifth of a range is near its edge."""

LIKELY, SURE = 0.05, 0.01
"""The advice to move an edge needs a rank correlation that chance gives in 5 % of the cases at
most, over all searched ranges (Bonferroni); at 1 % it is called clear."""

OTHER_FACTOR = 2.0
"""How far an edge goes that is neither of a learning rate nor of epochs."""

_DIVERGED_OR_OVERFIT = (VerdictKind.DIVERGED, VerdictKind.OVERFIT)


@dataclass(frozen=True)
class RangeAdvice:
    """What the trials say about the range of one hyperparameter, with the reason as a sentence.

    For the finding `move`, `edge` moves from `value` to `target`. `chance` is how probable such a
    rank correlation is by chance, None where the verdicts decided. `trials` were compared.
    """

    parameter: str
    finding: Finding
    text: str
    edge: Literal["lower", "upper", ""] = ""
    value: float | None = None
    target: float | None = None
    correlation: float | None = None
    chance: float | None = None
    trials: int = 0


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
        told = [entry.text for kind in ("move", "at-limit", "unclear") for entry in self._with(kind)]
        wide = [entry.parameter for entry in self._with("wide-enough")]
        if wide:
            ranges = "the ranges of" if len(wide) > 1 else "the range of"
            told.append(f"{ranges} {_listed(wide)} {'are' if len(wide) > 1 else 'is'} wide enough")
        few = self._with("too-few")
        if few:
            most = max(entry.trials for entry in few)
            counted = f"{most} of {MIN_TRIALS}" if most else f"none of {MIN_TRIALS}"
            told.append(
                f"too few trials ({counted}) to say whether the "
                f"{'ranges of' if len(few) > 1 else 'range of'} {_listed([entry.parameter for entry in few])} "
                f"{'are' if len(few) > 1 else 'is'} wide enough"
            )
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
    nothing = no_learning(ended, domains)
    if nothing is not None and (nothing.excludes_hyperparameters or not proposed):
        return SweepAdvice(cause=nothing.text)
    comparable = ranked(ended, objective)
    numeric = [name for name, domain in domains.items() if ends(domain) is not None]
    ranges = []
    for name in numeric:
        found = evidence(name, domains, comparable)
        if name in proposed:
            ranges.append(_from_verdicts(proposed[name], found))
        else:
            ranges.append(_from_ranking(name, domains[name], found, limits.get(name, (None, None)), len(numeric)))
    edges = {entry.parameter: entry.edge for entry in ranges if entry.finding == "move"}
    ways = {name: _way(name, edges[name], proposed) for name in edges}
    wide = {entry.parameter for entry in ranges if entry.finding == "wide-enough"}
    reach = {name: bounds for name, domain in domains.items() if name in wide and (bounds := ends(domain))}
    return SweepAdvice(tuple(ranges), trials=consistent_advice(ended, domains, comparable, ways, reach))


def _way(name: str, edge: str, proposed: Mapping[str, Change]) -> Literal["raise", "lower"]:
    """Return in which direction an edge moves."""
    change = proposed.get(name)
    if change is not None:
        return "raise" if change.high > change.previous_range[1] else "lower"
    return "raise" if edge == "upper" else "lower"


def _from_verdicts(change: Change, found: RangeEvidence) -> RangeAdvice:
    (low, high), counted = change.previous_range, len(change.trials)
    is_upper = change.high != high
    edge: Literal["lower", "upper"] = "upper" if is_upper else "lower"
    value, target = (high, change.high) if is_upper else (low, change.low)
    verb = "raise" if target > value else "lower"
    sure = "clear" if counted > MIN_TRIALS // 2 else "likely" if counted > 2 else "a hint"
    text = f"{verb} the {edge} edge of {change.parameter} from {value:.4g} to {target:.4g} ({sure}): {change.reason}"
    return RangeAdvice(change.parameter, "move", text, edge, value, target, found.correlation, None, found.trials)


def _from_ranking(name: str, domain: Domain, found: RangeEvidence, limits: Limits, ranges: int) -> RangeAdvice:
    """Judge one range by where the best trials lie and by the rank correlation."""
    if found.trials < MIN_TRIALS:
        return RangeAdvice(name, "too-few", "", trials=found.trials)
    wide = RangeAdvice(name, "wide-enough", f"the range of {name} is wide enough", trials=found.trials)
    bounds = ends(domain)
    places = [position(domain, value) for value in found.best_values]
    if bounds is None or not places or places[0] is None:
        return wide
    is_upper = places[0] >= NEAR_EDGE
    if not is_upper and places[0] > 1 - NEAR_EDGE:
        return wide
    near = [place is not None and (place >= NEAR_EDGE if is_upper else place <= 1 - NEAR_EDGE) for place in places]
    if 3 * sum(near) < 2 * len(near) or _best_need_no_move(name, found, is_upper=is_upper):
        return wide
    value, limit = bounds[is_upper], limits[is_upper]
    edge: Literal["lower", "upper"] = "upper" if is_upper else "lower"
    chance = min(1.0, ranges * found.chance(1.0 if is_upper else -1.0))
    known = (edge, value, None, found.correlation, chance, found.trials)
    located = _located(sum(near), len(near), found.trials, domain, is_upper=is_upper)
    against = found.smaller_better > found.larger_better if is_upper else found.larger_better > found.smaller_better
    if (against or chance > LIKELY) and isinstance(domain, CategoricalDistribution):
        return wide  # the outer one of a few values is often among the best by chance
    if against or chance > LIKELY:
        why = "which trials alike in everything else do not confirm" if against else "which may be chance"
        return RangeAdvice(name, "unclear", f"{name}: {located}, {why}", *known)
    target = _target(name, domain, value, is_upper=is_upper)
    if limit is not None:
        target = min(target, limit) if is_upper else max(target, limit)
    if f"{target:.4g}" == f"{value:.4g}" or (target > value) != is_upper:
        return RangeAdvice(name, "at-limit", f"{name}: {located}, and its edge, {value:.4g}, is a limit", *known)
    verb, sure = "raise" if is_upper else "lower", "clear" if chance <= SURE else "likely"
    step = f"{verb} the {edge} edge of {name} from {value:.4g} to {target:.4g}"
    if isinstance(domain, CategoricalDistribution):
        step = f"add {target:.4g} to the values of {name}"
    text = f"{step} ({sure}): {located} (rank correlation {found.correlation or 0.0:.2f})"
    return RangeAdvice(name, "move", text, edge, value, target, found.correlation, chance, found.trials)


def _located(near: int, best: int, trials: int, domain: Domain, *, is_upper: bool) -> str:
    """Say where the best are: "the 3 best of 12 trials lie in the top fifth of the range"."""
    which = "the best" if best == 1 else f"the {best} best" if near == best else f"{near} of the {best} best"
    lie, have = ("lies", "has") if near == 1 else ("lie", "have")
    if isinstance(domain, CategoricalDistribution):
        return f"{which} of {trials} trials {have} the {'largest' if is_upper else 'smallest'} value"
    return f"{which} of {trials} trials {lie} in the {'top' if is_upper else 'bottom'} fifth of the range"


def _best_need_no_move(name: str, found: RangeEvidence, *, is_upper: bool) -> bool:
    """Return whether the best trials themselves speak against going beyond the edge.

    At an upper edge most of them overfitted or diverged, or kept an epoch before their last one.
    """
    if not is_upper:
        return False
    kinds = [trial.verdict.kind for trial, _ in found.best if trial.verdict is not None]
    lost = sum(kind in _DIVERGED_OR_OVERFIT for kind in kinds)
    early = 0
    if role_of(name) == EPOCHS:
        early = sum(
            trial.best_epoch is not None and trial.best_epoch <= trial.trained_epochs - 1 for trial, _ in found.best
        )
    return 2 * lost > len(found.best) or 2 * early > len(found.best)


def _target(name: str, domain: Domain, value: float, *, is_upper: bool) -> float:
    """Return where an edge goes: by a factor on a log scale, by half of the range on another."""
    role = role_of(name)
    if role == EPOCHS or (isinstance(domain, NumericRange) and not domain.log and role not in LEARNING_RATES):
        bounds = ends(domain) or (value, value)
        step = (bounds[1] - bounds[0]) / 2
        target = value * EPOCHS_FACTOR if role == EPOCHS and is_upper else value + (step if is_upper else -step)
        target = max(target, 0.0 if bounds[0] >= 0 else target)
    else:
        factor = RATE_FACTOR if role in LEARNING_RATES else OTHER_FACTOR
        target = value * factor if is_upper else value / factor
    numbers = domain.choices if isinstance(domain, CategoricalDistribution) else (domain.low, domain.high)
    if all(isinstance(number, int) for number in numbers):
        return float(math.ceil(target) if is_upper else max(1 if role == EPOCHS else -math.inf, math.floor(target)))
    return float(f"{target:.3g}")


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
