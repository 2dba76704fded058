"""Money and tokens: what is spent, what running trials may still take, and whether one more trial fits.

Pure functions of what is recorded of the trials, so that the sums are right after a crash as well: a trial's record
holds what it takes at most before anything is asked of a backend.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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
    """The sums of a sweep. `spent` is known; `reserved` is what trials that are not settled may take beyond it."""

    spent: Amount
    reserved: Amount

    @property
    def worst_case(self) -> Amount:
        """What the sweep has cost in the end if everything that is open takes the most it can."""
        return total((self.spent, self.reserved))

    def left(self, limit: BudgetSpec) -> float | None:
        """Return the dollars that may still be committed; None without such a limit."""
        return None if limit.usd is None else max(0.0, limit.usd - self.worst_case.usd)


def total(amounts: Iterable[Amount]) -> Amount:
    """Add up amounts, the money without an error of rounding on the way."""
    every = list(amounts)
    return Amount(math.fsum(each.usd for each in every), sum(each.tokens for each in every))


def cost_bound(estimate: Estimate) -> CostBound:
    """Return what a run may take, from its estimate; the upper bound where the estimate has one."""
    tokens = estimate.tokens if estimate.max_tokens is None else estimate.max_tokens
    return CostBound(tokens, estimate.usd if estimate.max_usd is None else estimate.max_usd)


def outstanding_bounds(trials: Iterable[Trial]) -> list[CostBound]:
    """Return the bounds of the trials that may take more than what is known."""
    return [each.cost_bound for each in trials if each.cost_bound and not each.settled and each.duplicate_of is None]


def reservation(trial: Trial) -> Amount:
    """Return what this trial may take beyond what is known: nothing once it is settled."""
    if not (bounds := outstanding_bounds([trial])):
        return Amount()
    most = known_part(bounds[0])
    return Amount(max(0.0, most.usd - (trial.spend.usd or 0.0)), max(0, most.tokens - trial.spend.tokens))


def ledger(trials: Iterable[Trial]) -> Ledger:
    """Add up all trials of a sweep: those of the finals, failed ones and retried ones too."""
    every = [each for each in trials if each.duplicate_of is None]
    return Ledger(
        spent=total(Amount(each.spend.usd or 0.0, each.spend.tokens) for each in every),
        reserved=total(reservation(each) for each in every),
    )


def fits(trial: Trial, others: Sequence[Trial], kept_back: Amount, limit: BudgetSpec) -> bool:
    """Return whether the limit holds even if this trial and all open ones take the most they can.

    `kept_back` stays untouched for what comes later. A trial whose price is unknown does not fit a limit of money, and
    one whose tokens are unknown no limit of tokens; nor does any trial as long as such a one is open.
    """
    if limit.usd is None and limit.tokens is None:
        return True
    if trial.cost_bound is None or not all(
        covers(limit, each) for each in (trial.cost_bound, *outstanding_bounds(others))
    ):
        return False
    return within(total((ledger(others).worst_case, known_part(trial.cost_bound), kept_back)), limit)


def covers(limit: BudgetSpec, bound: CostBound) -> bool:
    """Return whether all is known of a bound that is limited."""
    return (limit.usd is None or bound.usd is not None) and (limit.tokens is None or bound.tokens is not None)


def known_part(bound: CostBound) -> Amount:
    """Return the known part of a bound."""
    return Amount(bound.usd or 0.0, bound.tokens or 0)


def within(amount: Amount, limit: BudgetSpec) -> bool:
    """Return whether an amount does not exceed the limit."""
    return (limit.usd is None or amount.usd <= limit.usd) and (limit.tokens is None or amount.tokens <= limit.tokens)


def finals_reservation(trials: Iterable[Trial], asked: Trial, candidates: int, seeds: int) -> Amount:
    """Return what the finals would take at most: any trial may win, so the dearest ones are taken.

    `asked` stands for those that are still to come where there are fewer trials than candidates.
    """
    most = [known_part(each.cost_bound or CostBound()) for each in (*trials, *[asked] * candidates)]
    usd = sorted((each.usd for each in most), reverse=True)[:candidates]
    tokens = sorted((each.tokens for each in most), reverse=True)[:candidates]
    return Amount(seeds * math.fsum(usd), seeds * sum(tokens))
