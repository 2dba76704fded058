"""The finals: the best configurations of the search, repeated with other seeds, ranked by what does not depend on luck.

The best of many single runs owes part of its lead to chance. A repetition with another seed does not share that luck;
so a candidate is ranked by the mean of its repetitions alone, and the run that made it a candidate does not count.
Everything here is a pure function of the repetitions' results and of a seed for the bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweeps.spec.objective import Objective
from sweeps.trials.trial import Trial, leaderboard

RESAMPLES = 2000
LEVEL = 0.95
"""The bootstrap's size, and the share of chance that an interval covers."""


@dataclass(frozen=True)
class FinalsCandidate:
    """A configuration's repetitions: the objective's value by seed, and what one of them costs.

    `number` is the trial of the search. `right` (seeds, examples) says which validation examples each repetition got
    right, where the objective is the accuracy; None where that is not known. `cost` is in dollars or in tokens, the
    same for all candidates.
    """

    number: int
    values: tuple[float, ...]
    cost: float
    right: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class CandidateScore:
    """A candidate's mean over its repetitions, with a bootstrap interval, and how far it is behind the best mean.

    `behind_low` is how far behind it is at least (95 %): up to 0 where the difference lies inside the noise.
    """

    number: int
    mean: float
    low: float
    high: float
    behind: float
    behind_low: float
    cost: float
    values: tuple[float, ...]


@dataclass(frozen=True)
class FinalsResult:
    """Who won and why, in one sentence; the standings by mean, best first.

    `searched_value` is what the winner had in the search. `test` is the winner's mean on the test split over its
    repetitions, with its interval; None where it was not scored, for the reason in `untested`.
    """

    metric: str
    standings: tuple[CandidateScore, ...]
    winner: int
    reason: str
    searched_value: float
    test: tuple[float, float, float] | None = None
    untested: str = ""

    def was_decided_by(self, repeats: Sequence[Trial]) -> bool:
        """Whether these are the repetitions that the result was decided by."""
        values: dict[int, list[float]] = {}
        for each in repeats:
            if each.values is not None and each.repeat_of is not None:
                values.setdefault(each.repeat_of, []).append(each.values[0])
        return values == {each.number: list(each.values) for each in self.standings}


def winning_trial(
    trained: Sequence[Trial], repeats: Sequence[Trial], winner: int | None, objective: Objective
) -> Trial | None:
    """Return the trial whose model the sweep hands over, or None where there is none.

    That is the winner's repetition with the best value where there were finals (its run in the search, where no
    repetition's model is kept), else the best trial of the search.
    """
    of_the_winner = [each for each in repeats if winner is not None and each.repeat_of == winner]
    searched = [each for each in trained if each.number == winner]
    ranked = [*leaderboard(of_the_winner, objective), *searched, *leaderboard(trained, objective)]
    return next((each for each in ranked if each.model), None)


def rank(
    candidates: Sequence[FinalsCandidate], objective: Objective, searched: Mapping[int, float], seed: int
) -> FinalsResult:
    """Rank candidates by their means; of those whose distance to the best lies inside the noise the cheapest wins.

    `searched` holds the value of each candidate in the search. There is at least one candidate, and each has at least
    one value. The same arguments give the same result.
    """
    sign = 1.0 if objective.direction == "maximize" else -1.0
    draws = {each.number: _resampled(each, seed) for each in candidates}
    means = {each.number: sum(each.values) / len(each.values) for each in candidates}
    best = max(candidates, key=lambda each: (sign * means[each.number], -each.cost, -each.number))
    standings = []
    for each in candidates:
        behind = sign * (draws[best.number] - draws[each.number])
        low, high = interval(draws[each.number])
        standings.append(
            CandidateScore(
                each.number,
                means[each.number],
                low,
                high,
                sign * (means[best.number] - means[each.number]),
                0.0 if each is best else interval(behind)[0],
                each.cost,
                each.values,
            )
        )
    standings.sort(key=lambda each: (each.behind, each.cost, each.number))
    equal = [each for each in standings if each.behind_low <= 0]
    winner = min(equal, key=lambda each: (each.cost, each.behind, each.number))
    reason = _reason(standings, winner)
    return FinalsResult(objective.metric, tuple(standings), winner.number, reason, searched[winner.number])


def interval(draws: NDArray[np.float64]) -> tuple[float, float]:
    """Return the central `LEVEL` share of bootstrap draws."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def accuracy_interval(right: NDArray[np.bool_], seed: int) -> tuple[float, float, float]:
    """Return the mean accuracy of repetitions (seeds, examples), with its interval over seeds and examples."""
    draws = _resampled(FinalsCandidate(0, (0.0,) * len(right), 0.0, right), seed)
    return float(right.mean()), *interval(draws)


def _resampled(candidate: FinalsCandidate, seed: int) -> NDArray[np.float64]:
    """Return bootstrap draws of the mean over seeds, and over examples where their results are known.

    All candidates are resampled with the same examples, which makes their differences paired. A mean of k values that
    are drawn with replacement varies by less than a mean of k new ones, by the factor (k-1)/k: the draws are widened.
    """
    count = len(candidate.values)
    seeds = np.random.default_rng([seed, candidate.number]).integers(0, count, (RESAMPLES, count))
    if candidate.right is None:
        values = np.asarray(candidate.values)
        drawn = values[seeds].mean(axis=1)
        return np.asarray(values.mean() + (drawn - values.mean()) * _widening(count))
    right = candidate.right.astype(np.float64)
    examples = right.shape[1]
    weights = np.random.default_rng([seed, examples]).multinomial(examples, [1 / examples] * examples, RESAMPLES)
    by_seed = right.mean(axis=1)
    chance_of_seeds = (by_seed[seeds].mean(axis=1) - by_seed.mean()) * _widening(count)
    return np.asarray(weights @ right.mean(axis=0) / examples + chance_of_seeds)


def _widening(count: int) -> float:
    return math.sqrt(count / (count - 1)) if count > 1 else 0.0


def _reason(standings: Sequence[CandidateScore], winner: CandidateScore) -> str:
    best = standings[0]
    if len(standings) == 1:
        return f"trial {winner.number} was the only candidate"
    if winner is best:
        rivals = [each for each in standings[1:] if each.behind_low <= 0]
        if rivals:
            numbers = ", ".join(str(each.number) for each in rivals)
            return f"trial {winner.number} has the best mean; {numbers} cannot be told apart from it, and cost no less"
        return f"trial {winner.number} has the best mean, by more than chance explains"
    return (
        f"trial {winner.number} is {winner.behind:.3g} behind the best mean (trial {best.number}), which is inside the "
        f"noise, and costs {1 - winner.cost / best.cost:.0%} less"
    )
