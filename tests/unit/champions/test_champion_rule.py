"""The rule of promotion: its error rate by simulation, and the laws that hold whatever is measured."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from backends import codec
from sweeps.champions.comparison import Comparison, broken_guards, compare, recalls
from sweeps.champions.decision import decide, undecided
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
numbers = st.none() | st.floats(0, 1e6) | st.just(math.nan)


def columns(both: list[tuple[bool, bool]]) -> tuple[np.ndarray, np.ndarray]:
    array = np.array(both, dtype=np.bool_)
    return array[:, 0], array[:, 1]


def decided(comparison: Comparison, broken: tuple[str, ...] = ()) -> ChampionDecision:
    return decide("pairs", "2", "the champion, version 1,", comparison, broken)


@pytest.mark.parametrize("examples", [12, 60, 500])
@pytest.mark.parametrize("disagreement", [0.02, 0.1, 0.4])
def test_a_challenger_that_is_no_better_is_promoted_at_most_in_the_stated_share_of_nights(
    examples: int, disagreement: float
) -> None:
    random, nights = np.random.default_rng(5), 400
    promoted = by_the_interval_alone = 0
    for night in range(nights):
        champion = random.random(examples) < 0.8
        flipped = random.random(examples) < disagreement
        challenger = np.where(flipped, random.random(examples) < 0.5, champion)
        champion = np.where(flipped, random.random(examples) < 0.5, champion)
        found = compare(challenger, champion, night)
        promoted += decided(found).promoted
        by_the_interval_alone += found.low > 0
    # 2.5 % of 400 nights are 10; chance brings more than 21 in one of a thousand such simulations
    assert promoted <= binom.ppf(0.999, nights, 0.025)
    assert promoted <= by_the_interval_alone


def test_the_bootstrap_alone_would_be_wrong_where_few_examples_differ() -> None:
    """Why the exact test is there: four wins of four are one in sixteen, and their interval is above zero."""
    champion = np.ones(500, dtype=np.bool_)
    champion[:4] = False
    found = compare(np.ones(500, dtype=np.bool_), champion, 7)
    assert found.low > 0
    assert found.chance == pytest.approx(1 / 16)
    assert not decided(found).promoted


def test_a_challenger_that_is_better_is_promoted_nearly_always() -> None:
    random = np.random.default_rng(11)
    promoted = 0
    for night in range(200):
        champion = random.random(500) < 0.75
        challenger = np.where(random.random(500) < 0.3, random.random(500) < 0.95, champion)
        promoted += decided(compare(challenger, champion, night)).promoted
    assert promoted >= 190


@given(pairs, st.integers(0, 2**31 - 1))
def test_identical_models_never_promote(both: list[tuple[bool, bool]], seed: int) -> None:
    first, _ = columns(both)
    found = compare(first, first.copy(), seed)
    assert (found.low, found.high, found.difference) == (0, 0, 0)
    assert not decided(found).promoted


@given(pairs, st.integers(0, 1000))
def test_of_two_models_at_most_one_is_promoted_over_the_other(both: list[tuple[bool, bool]], seed: int) -> None:
    first, second = columns(both)
    forth, back = compare(first, second, seed), compare(second, first, seed)
    assert not (forth.beyond_noise and back.beyond_noise)
    assert forth.difference == pytest.approx(-back.difference)
    if forth.beyond_noise:
        assert first.sum() > second.sum()


@given(pairs, guards, numbers, numbers)
@settings(max_examples=300)
def test_a_broken_guard_never_promotes(
    both: list[tuple[bool, bool]], wanted: ChampionSpec, latency_ms: float | None, usd: float | None
) -> None:
    challenger, champion = columns(both)
    recall = recalls(["a" if n % 3 else "b" for n in range(len(both))], challenger)
    broken = broken_guards(wanted, recall, latency_ms, usd)
    found = compare(challenger, champion, 7)
    decision = decided(found, broken)
    holds = [
        wanted.max_latency_ms is None or (latency_ms is not None and latency_ms <= wanted.max_latency_ms),
        wanted.max_cost_usd is None or (usd is not None and usd <= wanted.max_cost_usd),
        wanted.min_recall is None or all(each >= wanted.min_recall for each in recall.values()),
    ]
    assert decision.promoted == (found.beyond_noise and all(holds))
    assert len(broken) == holds.count(False)
    assert all(each in decision.reason for each in broken)


@given(pairs, st.integers(0, 1000))
def test_the_same_arguments_give_the_same_decision_and_it_survives_json(
    both: list[tuple[bool, bool]], seed: int
) -> None:
    challenger, champion = columns(both)
    decision = decided(compare(challenger, champion, seed))
    assert decision == decided(compare(challenger, champion, seed))
    assert codec.from_json(ChampionDecision, codec.to_json(decision)) == decision


def test_the_reason_says_the_numbers() -> None:
    champion, challenger = np.zeros(100, dtype=np.bool_), np.zeros(100, dtype=np.bool_)
    champion[:70] = challenger[:85] = True
    promoted = decided(compare(challenger, champion, 7))
    assert promoted.promoted
    assert "0.85 of 100 test examples" in promoted.reason
    assert "version 1, on 0.7: better by more than chance" in promoted.reason
    kept = decided(compare(champion, challenger, 7))
    assert not kept.promoted
    assert ": worse, -0.15 (" in kept.reason
    assert (kept.challenger_score, kept.champion_score) == (0.7, 0.85)


def test_what_cannot_be_compared_is_not_promoted() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        compare(np.ones(3, dtype=np.bool_), np.ones(4, dtype=np.bool_), 7)
    assert not undecided("pairs", "2", 0.9, "the champion cannot be asked").promoted


@given(st.integers(0, 200), st.integers(0, 200))
def test_the_exact_test_is_the_binomial_one(won: int, lost: int) -> None:
    challenger = np.array([True] * won + [False] * lost + [True], dtype=np.bool_)
    champion = np.array([False] * won + [True] * lost + [True], dtype=np.bool_)
    expected = binom.sf(won - 1, won + lost, 0.5) if won + lost else 1.0
    assert compare(challenger, champion, 7).chance == pytest.approx(expected)


def test_recall_is_per_class() -> None:
    right = np.array([True, False, True, True])
    assert recalls(["a", "a", "b", "c"], right) == {"a": 0.5, "b": 1.0, "c": 1.0}
    [sentence] = broken_guards(ChampionSpec(min_recall=0.6), recalls(["a", "a", "b", "c"], right), None, None)
    assert sentence == "it finds only 0.5 of a, and min_recall is 0.6"


def test_of_many_classes_that_miss_the_floor_the_worst_are_named() -> None:
    [sentence] = broken_guards(ChampionSpec(min_recall=0.9), {f"c{n}": n / 10 for n in range(9)}, None, None)
    assert "only 0 of c0, 0.1 of c1, 0.2 of c2, 0.3 of c3, 0.4 of c4 (and too little of 4 more)" in sentence
