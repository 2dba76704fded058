"""Cohen's kappa equals that of scikit-learn."""

from __future__ import annotations

import random

import pytest
from sklearn.metrics import cohen_kappa_score

from backends.judge.agreement import cohen_kappa, in_words

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(100))
def test_kappa_is_that_of_scikit_learn(seed: int, weighted: bool) -> None:
    chance = random.Random(seed)
    low, high = chance.choice([(1, 5), (0, 10), (-1, 1), (1, 2), (0, 100)])
    items = chance.randint(2, 60)
    person = [chance.randint(low, high) for _ in range(items)]
    judge = [grade if chance.random() < 0.6 else chance.randint(low, high) for grade in person]
    if len({*person, *judge}) == 1:
        judge[0] = low if judge[0] != low else high
    expected = cohen_kappa_score(
        person, judge, labels=list(range(low, high + 1)), weights="quadratic" if weighted else None
    )
    assert cohen_kappa(person, judge, weighted=weighted) == pytest.approx(expected, abs=1e-12)


def test_full_agreement_is_one_and_the_opposite_is_minus_one() -> None:
    assert cohen_kappa([1, 5, 1, 5], [1, 5, 1, 5], weighted=True) == 1.0
    assert cohen_kappa([1, 5, 1, 5], [5, 1, 5, 1], weighted=True) == -1.0


def test_a_near_miss_counts_less_than_a_far_one_only_with_weights() -> None:
    person, near, far = [1, 2, 3, 4, 5], [1, 2, 3, 4, 4], [1, 2, 3, 4, 1]
    weighted = [cohen_kappa(person, judge, weighted=True) for judge in (near, far)]
    assert weighted[0] is not None
    assert weighted[1] is not None
    assert weighted[0] > weighted[1] + 0.2
    unweighted = [cohen_kappa(person, judge, weighted=False) for judge in (near, far)]
    assert unweighted[0] == pytest.approx(unweighted[1])


def test_raters_with_one_rating_for_everything_have_no_kappa() -> None:
    assert cohen_kappa([3, 3], [3, 3], weighted=True) is None
    assert cohen_kappa([3, 4], [3, 3], weighted=True) == 0.0


@pytest.mark.parametrize(
    ("kappa", "words"),
    [(-0.1, "poor"), (0.1, "slight"), (0.5, "moderate"), (0.8, "substantial"), (0.9, "almost perfect")],
)
def test_the_strength_of_agreement_has_a_name(kappa: float, words: str) -> None:
    assert in_words(kappa) == words
