"""The ledger of a study, kept up to date one trial at a time.

A sweep of ten thousand trials asks for it before every trial, so no figure walks over all trials.
The sums equal those of the pure functions in `budget`, to the last bit.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction

from sweeps.spec.sweep_file import BudgetSpec
from sweeps.trials.budget import (
    Amount,
    Ledger,
    is_bounded,
    is_within,
    known_amount,
    outstanding_bounds,
    reservation,
    total,
)
from sweeps.trials.trial import CostBound, Trial


class _ExactSum:
    """A sum of floats from which an addend can be taken back. Its value is rounded once."""

    def __init__(self) -> None:
        self._finite = Fraction()
        self._others: Counter[float] = Counter()  # what a faulty backend may report

    def add(self, value: float, sign: int) -> None:
        if math.isfinite(value):
            self._finite += sign * Fraction(value)
        else:
            self._others[value] += sign

    @property
    def value(self) -> float:
        return math.fsum((float(self._finite), *self._others.elements()))


@dataclass
class _Sum:
    """An amount to which trials are added, and from which they are taken back."""

    usd: _ExactSum = field(default_factory=_ExactSum)
    tokens: int = 0

    def add(self, amount: Amount, sign: int) -> None:
        self.usd.add(amount.usd, sign)
        self.tokens += sign * amount.tokens

    @property
    def amount(self) -> Amount:
        return Amount(self.usd.value, self.tokens)


class RunningLedger:
    """The sums over the latest records of all trials, and the cost bounds of possible finalists."""

    def __init__(self) -> None:
        self._trials: dict[int, Trial] = {}
        self._spent, self._reserved = _Sum(), _Sum()
        self._unknown: Counter[tuple[bool, bool]] = Counter()
        self._candidates: dict[int, Amount] = {}
        self._candidate_usd: list[float] = []
        self._candidate_tokens: list[int] = []

    @property
    def ledger(self) -> Ledger:
        """The amounts spent and reserved; see `budget.ledger`."""
        return Ledger(self._spent.amount, self._reserved.amount)

    def update(self, trial: Trial, *, may_become_finalist: bool) -> None:
        """Count this record of a trial instead of its earlier one."""
        self.remove(trial.number)
        self._trials[trial.number] = trial
        self._count(trial, 1)
        if may_become_finalist:
            bound = known_amount(trial.cost_bound or CostBound())
            self._candidates[trial.number] = bound
            bisect.insort(self._candidate_usd, bound.usd)
            bisect.insort(self._candidate_tokens, bound.tokens)

    def remove(self, number: int) -> None:
        """Count this trial no more."""
        if (earlier := self._trials.pop(number, None)) is not None:
            self._count(earlier, -1)
        if (bound := self._candidates.pop(number, None)) is not None:
            del self._candidate_usd[bisect.bisect_left(self._candidate_usd, bound.usd)]
            del self._candidate_tokens[bisect.bisect_left(self._candidate_tokens, bound.tokens)]

    def fits(self, trial: Trial, reserved_for_later: Amount, limit: BudgetSpec) -> bool:
        """Return whether the limit holds if this trial and all unsettled ones reach their bounds.

        `reserved_for_later` stays untouched for later trials. A trial with an unknown price fits no
        limit on money, and a trial with an unknown number of tokens fits no limit on tokens. While
        a trial like that is unsettled, no other trial fits the limit either.
        """
        if limit.usd is None and limit.tokens is None:
            return True
        if trial.cost_bound is None or not is_bounded(trial.cost_bound, limit):
            return False
        own = self._trials.get(trial.number)
        if own is not None:
            self._count(own, -1)
        try:
            known = not any(
                count and ((limit.usd is not None and no_usd) or (limit.tokens is not None and no_tokens))
                for (no_usd, no_tokens), count in self._unknown.items()
            )
            worst_case = self.ledger.worst_case
        finally:
            if own is not None:
                self._count(own, 1)
        return known and is_within(total((worst_case, known_amount(trial.cost_bound), reserved_for_later)), limit)

    def finals_reservation(self, next_trial: Trial, candidates: int, seeds: int) -> Amount:
        """Return the most that the finals can cost; see `budget.finals_reservation`."""
        bound = known_amount(next_trial.cost_bound or CostBound())
        usd = sorted((*self._candidate_usd[-candidates:], *[bound.usd] * candidates), reverse=True)[:candidates]
        tokens = sorted((*self._candidate_tokens[-candidates:], *[bound.tokens] * candidates), reverse=True)
        return Amount(seeds * math.fsum(usd), seeds * sum(tokens[:candidates]))

    def _count(self, trial: Trial, sign: int) -> None:
        if trial.duplicate_of is None:
            self._spent.add(Amount(trial.spend.usd or 0.0, trial.spend.tokens), sign)
            self._reserved.add(reservation(trial), sign)
        for bound in outstanding_bounds([trial]):
            self._unknown[bound.usd is None, bound.tokens is None] += sign
