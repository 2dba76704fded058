"""The running ledger equals the sums over all trials, after every change."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.spec.sweep_file import BudgetSpec
from sweeps.trials.budget import Amount, finals_reservation, known_amount, ledger, total
from sweeps.trials.running_ledger import RunningLedger
from sweeps.trials.trial import CostBound, Spend, Trial

pytestmark = pytest.mark.unit

DOLLARS = st.floats(0, 1e6, allow_subnormal=False)
TRIALS = st.builds(
    lambda number, bound, spent, settled, duplicate_of: Trial(
        number, f"k-{number}", "m", {}, 1, spend=spent, cost_bound=bound, settled=settled, duplicate_of=duplicate_of
    ),
    number=st.integers(0, 5),
    bound=st.none() | st.builds(CostBound, st.none() | st.integers(0, 10**9), st.none() | DOLLARS),
    spent=st.builds(Spend, st.just(0.0), st.integers(0, 10**9), st.none() | DOLLARS),
    settled=st.booleans(),
    duplicate_of=st.none() | st.integers(0, 5),
)
CHANGES = st.lists(st.tuples(TRIALS, st.sampled_from(["update", "candidate", "remove"])), max_size=25)


@given(CHANGES, TRIALS, st.integers(1, 3), st.floats(0.01, 1e6), st.integers(1, 10**10))
def test_it_equals_the_sums_over_all_trials(
    changes: Sequence[tuple[Trial, str]], candidate: Trial, finalists: int, limit_usd: float, limit_tokens: int
) -> None:
    running, trials, candidates = RunningLedger(), dict[int, Trial](), dict[int, Trial]()
    for trial, change in changes:
        for kept in (trials, candidates):
            kept.pop(trial.number, None)
        if change == "remove":
            running.remove(trial.number)
            continue
        running.update(trial, may_become_finalist=change == "candidate")
        trials[trial.number] = trial
        if change == "candidate":
            candidates[trial.number] = trial
    assert running.ledger == ledger(trials.values())
    reserved = finals_reservation(candidates.values(), candidate, finalists, 2)
    assert running.finals_reservation(candidate, finalists, 2) == reserved
    others = [trial for trial in trials.values() if trial.number != candidate.number]
    for limit in (BudgetSpec(usd=limit_usd), BudgetSpec(tokens=limit_tokens), BudgetSpec()):
        assert running.fits(candidate, reserved, limit) is fits_by_all_trials(candidate, others, reserved, limit)
    assert running.ledger == ledger(trials.values()), "a question changes nothing"


def fits_by_all_trials(trial: Trial, others: Sequence[Trial], reserved: Amount, limit: BudgetSpec) -> bool:
    if limit.usd is None and limit.tokens is None:
        return True
    open_trials = [other for other in others if not other.settled and other.duplicate_of is None and other.cost_bound]
    bounds = [trial.cost_bound, *(other.cost_bound for other in open_trials)]
    for quantity in ("usd", "tokens"):
        most = getattr(limit, quantity)
        if most is None:
            continue
        if any(bound is None or getattr(bound, quantity) is None for bound in bounds):
            return False
        worst_case = total((ledger(others).worst_case, known_amount(trial.cost_bound or CostBound()), reserved))
        if getattr(worst_case, quantity) > most:
            return False
    return True


def test_what_a_faulty_backend_charges_can_be_taken_back() -> None:
    running = RunningLedger()
    for usd in (math.inf, 2.0):
        running.update(Trial(0, "k", "m", {}, 1, spend=Spend(usd=usd)), may_become_finalist=False)
        assert running.ledger.spent.usd == usd
