"""The budget ledger: keeps a sweep within its limits of money and tokens.

It records a cost bound for each trial before the trial starts, and settles the final cost after the
trial has ended.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from backends.contract import TERMINAL_EVENTS, Backend, BackendError, Charged, Failed, FailureKind
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.study.study import Study
from sweeps.trials.budget import Amount, Ledger, cost_bound, is_bounded, is_within
from sweeps.trials.trial import Spend, Trial

SETTLEMENT_TIMEOUT_S = 60.0
"""How long to wait for a service to report the final cost of stopped runs. After that their cost
bounds count."""

_POLL_S = 0.5

_LOG = logging.getLogger("sweeps")


class BudgetLedger:
    """The ledger of one sweep over its study.

    Nothing else decides whether the budget covers a trial.
    """

    def __init__(
        self, plan: SweepPlan, study: Study, backend: Backend | None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """`backend` prices trials.

        Raises ValueError if it is None although the sweep limits money or tokens.
        """
        if backend is None and plan.spec.budget.limits_spend:
            raise ValueError("a limit on money or tokens needs a backend that estimates the cost of trials")
        self._plan, self._study, self._backend, self._sleep = plan, study, backend, sleep
        self._warned: set[int] = set()
        is_priced = plan.spec.capabilities.priced or plan.pays_for_metrics
        self._needs_cost_bounds = plan.spec.budget.limits_spend or is_priced

    @property
    def ledger(self) -> Ledger:
        """The amounts spent and reserved, over all trials and all runs of this sweep."""
        return self._study.ledger.ledger

    @property
    def over_budget(self) -> bool:
        """Whether the sweep has spent more than its limit. A run has then exceeded its bound."""
        return not is_within(self.ledger.spent, self._plan.spec.budget)

    def with_cost_bound(self, trial: Trial, *, refresh: bool = False) -> Trial:
        """Return the trial with its cost bound. Record the bound before the trial starts.

        An earlier bound stays unless it lacks an amount that the budget limits. With `refresh`, a
        trial that has not run gets a new bound: the charges of other trials may have taught the
        backend a closer one. Raises BackendError if the backend cannot estimate the cost.
        """
        if refresh and trial.handle is None:
            trial = replace(trial, cost_bound=None)
        known = trial.cost_bound is not None and is_bounded(trial.cost_bound, self._plan.spec.budget)
        if known or not self._needs_cost_bounds or self._backend is None:
            return trial
        request = self._plan.request(trial)
        estimate = self._plan.with_metric_costs(self._backend.estimate(request), request)
        return replace(trial, cost_bound=cost_bound(estimate))

    def can_afford(self, trial: Trial) -> bool:
        """Return whether the rest of the budget covers a trial with its cost bound.

        A trial of the search must also leave the amount that the finals reserve.
        """
        if not self._plan.spec.budget.limits_spend:
            return True
        finals, reserved_for_finals = self._plan.spec.finals, Amount()
        if finals is not None and trial.repeat_of is None:
            reserved_for_finals = self._study.ledger.finals_reservation(trial, finals.candidates, finals.seeds)
        return self._study.ledger.fits(trial, reserved_for_finals, self._plan.spec.budget)

    def settle(self, wait_s: float = 0.0) -> bool:
        """Ask the service for the final cost of ended runs, and return whether all are settled.

        Waits up to `wait_s`. A lost run stays unsettled, but the method does not wait for it: no
        service will ever report its cost.
        """
        waited_s = 0.0
        while True:
            answers = [self._settle_trial(trial) for trial in self._unsettled_trials()]
            if None not in answers or waited_s >= wait_s:
                return all(answers)
            self._sleep(_POLL_S)
            waited_s += _POLL_S

    def _unsettled_trials(self) -> list[Trial]:
        if self._backend is None or self._backend.capabilities.in_process:
            return []
        return [trial for trial in self._study.trials if trial.state.ended and not trial.settled and trial.handle]

    def _settle_trial(self, trial: Trial) -> bool | None:
        """Settle a trial if the service reports its final cost.

        Returns True if it does, False if it never will because the run is lost, and None if it may
        still do so.
        """
        assert self._backend is not None
        assert trial.handle is not None
        try:
            self._backend.stop(trial.handle)
            events = self._backend.events(trial.handle, 0)
        except BackendError as error:
            if trial.number not in self._warned:
                _LOG.warning("the final cost of trial %d is still unknown: %s", trial.number, error)
                self._warned.add(trial.number)
            return False if error.failure.kind in (FailureKind.LOST, FailureKind.BUG) else None
        last = events[-1] if events else None
        if not isinstance(last, TERMINAL_EVENTS):
            return None
        if isinstance(last, Failed) and last.failure.kind is FailureKind.LOST:
            return False
        charges = [event for event in events if isinstance(event, Charged)]
        known_usd = [charge.usd for charge in charges if charge.usd is not None]
        tokens = sum(charge.tokens for charge in charges)
        self._study.settle(trial.number, Spend(trial.spend.seconds, tokens, sum(known_usd) if known_usd else None))
        return True
