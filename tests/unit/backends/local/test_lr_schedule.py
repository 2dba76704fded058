"""Learning-rate schedules."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.local.lr_schedule import SCHEDULES, lr_factor

pytestmark = pytest.mark.unit

RUNS = st.tuples(st.sampled_from(SCHEDULES), st.integers(1, 300), st.floats(0, 1))


def factors(schedule: str, total: int, warmup: float = 0.0) -> list[float]:
    return [lr_factor(schedule, step, total, warmup) for step in range(total)]


@given(RUNS)
def test_every_factor_is_positive_and_at_most_one(run: tuple[str, int, float]) -> None:
    assert all(0 < fraction <= 1 for fraction in factors(*run))


@given(RUNS)
def test_the_rate_rises_to_the_peak_and_never_rises_again(run: tuple[str, int, float]) -> None:
    values = factors(*run)
    top = values.index(max(values))
    assert max(values) == 1.0
    assert values[: top + 1] == sorted(values[: top + 1])
    assert values[top:] == sorted(values[top:], reverse=True)


@given(st.integers(1, 300), st.floats(0, 1))
def test_the_warm_up_is_the_same_for_every_schedule(total: int, warmup: float) -> None:
    steps = math.ceil(warmup * total)
    starts = [factors(schedule, total, warmup)[:steps] for schedule in SCHEDULES]
    assert all(start == starts[0] for start in starts)
    if steps:
        assert starts[0][-1] == 1.0


@given(st.integers(1, 100), st.integers(1, 100))
def test_a_constant_run_contains_every_shorter_one(short: int, extra: int) -> None:
    assert factors("constant", short + extra)[:short] == factors("constant", short)


def test_linear_by_hand() -> None:
    assert factors("linear", 4) == [1.0, 0.75, 0.5, 0.25]
    assert factors("linear", 4, 0.5) == [0.5, 1.0, 1.0, 0.5]


def test_cosine_by_hand() -> None:
    assert factors("cosine", 4) == pytest.approx([1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)])


def test_wsd_decays_in_its_last_fifth() -> None:
    assert factors("wsd", 10) == [1.0] * 9 + [0.5]
    assert factors("wsd", 20, 0.1) == [0.5, *[1.0] * 16, 0.75, 0.5, 0.25]


def test_an_unknown_schedule_is_an_error() -> None:
    with pytest.raises(ValueError, match="zigzag"):
        lr_factor("zigzag", 0, 1, 0.0)
