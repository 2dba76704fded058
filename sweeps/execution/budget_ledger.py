"""Keeps a sweep within its limits of money and tokens: weighs trials before they start, settles them afterwards."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from backends.contract import TERMINAL, Backend, BackendError, Charged, Failed, FailureKind
from sweeps.planning.plan import SweepPlan
from sweeps.study.study import Study
from sweeps.trials.budget import Amount, Ledger, at_most, covers, finals_reservation, fits, ledger, within
from sweeps.trials.trial import Spend, Trial

SETTLEMENT_TIMEOUT_S = 60.0
"""A service gets so long to say what its stopped runs have cost before the most they can cost is taken for it."""

_POLL_S = 0.5


class BudgetLedger:
    """The books of a sweep over its study; the only one that decides whether a trial can be paid."""

    def __init__(
        self, plan: SweepPlan, study: Study, backend: Backend | None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """`backend` prices trials; None will do where the sweep has no limit of money or tokens, else ValueError."""
        if backend is None and plan.spec.budget.limits_spend:
            raise ValueError("a limit of money or tokens needs a backend that says what trials take")
        self._plan, self._study, self._backend, self._sleep = plan, study, backend, sleep
        self._weighs = plan.spec.budget.limits_spend or plan.spec.capabilities.priced

    @property
    def ledger(self) -> Ledger:
        """What is spent and what is committed, over all trials and all runs of this sweep."""
        return ledger(self._study.trials)

    @property
    def overdrawn(self) -> bool:
        """True where more was spent than the limit, because a run took more than its estimate's bound."""
        return not within(self.ledger.spent, self._plan.spec.budget)

    def with_cost_bound(self, trial: Trial, *, anew: bool = False) -> Trial:
        """Return the trial with the most that it can take, which is to be recorded before it starts.

        What it was weighed at before stays, unless a limit does not cover that, or a trial that has not run is weighed
        `anew`: what others took may have taught the backend a closer bound. Raises BackendError where the backend
        cannot say.
        """
        if anew and trial.handle is None:
            trial = replace(trial, at_most=None)
        known = trial.at_most is not None and covers(self._plan.spec.budget, trial.at_most)
        if known or not self._weighs or self._backend is None:
            return trial
        return replace(trial, at_most=at_most(self._backend.estimate(self._plan.request(trial))))

    def allow(self, trial: Trial) -> bool:
        """Return whether a weighed trial fits into what is left. A trial of the search leaves what the finals need."""
        finals, kept_back = self._plan.spec.finals, Amount()
        if finals is not None and trial.repeat_of is None:
            kept_back = finals_reservation(self._study.trained, trial, finals.candidates, finals.seeds)
        others = [each for each in self._study.trials if each.number != trial.number]
        return fits(trial, others, kept_back, self._plan.spec.budget)

    def settle(self, wait_s: float = 0.0) -> bool:
        """Ask the service what ended runs have cost in the end. Returns whether none is open; waits up to `wait_s`.

        A run that is lost stays open, but is not waited for: nobody will say what it has cost.
        """
        waited = 0.0
        while True:
            answers = [self._settled(each) for each in self._unsettled()]
            if None not in answers or waited >= wait_s:
                return all(answers)
            self._sleep(_POLL_S)
            waited += _POLL_S

    def _unsettled(self) -> list[Trial]:
        if self._backend is None or self._backend.capabilities.in_process:
            return []
        return [each for each in self._study.trials if each.state.ended and not each.settled and each.handle]

    def _settled(self, trial: Trial) -> bool | None:
        """Settle a trial if the service says what it has cost. Returns whether that is done, None where it may yet."""
        assert self._backend is not None
        assert trial.handle is not None
        try:
            self._backend.stop(trial.handle)
            events = self._backend.events(trial.handle, 0)
        except BackendError as error:
            logging.getLogger("sweeps").warning("the cost of trial %d is not known yet: %s", trial.number, error)
            return None
        last = events[-1] if events else None
        if not isinstance(last, TERMINAL):
            return None
        if isinstance(last, Failed) and last.failure.kind is FailureKind.LOST:
            return False
        charges = [each for each in events if isinstance(each, Charged)]
        usd = [each.usd for each in charges if each.usd is not None]
        spend = Spend(trial.spend.seconds, sum(each.tokens for each in charges), sum(usd) if usd else None)
        self._study.settle(trial.number, spend)
        return True
