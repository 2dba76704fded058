"""The finals: the best configurations, repeated with other seeds and ranked by their means.

The best of many single runs owes part of its lead to chance. A repetition with another seed does
not share that luck. A candidate is therefore ranked by the mean of its repetitions alone; the run
that made it a candidate does not count. Everything here is a pure function of the results of the
repetitions and a seed for the bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backends.contract import Decoding
from sweeps.spec.objective import Objective
from sweeps.trials.trial import Trial, leaderboard

RESAMPLES = 2000
"""How many bootstrap draws the intervals use."""

LEVEL = 0.95
"""The coverage of an interval."""


@dataclass(frozen=True)
class FinalsCandidate:
    """The repetitions of one configuration: the value for each seed, and the cost of each.

    `number` is its trial in the search. `scores` (seeds, examples) are the scores of the validation
    examples under each repetition, if the objective is their mean; None if they are unknown. `cost`
    is in dollars or in tokens, the same for all candidates.
    """

    number: int
    values: tuple[float, ...]
    cost: float
    scores: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class CandidateScore:
    """A candidate's mean with its bootstrap interval, and its distance behind the best mean.

    `behind_low` is the smallest distance at 95 % confidence. At 0 or below, the difference lies
    inside the noise.
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
    """The winner, the reason in one sentence, and the standings by mean, best first.

    `searched_value` is the winner's value in the search. `test` is the winner's mean of
    `test_metric` on the test split over its repetitions, with its interval; without a value for
    each example the interval is that of the repetitions. It is None if the winner was not scored,
    and `untested` then says why.

    `decodings` are the ways of generating that were tried with the winner, the chosen one first,
    each with the mean of its repetitions on the validation examples; empty if none were.
    """

    metric: str
    standings: tuple[CandidateScore, ...]
    winner: int
    reason: str
    searched_value: float
    test: tuple[float, float, float] | None = None
    untested: str = ""
    test_metric: str = "accuracy"
    decodings: tuple[tuple[Decoding, float], ...] = ()

    @property
    def winning_score(self) -> CandidateScore:
        """The score of the winner."""
        return next(one for one in self.standings if one.number == self.winner)

    def is_far_worse_on_test(self, objective: Objective) -> bool:
        """Return whether the winner's test score lies outside what its validation score allows.

        That is where the intervals of the same metric do not overlap, and the test score is worse.
        """
        if self.test is None or self.metric.removeprefix("valid_") != self.test_metric:
            return False
        _, low, high = self.test
        winner = self.winning_score
        return high < winner.low if objective.direction == "maximize" else low > winner.high

    def was_decided_by(self, repeats: Sequence[Trial]) -> bool:
        """Return whether exactly these repetitions decided the result."""
        values: dict[int, list[float]] = {}
        for trial in repeats:
            if trial.values is not None and trial.repeat_of is not None:
                values.setdefault(trial.repeat_of, []).append(trial.values[0])
        return values == {score.number: list(score.values) for score in self.standings}


def winning_trial(
    search_trials: Sequence[Trial], repeats: Sequence[Trial], winner: int | None, objective: Objective
) -> Trial | None:
    """Return the trial whose model the sweep delivers, or None if there is none.

    After finals that is the winner's best repetition, or the winner's run in the search if no
    repetition's model is kept. Without finals (`winner` is None) it is the best trial of the
    search.
    """
    winner_repeats = [trial for trial in repeats if winner is not None and trial.repeat_of == winner]
    searched = [trial for trial in search_trials if trial.number == winner]
    ranked = [*leaderboard(winner_repeats, objective), *searched, *leaderboard(search_trials, objective)]
    return next((trial for trial in ranked if trial.model), None)


