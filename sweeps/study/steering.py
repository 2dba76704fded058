"""Steering: verdicts move an edge of the search space. Pure functions.

An edge moves only on repeated evidence from trials near it, and evidence from before its last move
no longer counts. A range is never cut away from the best trials, and never grows against the
comparison of trials that are alike in everything else. Within the steering bounds a range may grow
beyond the range in the sweep file. A list of values has no edges and stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated, NamedTuple

from optuna.distributions import FloatDistribution, IntDistribution
from pydantic import Field

from search_spaces.usual_names import role_of
from sweeps.spec.objective import Objective
from sweeps.study.no_learning import no_learning
from sweeps.study.range_evidence import Parameter, RangeEvidence, evidence, ranked, searched_domains
from sweeps.trials.trial import Trial
from sweeps.verdicts.advice import EPOCHS, LEARNING_RATES
from sweeps.verdicts.verdict import FitVerdict, VerdictKind

MIN_TRIALS = 2
"""How many trials near an edge must show the same before it moves: one alone may be chance."""

NEAR_TOP = 2 / 3
"""The upper third of a range, on its own scale, is near its upper edge."""

EPOCHS_FACTOR, RATE_FACTOR = 1.5, 4.0
"""How far an upper edge goes up: half as many epochs again; about half a power of ten of
learning rate."""

MAX_CHANGES = 3
"""How often an edge may move: if the space is still wrong after that, a person should look at
it."""

NumericRange = IntDistribution | FloatDistribution
SteeringBounds = tuple[float | None, float | None]
"""The lowest and the highest value that a range may reach. None: no bound."""


@dataclass(frozen=True)
class Change:
    """A moved range of one hyperparameter: `previous_range` to `low .. high`, ends inclusive.

    `trials` are the evidence. `ended_trials` is how many trials had ended by then; only later ones
    count for the next change. `probe` is a value of this hyperparameter to try first, combined with
    the best point's other values; None if the sampler's own choice is as good. Two fields are
    stored under their names of version 0.1.
    """

    parameter: str
    previous_range: Annotated[tuple[float, float], Field(alias="was")]
    low: float
    high: float
    reason: str
    trials: tuple[int, ...]
    ended_trials: Annotated[int, Field(alias="after")]
    probe: int | float | None = None

    @property
    def text(self) -> str:
        """The change in words: "n_epochs 2 .. 4 -> 2 .. 6: ..."."""
        before, now = (f"{low:.4g} .. {high:.4g}" for low, high in (self.previous_range, (self.low, self.high)))
        return f"{self.parameter} {before} -> {now}: {self.reason}"


def propose_changes(
    ended: Sequence[Trial],
    space: Iterable[Parameter],
    bounds: Mapping[str, SteeringBounds],
    earlier_changes: Sequence[Change],
    objective: Objective,
) -> tuple[Change, ...]:
    """Return the changes that the verdicts call for now, at most one for each hyperparameter.

    `ended` is in the order in which the trials ended, and `earlier_changes` are the changes made so
    far. A changed range lies inside `bounds` (without an entry there is no bound), also where the
    range in the sweep file begins below them, and a range never becomes empty. No change leaves out
    the value of a trial that is among the best by the `objective`. There is no change if the
    hyperparameters are not the reason why no trial learns.
    """
    changes = []
    parameters = tuple(space)
    domains = searched_domains(parameters)
    nothing = no_learning(ended, domains, objective)
    if nothing is not None and nothing.excludes_hyperparameters:
        return ()
    comparable = ranked(ended, objective)
    for parameter in parameters:
        role = role_of(parameter.name)
        if role not in (EPOCHS, *LEARNING_RATES) or not isinstance(parameter.distribution, NumericRange):
            continue
        earlier = [change for change in earlier_changes if change.parameter == parameter.name]
        if len(earlier) >= MAX_CHANGES:
            continue
        recent = ended[earlier[-1].ended_trials if earlier else 0 :]
        parameter_bounds = bounds.get(parameter.name, (None, None))
        gather = partial(evidence, parameter.name, domains, comparable)
        edges = _Edges(parameter.name, parameter.distribution, recent, len(ended), parameter_bounds, gather)
        candidates = edges.epochs_changes() if role == EPOCHS else edges.rate_changes()
        changes.append(next(candidates, None))
    return tuple(change for change in changes if change is not None)


class _JudgedTrial(NamedTuple):
    """A trial with a settled verdict, and its value of the range's hyperparameter."""

    value: float
    trial: Trial
    verdict: FitVerdict


