"""The rule of promotion: its simulated error rate, and laws that hold for all measurements."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from backends import codec
from sweeps.champions.comparison import Comparison, compare
from sweeps.champions.decision import decide, keep_champion
from sweeps.champions.guards import broken_guards, recall_by_class
from sweeps.spec.sweep_file import ChampionSpec
from sweeps.study.champion_decision import ChampionDecision

pytestmark = pytest.mark.unit

pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=300)
guards = st.builds(
    ChampionSpec,
    max_latency_ms=st.none() | st.floats(0.1, 1e4),
    max_cost_usd=st.none() | st.floats(0, 100),
    min_recall=st.none() | st.floats(0, 1),
)
measurements = st.none() | st.floats(0, 1e6) | st.just(math.nan)


def columns(answers: list[tuple[bool, bool]]) -> tuple[np.ndarray, np.ndarray]:
    array = np.array(answers, dtype=np.bool_)
    return array[:, 0], array[:, 1]


def decided(comparison: Comparison, broken: tuple[str, ...] = ()) -> ChampionDecision:
    return decide("pairs", "2", "the champion (version 1)", comparison, broken)


@pytest.mark.parametrize("examples", [12, 60, 500])
@pytest.mark.parametrize("disagreement", [0.02, 0.1, 0.4])
def test_a_challenger_that_is_no_better_is_promoted_at_most_in_the_stated_share_of_challenges(
    examples: int, disagreement: float
) -> None:
    random, challenges = np.random.default_rng(5), 400
    promoted = promoted_by_interval = 0
    for number in range(challenges):
        champion = random.random(examples) < 0.8
        flipped = random.random(examples) < disagreement
        challenger = np.where(flipped, random.random(examples) < 0.5, champion)
        champion = np.where(flipped, random.random(examples) < 0.5, champion)
        comparison = compare(challenger, champion, number)
        promoted += decided(comparison).promoted
        promoted_by_interval += comparison.difference_low > 0
    # 2.5 % of 400 challenges are 10. One in a thousand of these simulations exceeds the limit, 21.
    assert promoted <= binom.ppf(0.999, challenges, 0.025)
    assert promoted <= promoted_by_interval


def test_the_bootstrap_alone_would_be_wrong_if_few_examples_differ() -> None:
    """Four wins of four happen by chance once in 16 times, but their interval lies above zero."""
    champion = np.ones(500, dtype=np.bool_)
    champion[:4] = False
    comparison = compare(np.ones(500, dtype=np.bool_), champion, 7)
    assert comparison.difference_low > 0
    assert comparison.p_value == pytest.approx(1 / 16)
    assert not decided(comparison).promoted


def test_a_challenger_that_is_better_is_promoted_nearly_always() -> None:
    random = np.random.default_rng(11)
    promoted = 0
    for number in range(200):
        champion = random.random(500) < 0.75
        challenger = np.where(random.random(500) < 0.3, random.random(500) < 0.95, champion)
        promoted += decided(compare(challenger, champion, number)).promoted
    assert promoted >= 190


@given(pairs, st.integers(0, 2**31 - 1))
def test_identical_models_never_promote(answers: list[tuple[bool, bool]], seed: int) -> None:
    first, _ = columns(answers)
    comparison = compare(first, first.copy(), seed)
    assert (comparison.difference_low, comparison.difference_high, comparison.difference) == (0, 0, 0)
    assert not decided(comparison).promoted


@given(pairs, st.integers(0, 1000))
def test_of_two_models_at_most_one_is_promoted_over_the_other(answers: list[tuple[bool, bool]], seed: int) -> None:
    first, second = columns(answers)
    forward, backward = compare(first, second, seed), compare(second, first, seed)
    assert not (forward.beyond_chance and backward.beyond_chance)
    assert forward.difference == pytest.approx(-backward.difference)
    if forward.beyond_chance:
        assert first.sum() > second.sum()


@given(pairs, guards, measurements, measurements)
@settings(max_examples=300)
def test_a_broken_guard_never_promotes(
    answers: list[tuple[bool, bool]], champion_spec: ChampionSpec, latency_ms: float | None, usd: float | None
) -> None:
    challenger, champion = columns(answers)
    recall = recall_by_class(["a" if n % 3 else "b" for n in range(len(answers))], challenger)
    broken = broken_guards(champion_spec, recall, latency_ms, usd)
    comparison = compare(challenger, champion, 7)
    decision = decided(comparison, broken)
    holds = [
        champion_spec.max_latency_ms is None or (latency_ms is not None and latency_ms <= champion_spec.max_latency_ms),
        champion_spec.max_cost_usd is None or (usd is not None and usd <= champion_spec.max_cost_usd),
        champion_spec.min_recall is None or all(value >= champion_spec.min_recall for value in recall.values()),
    ]
    assert decision.promoted == (comparison.beyond_chance and all(holds))
    assert len(broken) == holds.count(False)
    assert all(clause in decision.reason for clause in broken)


@given(pairs, st.integers(0, 1000))
def test_the_same_arguments_give_the_same_decision_and_it_survives_json(
    answers: list[tuple[bool, bool]], seed: int
) -> None:
    challenger, champion = columns(answers)
    decision = decided(compare(challenger, champion, seed))
    assert decision == decided(compare(challenger, champion, seed))
    assert codec.from_json(ChampionDecision, codec.to_json(decision)) == decision


def test_the_reason_states_the_numbers() -> None:
    champion, challenger = np.zeros(100, dtype=np.bool_), np.zeros(100, dtype=np.bool_)
    champion[:70] = challenger[:85] = True
    promoted = decided(compare(challenger, champion, 7))
    assert promoted.promoted
    assert "version 2 has accuracy 0.85 on 100 test examples" in promoted.reason
    assert (
        "the champion (version 1) has 0.7: better by more than chance explains, difference +0.15 (" in promoted.reason
    )
    kept = decided(compare(champion, challenger, 7))
    assert not kept.promoted
    assert ": worse, difference -0.15 (" in kept.reason
    assert (kept.challenger_score, kept.champion_score) == (0.7, 0.85)


def test_nothing_is_promoted_without_a_comparison() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        compare(np.ones(3, dtype=np.bool_), np.ones(4, dtype=np.bool_), 7)
    assert not keep_champion("pairs", "2", 0.9, "the champion cannot predict").promoted


@given(st.integers(0, 200), st.integers(0, 200))
def test_the_p_value_is_that_of_the_binomial_test(won: int, lost: int) -> None:
    challenger = np.array([True] * won + [False] * lost + [True], dtype=np.bool_)
    champion = np.array([False] * won + [True] * lost + [True], dtype=np.bool_)
    expected = binom.sf(won - 1, won + lost, 0.5) if won + lost else 1.0
    assert compare(challenger, champion, 7).p_value == pytest.approx(expected)


def test_recall_is_per_class() -> None:
    right = np.array([True, False, True, True])
    assert recall_by_class(["a", "a", "b", "c"], right) == {"a": 0.5, "b": 1.0, "c": 1.0}
    [clause] = broken_guards(ChampionSpec(min_recall=0.6), recall_by_class(["a", "a", "b", "c"], right), None, None)
    assert clause == "its recall is only 0.5 for a, but min_recall is 0.6"


def test_of_many_classes_below_min_recall_the_lowest_are_named() -> None:
    [clause] = broken_guards(ChampionSpec(min_recall=0.9), {f"c{n}": n / 10 for n in range(9)}, None, None)
    assert "only 0 for c0, 0.1 for c1, 0.2 for c2, 0.3 for c3, 0.4 for c4 (and too low for 4 more), but" in clause


# ------------------------------------------------------------------------------------ graded scores
def test_graded_scores_are_compared_by_their_differences() -> None:
    random = np.random.default_rng(3)
    opponent = random.random(200)
    challenger = np.clip(opponent + random.normal(0.05, 0.1, 200), 0, 1)
    comparison = compare(challenger, opponent, 7)
    assert comparison.difference == pytest.approx(float((challenger - opponent).mean()))
    assert comparison.difference_low < comparison.difference < comparison.difference_high
    assert comparison.beyond_chance
    assert "has chrf" in decide("m", "2", "the champion", comparison, (), "chrf").reason


def test_where_lower_scores_are_better_the_lower_model_is_promoted() -> None:
    lower, higher = np.linspace(0, 0.5, 100), np.linspace(0.3, 0.9, 100)
    assert compare(lower, higher, 7, maximize=False).beyond_chance
    assert not compare(higher, lower, 7, maximize=False).beyond_chance
    assert compare(lower, higher, 7, maximize=False).difference > 0


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=60), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_of_two_models_with_graded_scores_at_most_one_is_promoted(
    answers: list[tuple[float, float]], seed: int
) -> None:
    first, second = np.array(answers).T
    assert not (compare(first, second, seed).beyond_chance and compare(second, first, seed).beyond_chance)
    assert not compare(first, first, seed).beyond_chance


def test_a_challenger_with_graded_scores_that_is_no_better_is_rarely_promoted() -> None:
    random, promoted = np.random.default_rng(9), 0
    for number in range(100):
        quality = random.random(80)
        first, second = (np.clip(quality + random.normal(0, 0.2, 80), 0, 1) for _ in range(2))
        promoted += compare(first, second, number).beyond_chance
    assert promoted <= binom.ppf(0.999, 100, 0.025)
