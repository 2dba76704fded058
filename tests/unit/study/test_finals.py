"""The finals: means rank the repetitions, and within the noise the cheaper candidate wins."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from backends import codec
from sweeps.spec.objective import Objective
from sweeps.study.finals import FinalsCandidate, FinalsResult, interval, mean_interval, rank, winning_trial
from sweeps.trials.trial import Trial, TrialState

pytestmark = pytest.mark.unit

ACCURACY, LOSS = Objective("valid_accuracy", "maximize"), Objective("valid_loss", "minimize")


def correct_examples(shares: list[float], examples: int, seed: int) -> NDArray[np.float64]:
    drawn = np.random.default_rng(seed).random((len(shares), examples)) < np.array(shares)[:, None]
    return drawn.astype(np.float64)


def candidate(number: int, shares: list[float], cost: float, examples: int = 500) -> FinalsCandidate:
    known = correct_examples(shares, examples, number)
    return FinalsCandidate(number, tuple(float(mean) for mean in known.mean(axis=1)), cost, known)


def test_a_clear_lead_wins_whatever_it_costs() -> None:
    result = rank([candidate(1, [0.6] * 3, 1.0), candidate(2, [0.8] * 3, 9.0)], ACCURACY, {1: 0.9, 2: 0.8}, seed=7)
    assert result.winner == 2
    assert [score.number for score in result.standings] == [2, 1]
    assert "more than chance" in result.reason
    assert result.searched_value == 0.8


def test_within_the_noise_the_cheaper_candidate_wins_and_the_reason_says_so() -> None:
    result = rank([candidate(1, [0.79] * 3, 1.0), candidate(2, [0.8] * 3, 2.0)], ACCURACY, {1: 0.9, 2: 0.8}, seed=7)
    assert result.standings[0].number == 2
    assert result.winner == 1
    assert "inside the noise" in result.reason
    assert "50% less" in result.reason


def test_without_examples_the_seeds_alone_decide() -> None:
    apart = [FinalsCandidate(1, (0.30, 0.31, 0.32), 1.0), FinalsCandidate(2, (0.50, 0.51, 0.52), 0.5)]
    assert rank(apart, LOSS, {1: 0.3, 2: 0.5}, seed=0).winner == 1
    mixed = [FinalsCandidate(1, (0.30, 0.50, 0.40), 1.0), FinalsCandidate(2, (0.35, 0.45, 0.52), 0.5)]
    assert rank(mixed, LOSS, {1: 0.3, 2: 0.5}, seed=0).winner == 2


def test_a_lone_candidate_wins_and_survives_json() -> None:
    result = rank([candidate(3, [0.7, 0.8], 1.0)], ACCURACY, {3: 0.9}, seed=1)
    assert result.winner == 3
    assert codec.from_json(FinalsResult, json.loads(json.dumps(codec.to_json(result)))) == result


def run_of(number: int, value: float | None, repeat_of: int | None = None, model: str | None = "m") -> Trial:
    values = None if value is None else (value,)
    return Trial(number, f"k{number}", "b", {}, 1, TrialState.COMPLETE, values=values, repeat_of=repeat_of, model=model)


def test_a_result_knows_the_repetitions_that_decided_it() -> None:
    result = rank(
        [FinalsCandidate(0, (0.7, 0.8), 1.0), FinalsCandidate(1, (0.6, 0.5), 1.0)], ACCURACY, {0: 0.9, 1: 0.8}, seed=1
    )
    repeats = [run_of(2, 0.7, 0), run_of(3, 0.6, 1), run_of(4, 0.8, 0), run_of(5, 0.5, 1), run_of(6, None, 1)]
    assert result.was_decided_by(repeats)
    assert codec.from_json(FinalsResult, json.loads(json.dumps(codec.to_json(result)))).was_decided_by(repeats)
    assert not result.was_decided_by([*repeats, run_of(7, 0.4, 2)])
    assert not result.was_decided_by(repeats[:-2])


def test_the_winners_run_in_the_search_is_delivered_if_the_models_of_its_repetitions_are_deleted() -> None:
    searched = [run_of(0, 0.9), run_of(1, 0.8)]
    repeats = [run_of(2, 0.7, 1), run_of(3, 0.75, 1), run_of(4, 0.6, 0)]
    assert winning_trial(searched, repeats, 1, ACCURACY) == repeats[1]
    gone = [run_of(2, 0.7, 1, model=None), run_of(3, 0.75, 1, model=None), repeats[2]]
    assert winning_trial(searched, gone, 1, ACCURACY) == searched[1]
    assert winning_trial(searched, [], None, ACCURACY) == searched[0]


@given(
    means=st.lists(st.floats(0.3, 0.9), min_size=1, max_size=4),
    costs=st.lists(st.floats(0.1, 10), min_size=4, max_size=4),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_the_winner_is_the_cheapest_candidate_within_the_noise_in_any_order(
    means: list[float], costs: list[float], seed: int
) -> None:
    candidates = [candidate(n, [mean] * 3, costs[n], examples=80) for n, mean in enumerate(means)]
    searched = dict.fromkeys(range(len(means)), 0.5)
    result = rank(candidates, ACCURACY, searched, seed)
    assert rank(candidates[::-1], ACCURACY, searched, seed) == result
    won = next(score for score in result.standings if score.number == result.winner)
    best = result.standings[0]
    level = [score for score in result.standings if score.behind_low <= 0 and best.low <= score.mean <= best.high]
    assert won is best or won in level
    assert all(won.cost <= score.cost for score in level)
    assert result.standings[0].mean == max(score.mean for score in result.standings)
    assert all(score.low <= score.mean <= score.high for score in result.standings)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_claims() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        shares = np.clip(random.normal(0.7, 0.02, 3), 0, 1)
        _, low, high = mean_interval(correct_examples([float(share) for share in shares], 300, trial), seed=trial)
        covered += low <= 0.7 <= high
    assert 0.85 <= covered / 200 <= 1.0


def test_a_candidate_with_a_failed_seed_does_not_win_by_its_price() -> None:
    steady, shaky = FinalsCandidate(1, (1.0, 1.0), 3.0), FinalsCandidate(2, (0.08, 1.0), 2.0)
    result = rank([steady, shaky], ACCURACY, {1: 1.0, 2: 1.0}, seed=7, bounds=(0.0, 1.0))
    assert result.winner == 1
    assert all(0.0 <= score.low <= score.high <= 1.0 for score in result.standings)


def test_an_interval_is_the_central_share() -> None:
    assert interval(np.arange(1001.0)) == pytest.approx((25.0, 975.0))
