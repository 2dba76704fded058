"""Budget arithmetic: spend, cost bounds and reservations.

Everything here is a pure function of the recorded trials, so that the sums are also right after a
crash: a trial's record holds its cost bound before the sweep asks a backend for anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from backends.contract import Estimate
from sweeps.spec.sweep_file import BudgetSpec
from sweeps.trials.trial import CostBound, Trial


@dataclass(frozen=True)
class Amount:
    """An amount of money and of tokens."""

    usd: float = 0.0
    tokens: int = 0


@dataclass(frozen=True)
class Ledger:
    """The sums of a sweep: `spent` is charged, and unsettled trials may add `reserved`."""

    spent: Amount
    reserved: Amount

    @property
    def worst_case(self) -> Amount:
        """The final cost of the sweep's trials if every unsettled one reaches its cost bound."""
        return total((self.spent, self.reserved))

    def usd_left(self, limit: BudgetSpec) -> float | None:
        """Return the dollars that the sweep may still commit; None without a limit on money."""
        return None if limit.usd is None else max(0.0, limit.usd - self.worst_case.usd)


def total(amounts: Iterable[Amount]) -> Amount:
    """Return the sum of the amounts. The dollars are rounded once, at the end."""
    addends = list(amounts)
    return Amount(math.fsum(amount.usd for amount in addends), sum(amount.tokens for amount in addends))


def cost_bound(estimate: Estimate) -> CostBound:
    """Return the most that a run with this estimate can cost.

    The estimate's maxima count; where it has none, its expectations do.
    """
    tokens = estimate.tokens if estimate.max_tokens is None else estimate.max_tokens
    return CostBound(tokens, estimate.usd if estimate.max_usd is None else estimate.max_usd)


def outstanding_bounds(trials: Iterable[Trial]) -> list[CostBound]:
    """Return the cost bounds of the trials whose spend may still grow."""
    return [
        trial.cost_bound for trial in trials if trial.cost_bound and not trial.settled and trial.duplicate_of is None
    ]


def reservation(trial: Trial) -> Amount:
    """Return what this trial may cost on top of its known spend; nothing after it is settled."""
    if not (bounds := outstanding_bounds([trial])):
        return Amount()
    bound = known_amount(bounds[0])
    return Amount(max(0.0, bound.usd - (trial.spend.usd or 0.0)), max(0, bound.tokens - trial.spend.tokens))


def ledger(trials: Iterable[Trial]) -> Ledger:
    """Add up all trials of a sweep, including finals, failed trials and retried trials."""
    charged = [trial for trial in trials if trial.duplicate_of is None]
    return Ledger(
        spent=total(Amount(trial.spend.usd or 0.0, trial.spend.tokens) for trial in charged),
        reserved=total(reservation(trial) for trial in charged),
    )


def is_bounded(bound: CostBound, limit: BudgetSpec) -> bool:
    """Return whether the bound is known for every quantity that `limit` limits."""
    return (limit.usd is None or bound.usd is not None) and (limit.tokens is None or bound.tokens is not None)


def known_amount(bound: CostBound) -> Amount:
    """Return the bound as an amount, with 0 for unknown quantities."""
    return Amount(bound.usd or 0.0, bound.tokens or 0)


def is_within(amount: Amount, limit: BudgetSpec) -> bool:
    """Return whether the amount does not exceed the limit."""
    return (limit.usd is None or amount.usd <= limit.usd) and (limit.tokens is None or amount.tokens <= limit.tokens)


def finals_reservation(trials: Iterable[Trial], next_trial: Trial, candidates: int, seeds: int) -> Amount:
    """Return the most that the finals can cost.

    Any trial may become a candidate, so the most expensive ones count. Where there are fewer trials
    than candidates, `next_trial` stands for the missing ones.
    """
    bounds = [known_amount(trial.cost_bound or CostBound()) for trial in (*trials, *[next_trial] * candidates)]
    usd = sorted((bound.usd for bound in bounds), reverse=True)[:candidates]
    tokens = sorted((bound.tokens for bound in bounds), reverse=True)[:candidates]
    return Amount(seeds * math.fsum(usd), seeds * sum(tokens))
