"""Chooses the next trial of a sweep, within the budget and the deadline.

The search comes first, then the finals.
"""

from __future__ import annotations

from backends.contract import BackendError
from sweeps.errors import SweepError
from sweeps.execution.budget_ledger import SETTLEMENT_TIMEOUT_S, BudgetLedger
from sweeps.execution.end_conditions import EndConditions
from sweeps.execution.outcome import SweepEnd
from sweeps.execution.trial_duration import expected_seconds
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.study.study import NoTrial, Study
from sweeps.trials.trial import Trial

MAX_UNAFFORDABLE_IN_A_ROW = 20
"""The search ends after this many proposals in a row that the rest of the budget cannot cover."""


class TrialQueue:
    """Yields one trial after another until none is left.

    `exhausted` is then True and `end` says why.
    """

    def __init__(
        self,
        plan: SweepPlan,
        study: Study,
        budget_ledger: BudgetLedger,
        end_conditions: EndConditions,
        deadline: float | None,
    ) -> None:
        """`deadline` is a time on the clock that `next` receives as `now`, or None."""
        self.exhausted = False
        self._plan = plan
        self._study = study
        self._budget_ledger = budget_ledger
        self._end_conditions = end_conditions
        self._deadline = deadline
        self._waiting_for_budget: Trial | None = None
        self._space_exhausted = False
        self._search_budget_exhausted = False
        self._deadline_too_close = False

    def next(self, now: float, *, any_running: bool) -> Trial | NoTrial:
        """Return a trial to start now, or say why there is none.

        WAIT: none can start until a running trial ends. EXHAUSTED: none is left. The trial has its
        cost bound. A failing backend or a budget too small for the finals ends the sweep.
        """
        trial = self._next_affordable(any_running=any_running)
        if isinstance(trial, NoTrial):
            self.exhausted = trial is NoTrial.EXHAUSTED
            return trial
        if not self._ends_before_deadline(trial, now):
            # The study records the trial as open, so the next run of the sweep starts with it.
            self._deadline_too_close = self.exhausted = True
            return NoTrial.EXHAUSTED
        return trial

    @property
    def end(self) -> SweepEnd:
        """Why no further trial follows, if nothing else ended the sweep."""
        if self._deadline_too_close:
            return SweepEnd.DEADLINE
        if self._study.search_trial_count >= self._plan.spec.search.trials:
            return SweepEnd.TRIALS
        return SweepEnd.BUDGET if self._search_budget_exhausted else SweepEnd.EXHAUSTED

    def _next_affordable(self, *, any_running: bool) -> Trial | NoTrial:
        """Return the next trial that is certain to stay within the budget.

        A trial that does not fit waits while running trials may still cost less than their bounds.
        If it still does not fit, the sweep puts it aside and tries a cheaper proposal. Trials put
        aside come first when the sweep resumes, perhaps with a larger budget.
        """
        unaffordable = 0
        while True:
            trial = self._waiting_for_budget or self._next_of_search()
            if trial is NoTrial.EXHAUSTED:
                trial = self._next_of_finals(any_running=any_running)
            if isinstance(trial, NoTrial):
                return trial
            try:
                trial = self._budget_ledger.with_cost_bound(trial)
                self._waiting_for_budget = None
                if self._budget_ledger.can_afford(trial):
                    return trial
                self._budget_ledger.settle(0.0 if any_running else SETTLEMENT_TIMEOUT_S)
                trial = self._budget_ledger.with_cost_bound(trial, refresh=True)
            except BackendError as error:
                self._end_conditions.fail(SweepError(error.failure.message, error.failure.detail))
                return NoTrial.EXHAUSTED
            if self._budget_ledger.can_afford(trial):
                return trial
            if any_running:
                self._waiting_for_budget = trial
                return NoTrial.WAIT
            if trial.repeat_of is not None:
                self._end_conditions.end = SweepEnd.BUDGET
                return NoTrial.EXHAUSTED
            self._study.set_aside(trial)
            unaffordable += 1
            self._search_budget_exhausted = unaffordable == MAX_UNAFFORDABLE_IN_A_ROW

    def _next_of_search(self) -> Trial | NoTrial:
        if self._search_budget_exhausted:
            return NoTrial.EXHAUSTED
        complete = self._space_exhausted or self._study.search_trial_count >= self._plan.spec.search.trials
        if complete and not self._study.has_interrupted:
            return NoTrial.EXHAUSTED
        trial = self._study.ask()
        self._space_exhausted = trial is NoTrial.EXHAUSTED
        return trial

    def _next_of_finals(self, *, any_running: bool) -> Trial | NoTrial:
        if not self._study.has_queued:
            if any_running:
                # A running trial may fail and be retried, or may become a finalist.
                return NoTrial.WAIT
            finals = self._plan.spec.finals
            if finals is not None:
                finalists = [self._study.trial(number) for number in self._study.tally.ranking[: finals.candidates]]
                self._study.queue_repeats(finalists, finals.seeds)
            if not self._study.has_queued:
                return NoTrial.EXHAUSTED
        return self._study.ask(only_repetitions=True)

    def _ends_before_deadline(self, trial: Trial, now: float) -> bool:
        if self._deadline is None:
            return True
        duration = expected_seconds(trial, self._study.trials)
        if duration is None and self._plan.estimate is not None:
            duration = self._plan.estimate.seconds
        return now + (duration or 0.0) < self._deadline
