"""The budget of a scale run: the limits of its points never add up to more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.scaling.allowance import Standing, allowance, budget_problems
from sweeps.spec.sweep_file import BudgetSpec
from sweeps.trials.budget import Amount

pytestmark = pytest.mark.unit

amounts = st.integers(0, 400)


@st.composite
def standings(draw):
    found = []
    for _ in range(draw(st.integers(1, 6))):
        required, more, taken = draw(amounts), draw(amounts), draw(amounts)
        both = (Amount(float(number), number) for number in (required, required + more, taken))
        found.append(Standing(*both, seconds=float(draw(amounts))))
    return found


@given(points=standings(), others=amounts, limit=st.integers(1, 4000), shares=st.lists(st.floats(0, 1), min_size=6))
def test_points_that_use_all_they_may_never_exceed_the_budget(points, others, limit, shares):
    budget = BudgetSpec(usd=float(limit), tokens=limit)
    begun = sum(point.committed.tokens for point in points) + others
    for index, share in zip(range(len(points)), shares, strict=False):
        given_limit = allowance(budget, points, index, Amount(float(others), others), 0.0)
        if given_limit is None:
            continue
        point = points[index]
        assert given_limit.tokens is not None
        assert given_limit.usd is not None
        # A sweep uses between what it has begun and its limit.
        used = max(point.committed.tokens, int(share * given_limit.tokens))
        used_usd = max(point.committed.usd, share * given_limit.usd)
        points[index] = Standing(point.required, point.most, Amount(used_usd, used), point.seconds)
    assert sum(point.committed.tokens for point in points) + others <= max(limit, begun)
    assert sum(point.committed.usd for point in points) + others <= max(limit, begun) * (1 + 1e-9)


@given(points=standings(), extra=amounts)
def test_a_budget_that_covers_all_points_gives_each_what_it_requires(points, extra):
    needed = sum(max(point.required.tokens, point.committed.tokens) for point in points)
    budget = BudgetSpec(tokens=needed + extra + 1)
    assert not list(budget_problems(budget, points, Amount(), "x"))
    for index, point in enumerate(points):
        given_limit = allowance(budget, points, index, Amount(), 0.0)
        wanted = max(point.required.tokens, point.committed.tokens)
        assert wanted == 0 or (given_limit is not None and given_limit.tokens is not None)
        if given_limit is not None and given_limit.tokens is not None:
            assert given_limit.tokens >= wanted
        points[index] = Standing(point.required, point.most, Amount(0.0, wanted), point.seconds)


def test_a_budget_that_does_not_cover_all_points_is_a_problem_that_names_the_sum():
    points = [Standing(Amount(1.0, 100), Amount(1.0, 100)) for _ in range(3)]
    [usd] = budget_problems(BudgetSpec(usd=2.5), points, Amount(0.25, 0), "f.yaml:9")
    assert str(usd) == "f.yaml:9: $2.50 does not cover all points: up to $3.25"
    assert "raise it, or leave out sizes" in usd.hint
    [tokens] = budget_problems(BudgetSpec(tokens=299), points, Amount(), "f.yaml:9")
    assert "299 tokens do not cover all points: up to 300" in str(tokens)


def test_time_is_shared_and_ends_the_run():
    points = [Standing(Amount(), Amount(), seconds=3000.0), Standing(Amount(), Amount())]
    second = allowance(BudgetSpec(hours=1.0), points, 1, Amount(), 300.0)
    assert second is not None
    assert second.hours == pytest.approx(300 / 3600)
    assert allowance(BudgetSpec(hours=1.0), points, 1, Amount(), 600.0) is None


def test_without_limits_there_is_no_limit():
    assert allowance(BudgetSpec(), [Standing(Amount(), Amount())], 0, Amount(), 0.0) == BudgetSpec()