class _Edges:
    """One range, and the judged trials inside it."""

    def __init__(
        self,
        name: str,
        domain: NumericRange,
        recent: Sequence[Trial],
        ended_trials: int,
        bounds: SteeringBounds,
        gather: Callable[[], RangeEvidence],
    ) -> None:
        self._name, self._domain, self._ended_trials = name, domain, ended_trials
        self._gather = gather
        self._lowest = -math.inf if bounds[0] is None else bounds[0]
        self._highest = math.inf if bounds[1] is None else bounds[1]
        self._judged = [
            _JudgedTrial(float(trial.hyperparameters[name]), trial, trial.verdict)
            for trial in recent
            if trial.verdict is not None
            and trial.verdict.kind is not VerdictKind.UNSETTLED
            and domain.low <= float(trial.hyperparameters.get(name, math.nan)) <= domain.high
        ]

    @cached_property
    def _evidence(self) -> RangeEvidence:
        """What the values of all trials say about the range. Gathered only where a verdict asks."""
        return self._gather()

    @property
    def _best(self) -> list[float]:
        """The values of the best trials, which the range keeps. Those before a change may lie
        outside.
        """
        return [value for value in self._evidence.best_values if self._domain.low <= value <= self._domain.high]

    def epochs_changes(self) -> Iterator[Change]:
        """Raise the top if runs there were still improving; lower it if they overfitted."""
        low, high = max(self._domain.low, self._lowest), self._domain.high
        near = self._near_the_top()
        improving = [
            judged.trial for judged in near if judged.verdict.kind is VerdictKind.UNDERFIT and judged.verdict.improving
        ]
        if _is_majority(improving, near) and self._may_grow():
            raised = min(self._highest, max(high + 1, math.ceil(high * EPOCHS_FACTOR)))
            if raised > high:
                yield self._change(low, raised, "were still improving when training ended", improving, probe=raised)
        overfitted = [judged for judged in near if judged.verdict.kind is VerdictKind.OVERFIT]
        overfitted_trials = [judged.trial for judged in overfitted]
        useful = max((math.ceil(judged.verdict.keep_epoch or 1) for judged in overfitted), default=high)
        if _is_majority(overfitted_trials, near) and len(overfitted_trials) > MIN_TRIALS:
            top = max(low, useful, *self._best)
            if top < high:
                reason = f"overfitted, and none improved after {useful} epochs"
                yield self._change(low, top, reason, overfitted_trials)

    def rate_changes(self) -> Iterator[Change]:
        """Yield the changes of a learning-rate range, the most urgent first.

        Cut the range if runs diverged or collapsed. Raise the top if runs there underfitted. Lower
        it if runs there overfitted and the runs below did not.
        """
        low, high = max(self._domain.low, self._lowest), self._domain.high
        yield from self._cut_of_failed(low, high)
        near = self._near_the_top()
        underfitted = [
            judged.trial
            for judged in near
            if judged.verdict.kind is VerdictKind.UNDERFIT and not judged.verdict.collapsed
        ]
        raised = min(self._highest, high * RATE_FACTOR)
        if _is_majority(underfitted, near) and raised > high and self._may_grow():
            probe = math.sqrt(high * raised)
            yield self._change(low, raised, "underfitted near the upper edge", underfitted, probe=probe)
        overfitted = [judged.trial for judged in near if judged.verdict.kind is VerdictKind.OVERFIT]
        kinds_below = [judged.verdict.kind for judged in self._judged if self._position(judged.value) < NEAR_TOP]
        overfitted_below = sum(kind is VerdictKind.OVERFIT for kind in kinds_below)
        top = self._value_at(NEAR_TOP)
        if (
            _is_majority(overfitted, near)
            and low < top
            and len(overfitted) > MIN_TRIALS
            and len(kinds_below) >= MIN_TRIALS
            and 3 * overfitted_below < len(kinds_below)
            and max(self._best, default=low) < top
        ):
            reason = "overfitted near the upper edge, and few below it"
            yield self._change(low, top, reason, overfitted)

    def _cut_of_failed(self, low: float, high: float) -> Iterator[Change]:
        """Cut the range between the stable values and those that diverged or collapsed.

        From the lowest failed value on, at least half of the trials must have failed. The cut lies
        above the best trials, whatever their verdicts.
        """
        failed = [
            judged for judged in self._judged if judged.verdict.kind is VerdictKind.DIVERGED or judged.verdict.collapsed
        ]
        lowest_failed = min((judged.value for judged in failed), default=math.inf)
        at_or_above = [judged.value for judged in self._judged if judged.value >= lowest_failed]
        if len(failed) < MIN_TRIALS or 2 * len(failed) < len(at_or_above):
            return
        highest_of_best = max(self._best, default=-math.inf)
        above_best = [judged for judged in failed if judged.value > highest_of_best]
        if len(above_best) < MIN_TRIALS:
            return
        lowest_failed = min(judged.value for judged in above_best)
        below = [value for value in (*self._best, *(judged.value for judged in self._judged)) if value < lowest_failed]
        top = math.sqrt(max(below) * lowest_failed) if below else lowest_failed / RATE_FACTOR
        top = max(top, self._lowest)
        bottom = low if low < top else max(self._lowest, top / RATE_FACTOR**2)
        if bottom < top < high:
            collapsed = any(judged.verdict.collapsed for judged in self._judged)
            reason = "diverged or collapsed" if collapsed else "diverged"
            yield self._change(bottom, top, reason, [judged.trial for judged in above_best])

    def _may_grow(self) -> bool:
        """Return whether no evidence speaks against larger values.

        The best trials, if there are any, include one near the top; and of trials that are alike in
        everything else, the smaller value was not more often the better one.
        """
        is_best_near = not self._best or any(self._position(value) >= NEAR_TOP for value in self._best)
        return is_best_near and self._evidence.smaller_better <= self._evidence.larger_better

    def _near_the_top(self) -> list[_JudgedTrial]:
        return [judged for judged in self._judged if self._position(judged.value) >= NEAR_TOP]

    def _position(self, value: float) -> float:
        """Return a value's position in the range, from 0 to 1, on the range's own scale."""
        low, high = self._domain.low, self._domain.high
        if low == high:
            return 1.0
        if self._domain.log:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)

    def _value_at(self, position: float) -> float:
        low, high = self._domain.low, self._domain.high
        return float(low * (high / low) ** position if self._domain.log else low + position * (high - low))

    def _change(
        self, low: float, high: float, finding: str, trials: Sequence[Trial], probe: float | None = None
    ) -> Change:
        numbers = tuple(trial.number for trial in trials)
        reason = f"trials {', '.join(map(str, numbers))} {finding}"
        previous = (float(self._domain.low), float(self._domain.high))
        return Change(self._name, previous, float(low), float(high), reason, numbers, self._ended_trials, probe)


def _is_majority(some: Sequence[Trial], near: Sequence[_JudgedTrial]) -> bool:
    return len(some) >= MIN_TRIALS and 2 * len(some) > len(near)
