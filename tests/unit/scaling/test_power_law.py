"""The law of learning curves: recovers a known law, stays in bounds, and knows its noise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.scaling import power_law
from sweeps.scaling.power_law import PowerLaw

pytestmark = pytest.mark.unit

SIZES = (100, 300, 1000, 3000, 10000)
SHARE = (0.0, 1.0)


def noisy(law: PowerLaw, rng: np.random.Generator, deviation: float, subset=0.0, sizes=SIZES, seeds: int = 3):
    """Return values around the law: the seeds of a size share the luck of its subset."""
    return {
        size: tuple(law.at(size) + subset * rng.standard_normal() + deviation * rng.standard_normal(seeds))
        for size in sizes
    }


@settings(max_examples=40, deadline=None)
@given(limit=st.floats(0.6, 0.95), exponent=st.floats(0.15, 0.9), first=st.floats(0.1, 0.4))
def test_an_exact_law_is_found(limit, exponent, first):
    law = PowerLaw(limit, -first * 100**exponent, exponent)
    found = power_law.fit(noisy(law, np.random.default_rng(0), 0.0), "maximize", SHARE)
    for size in (*SIZES, 20000):
        assert found.at(size) == pytest.approx(law.at(size), abs=0.003)


@given(
    values=st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=4), min_size=4, max_size=5),
    direction=st.sampled_from(["maximize", "minimize"]),
)
@settings(max_examples=60, deadline=None)
def test_more_data_never_makes_the_law_worse_and_the_limit_is_possible(values, direction):
    law = power_law.fit(dict(zip(SIZES, map(tuple, values), strict=False)), direction, SHARE)
    ordered = [law.at(size) for size in SIZES]
    rises = all(b >= a - 1e-12 for a, b in itertools.pairwise(ordered))
    falls = all(b <= a + 1e-12 for a, b in itertools.pairwise(ordered))
    assert rises if direction == "maximize" else falls
    assert -1e-9 <= law.limit <= 1 + 1e-9


def test_a_loss_falls_to_its_limit():
    law = PowerLaw(0.4, 6.0, 0.5)
    values = noisy(law, np.random.default_rng(0), 0.0)
    found = power_law.extrapolate(values, "minimize", (-np.inf, np.inf), 7)
    assert found.gain == pytest.approx(law.at(10000) - law.at(20000), rel=0.05)


def test_the_interval_of_the_gain_contains_the_truth_as_often_as_it_says():
    hits, trials = 0, 60
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        law = PowerLaw(rng.uniform(0.7, 0.95), 0.0, rng.uniform(0.2, 0.6))
        law = PowerLaw(law.limit, -rng.uniform(0.2, 0.4) * 100**law.exponent, law.exponent)
        found = power_law.extrapolate(noisy(law, rng, 0.01, subset=0.01), "maximize", SHARE, trial)
        hits += found.low <= law.at(20000) - law.at(10000) <= found.high
    assert hits >= 0.88 * trials


def test_more_noise_makes_a_wider_interval():
    law = PowerLaw(0.9, -2.0, 0.4)
    widths = []
    for deviation in (0.002, 0.02):
        found = power_law.extrapolate(noisy(law, np.random.default_rng(3), deviation), "maximize", SHARE, 7)
        widths.append(found.high - found.low)
    assert widths[1] > 2 * widths[0]


def test_the_largest_size_is_predicted_if_the_law_holds_and_not_after_a_jump():
    law = PowerLaw(0.9, -2.0, 0.4)
    values = noisy(law, np.random.default_rng(3), 0.005)
    assert power_law.predicts_largest(values, "maximize", SHARE, 7)[0]
    jumped = {**values, 10000: (0.995, 0.99, 0.992)}
    assert not power_law.predicts_largest(jumped, "maximize", SHARE, 7)[0]


def test_without_a_degree_of_freedom_there_is_no_interval():
    with pytest.raises(ValueError, match="degree of freedom"):
        power_law.extrapolate({100: (0.5,), 300: (0.6,), 1000: (0.65,)}, "maximize", SHARE, 7)


def test_the_same_arguments_give_the_same_result():
    values = noisy(PowerLaw(0.9, -2.0, 0.4), np.random.default_rng(3), 0.01)
    first, again = (power_law.extrapolate(values, "maximize", SHARE, 7) for _ in range(2))
    assert first == again