def rank(
    candidates: Sequence[FinalsCandidate],
    objective: Objective,
    searched: Mapping[int, float],
    seed: int,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> FinalsResult:
    """Rank the candidates by their means; the cheapest within the noise of the best mean wins.

    That is a candidate whose distance may be chance, and whose mean lies inside the interval of the
    best. With two seeds, of which one failed, any distance may be chance.

    `searched` holds each candidate's value in the search. There must be at least one candidate,
    each with at least one value. Intervals end at the `bounds` of the objective. The same arguments
    give the same result.
    """
    sign = 1.0 if objective.direction == "maximize" else -1.0
    draws = {candidate.number: _resampled_means(candidate, seed) for candidate in candidates}
    means = {candidate.number: sum(candidate.values) / len(candidate.values) for candidate in candidates}
    best = max(candidates, key=lambda candidate: (sign * means[candidate.number], -candidate.cost, -candidate.number))
    standings = []
    for candidate in candidates:
        behind = sign * (draws[best.number] - draws[candidate.number])
        low, high = interval(draws[candidate.number])
        score = CandidateScore(
            number=candidate.number,
            mean=means[candidate.number],
            low=max(low, bounds[0]),
            high=min(high, bounds[1]),
            behind=sign * (means[best.number] - means[candidate.number]),
            behind_low=0.0 if candidate is best else interval(behind)[0],
            cost=candidate.cost,
            values=candidate.values,
        )
        standings.append(score)
    standings.sort(key=lambda score: (score.behind, score.cost, score.number))
    tied = [standings[0], *_level_with_the_best(standings)]
    winner = min(tied, key=lambda score: (score.cost, score.behind, score.number))
    reason = _reason(standings, winner)
    return FinalsResult(objective.metric, tuple(standings), winner.number, reason, searched[winner.number])


def interval(draws: NDArray[np.float64]) -> tuple[float, float]:
    """Return the central `LEVEL` share of bootstrap draws."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def mean_interval(scores: NDArray[np.float64], seed: int) -> tuple[float, float, float]:
    """Return the mean of the scores (seeds, examples), with its interval over both."""
    draws = _resampled_means(FinalsCandidate(0, (0.0,) * len(scores), 0.0, scores), seed)
    return float(scores.mean()), *interval(draws)


def interval_of_means(values: Sequence[float], seed: int) -> tuple[float, float, float]:
    """Return the mean of values, one per repetition, with its interval over the repetitions."""
    draws = _resampled_means(FinalsCandidate(0, tuple(values), 0.0), seed)
    return sum(values) / len(values), *interval(draws)


def _resampled_means(candidate: FinalsCandidate, seed: int) -> NDArray[np.float64]:
    """Return bootstrap draws of the mean over seeds, and over examples if they are known.

    All candidates are resampled with the same examples, which pairs their differences. The mean of
    k values drawn with replacement varies less than the mean of k new values, by the factor
    (k-1)/k; the draws are widened to make up for it.
    """
    count = len(candidate.values)
    seeds = np.random.default_rng([seed, candidate.number]).integers(0, count, (RESAMPLES, count))
    if candidate.scores is None:
        values = np.asarray(candidate.values)
        drawn = values[seeds].mean(axis=1)
        return np.asarray(values.mean() + (drawn - values.mean()) * _widening(count))
    scores, examples = candidate.scores, candidate.scores.shape[1]
    weights = np.random.default_rng([seed, examples]).multinomial(examples, [1 / examples] * examples, RESAMPLES)
    by_seed = scores.mean(axis=1)
    seed_deviation = (by_seed[seeds].mean(axis=1) - by_seed.mean()) * _widening(count)
    return np.asarray(weights @ scores.mean(axis=0) / examples + seed_deviation)


def _widening(count: int) -> float:
    return math.sqrt(count / (count - 1)) if count > 1 else 0.0


def _level_with_the_best(standings: Sequence[CandidateScore]) -> list[CandidateScore]:
    """Return the other candidates whose distance from the best lies inside the noise."""
    best, *others = standings
    return [score for score in others if score.behind_low <= 0 and best.low <= score.mean <= best.high]


def _reason(standings: Sequence[CandidateScore], winner: CandidateScore) -> str:
    best = standings[0]
    if len(standings) == 1:
        return f"trial {winner.number} was the only candidate"
    if winner is best:
        rivals = _level_with_the_best(standings)
        if rivals:
            numbers = ", ".join(str(score.number) for score in rivals)
            noun = "trial" if len(rivals) == 1 else "trials"
            return (
                f"trial {winner.number} has the best mean; {noun} {numbers} did as well within the noise but cost no "
                "less"
            )
        return f"trial {winner.number} has the best mean, by more than chance explains"
    return (
        f"trial {winner.number} is {winner.behind:.3g} behind the best mean (trial {best.number}), which is inside the "
        f"noise, and costs {1 - winner.cost / best.cost:.0%} less"
    )
