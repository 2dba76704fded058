"""One `sweep run` from within: what becomes of each event of each trial, and when the sweep has had enough.

It knows the study and the plan, but neither Ray nor MLflow: the engine feeds it, observers listen to it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Protocol, assert_never

from backends.contract import TERMINAL, Backend, BackendError, Charged, Event, Failed, Failure, FailureKind, Handle
from backends.training_logs.learning_curve import LearningCurve
from backends.waiting import Waiting
from search_spaces.catalogue import Catalogue
from sweeps.errors import SweepError
from sweeps.execution import failure_policy
from sweeps.execution.budget_ledger import SETTLEMENT_TIMEOUT_S, BudgetLedger
from sweeps.execution.deadline import expected_seconds
from sweeps.planning.plan import SweepPlan
from sweeps.study import steering
from sweeps.study.champion_decision import ChampionDecision
from sweeps.study.finals import FinalsResult
from sweeps.study.steering import Change
from sweeps.study.study import NoTrial, Study
from sweeps.trials.budget import Ledger
from sweeps.trials.curve import curve_of
from sweeps.trials.events import after, values
from sweeps.trials.trial import Spend, StoppedBy, Trial, TrialState, leaderboard
from sweeps.verdicts.advice import Advice, advice_from
from sweeps.verdicts.judge import early_stop_verdict, judge
from sweeps.verdicts.verdict import FitVerdict

MAX_UNAFFORDABLE_IN_A_ROW = 20
"""So many proposals that do not fit into what is left, one after another, end the search."""


class End(StrEnum):
    """Why a sweep ended."""

    TRIALS = "all trials are done"
    EXHAUSTED = "every point of the space has been tried"
    TARGET = "the target was reached"
    TIME = "the time limit was reached"
    BUDGET = "no further trial fits into the limit"
    WINDOW = "no further trial ends before the deadline"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


class TrialEnd(StrEnum):
    """What ended a trial, as the engine saw it."""

    ITSELF = "itself"
    SCHEDULER = "scheduler"
    VERDICT = "verdict"
    SWEEP = "sweep"
    CRASH = "crash"


class Observer(Protocol):
    """Someone who wants to know how the trials go. Called in order, on one thread; it must be quick and not raise."""

    def trial_started(self, trial: Trial) -> None:
        """Hear of a trial that begins, or goes on after an interruption."""
        ...

    def observed(self, trial: Trial, first: int, events: Sequence[Event]) -> None:
        """Hear of the events numbered `first`, `first + 1`, ... of a trial."""
        ...

    def waits(self, trial: Trial, waiting: Waiting) -> None:
        """Hear that a trial goes no further for a while; once for each reason and each time it is to end."""
        ...

    def trial_ended(self, trial: Trial) -> None:
        """Hear of a trial's end; its verdict is given."""
        ...

    def steered(self, change: Change, *, made: bool) -> None:
        """Hear of a change of the space that the verdicts want, and whether it was made or only advised."""
        ...


class ProgressObserver(Observer, Protocol):
    """An observer that also hears of the sweep's beginning and end."""

    def begin(self, session: Session) -> None:
        """Hear that trials will follow."""
        ...

    def end(self) -> None:
        """Hear that no trial will follow."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended. `trials` are those of the search, `repeats` those of the finals; `best` is the one whose model
    is handed over, or None; `changes` are those that the sweep made to its space; `ledger` are what all trials, those
    of the finals too, have cost; `report` is its HTML page. `champion` is what became of the challenge, where the sweep
    file asks for one and there was a winner.
    """

    plan: SweepPlan
    trials: tuple[Trial, ...]
    repeats: tuple[Trial, ...]
    changes: tuple[Change, ...]
    best: Trial | None
    finals: FinalsResult | None
    end: End
    seconds: float
    ledger: Ledger
    tracking_uri: str
    run_url: str | None
    report: Path
    problems: tuple[str, ...]
    champion: ChampionDecision | None = None


@dataclass
class _Running:
    """A trial that was handed to the engine; it waits for a worker until it is first heard of."""

    trial: Trial
    started: bool = False
    next_event: int = 0
    failure: Failure | None = None
    ended_by_itself: bool = False
    early_stop_verdict: FitVerdict | None = None
    waiting: Waiting | None = None


class Session:
    """Turns events into records, verdicts and ends. All methods are called from one thread.

    `staged_trials` is how many trials more than run at once the engine wants, so that a free worker need not wait.
    """

    def __init__(
        self,
        plan: SweepPlan,
        study: Study,
        observers: Sequence[Observer],
        clock: Callable[[], float] = time.time,
        backend: Backend | None = None,
        deadline: float | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`backend` prices trials; see `BudgetLedger` for when it can be left out. `deadline` is a time of `clock`: no
        trial is started that would not end before it, and what still runs then is cut off and taken up by the next run.
        """
        self.plan = plan
        self.budget_ledger = BudgetLedger(plan, study, backend, sleep)
        self.study = study
        self.objective = plan.spec.objective
        self._objectives = tuple(each.objective for each in plan.spec.objectives)
        self.end: End | None = None
        self.error: SweepError | None = None
        self._observers = observers
        self._clock = clock
        self._deadline = deadline
        self._window_is_used_up = False
        self._started_at = clock()
        self._running: dict[int, _Running] = {}
        self.staged_trials = 0
        self._exhausted = self._space_is_used_up = False
        self._held: Trial | None = None
        self._search_is_paid_out = False
        self._failures: list[Failure] = []
        self._changes = study.steering
        self._space = plan.space
        if self._changes:
            self._space = plan.steered(self._changes)
            study.steer((), self._space, plan.spec.search)
        self._advice = advice_from(Catalogue.load(), plan.spec.capabilities.recommendation_scope, plan.space)

    @property
    def seconds(self) -> float:
        """Wall seconds of this sweep, earlier runs included."""
        return self.study.seconds_used + self._clock() - self._started_at

    @property
    def running(self) -> list[Trial]:
        """The trials that run now."""
        return [each.trial for each in self._running.values() if each.started]

    def next_trial(self) -> Trial | NoTrial:
        """Return a trial to start now, WAIT where none can start yet, EXHAUSTED where none will come."""
        if self.should_end() or self._exhausted:
            return NoTrial.EXHAUSTED
        if len(self._running) >= self.plan.concurrency + self.staged_trials:
            return NoTrial.WAIT
        asked = self._next_that_fits()
        if isinstance(asked, NoTrial):
            self._exhausted = asked is NoTrial.EXHAUSTED
            return asked
        if not self._ends_in_time(asked):
            # It is recorded as asked for, and so the first that the next run of the sweep takes up.
            self._window_is_used_up = self._exhausted = True
            return NoTrial.EXHAUSTED
        # An adopted run tells its events from the beginning, so that what was recorded of it is built up again.
        trial = replace(asked, curve=(), running=(), spend=Spend(), resolved={}, values=None, best_epoch=None)
        self.study.record(trial)
        self._running[trial.number] = _Running(trial)
        return trial

    def _next_that_fits(self) -> Trial | NoTrial:
        """Return the next trial of the search, else of the finals, that is sure to stay within the limits.

        One that does not fit waits while what runs may yet take less than it might. If it still does not, a cheaper one
        is looked for; what is set aside comes first when the sweep goes on with a higher limit.
        """
        unaffordable = 0
        while True:
            asked = self._held or self._next_of_the_search()
            if asked is NoTrial.EXHAUSTED:
                asked = self._next_of_the_finals()
            if isinstance(asked, NoTrial):
                return asked
            try:
                asked = self.budget_ledger.with_cost_bound(asked)
                self._held = None
                if self.budget_ledger.allow(asked):
                    return asked
                self.budget_ledger.settle(0.0 if self._running else SETTLEMENT_TIMEOUT_S)
                asked = self.budget_ledger.with_cost_bound(asked, anew=True)
            except BackendError as error:
                self.end, self.error = End.FAILED, SweepError(error.failure.message, error.failure.detail)
                return NoTrial.EXHAUSTED
            if self.budget_ledger.allow(asked):
                return asked
            if self._running:
                self._held = asked
                return NoTrial.WAIT
            if asked.repeat_of is not None:
                self.end = End.BUDGET
                return NoTrial.EXHAUSTED
            self.study.set_aside(asked)
            unaffordable += 1
            self._search_is_paid_out = unaffordable == MAX_UNAFFORDABLE_IN_A_ROW

    def _next_of_the_search(self) -> Trial | NoTrial:
        if self._search_is_paid_out:
            return NoTrial.EXHAUSTED
        enough = self._space_is_used_up or len(self.study.trained) >= self.plan.spec.search.trials
        if enough and not self.study.has_interrupted:
            return NoTrial.EXHAUSTED
        asked = self.study.ask()
        self._space_is_used_up = asked is NoTrial.EXHAUSTED
        return asked

    def _next_of_the_finals(self) -> Trial | NoTrial:
        if not self.study.has_queued:
            if self._running:
                return NoTrial.WAIT  # one of them may yet fail and be retried, or be among the best
            finals = self.plan.spec.finals
            if finals is not None:
                best = leaderboard(self.study.trained, self.objective)[: finals.candidates]
                self.study.queue_repeats(best, finals.seeds)
            if not self.study.has_queued:
                return NoTrial.EXHAUSTED
        return self.study.ask()

    def _ends_in_time(self, trial: Trial) -> bool:
        """Return whether a trial that starts now is expected to end before the deadline."""
        if self._deadline is None:
            return True
        needed = expected_seconds(trial, self.study.trials)
        if needed is None and self.plan.estimate is not None:
            needed = self.plan.estimate.seconds
        return self._clock() + (needed or 0.0) < self._deadline

    def is_stopped_by_verdict(self, number: int) -> bool:
        """Return whether a running trial's verdict is already sure to be over-fitted or diverged, so that it stops."""
        running = self._running.get(number)
        return running is not None and running.early_stop_verdict is not None

    def should_end(self) -> bool:
        """Return whether everything that runs should stop now; `end` then says why."""
        hours = self.plan.spec.budget.hours
        if self.end is None and hours is not None and self.seconds >= hours * 3600:
            self.end = End.TIME
        if self.end is None and self._deadline is not None and self._clock() >= self._deadline:
            self.end = End.WINDOW
        return self.end is not None

    @property
    def changes(self) -> tuple[Change, ...]:
        """The changes of the space that the verdicts wanted so far."""
        return tuple(self._changes)

    def interrupt(self) -> None:
        """End the sweep so that it can go on later: what runs stays recorded as running."""
        if self.end is None:
            self.end = End.INTERRUPTED

    def abort(self) -> None:
        """End the sweep because the engine failed; like `interrupt`, but no success."""
        self.end = self.end or End.FAILED

    def report_unreachable(self, failure: Failure) -> None:
        """End the sweep because a run that goes on cannot be followed; its trial stays open for the next run."""
        self.end = End.FAILED
        self.error = SweepError(failure.message, failure.detail or "mend it, then run the same command again")

    def started(self, number: int) -> None:
        """Take in that a trial has got its worker."""
        if number in self._running:
            self._start(self._running[number])

    def observe(self, number: int, handle: Handle | None, first: int, events: Sequence[Event]) -> None:
        """Take in the events numbered `first`, ... of a running trial. Events that are known already are skipped."""
        running = self._running.get(number)
        if running is None:
            return
        self._start(running)
        fresh = events[max(0, running.next_event - first) :]
        if not fresh:
            return
        evaluations = len(running.trial.curve)
        trial = replace(running.trial, handle=handle or running.trial.handle)
        for event in fresh:
            trial = after(trial, event, self._objectives)
            running.ended_by_itself |= isinstance(event, TERMINAL)
            running.failure = event.failure if isinstance(event, Failed) else running.failure
        running.trial = trial
        first_fresh, running.next_event = running.next_event, running.next_event + len(fresh)
        if len(trial.curve) > evaluations or evaluations == 0:
            self.study.record(trial)
        for index in range(max(1, evaluations), len(trial.curve)):
            self.study.report(trial, index, trial.curve[index].values.get(self.objective.metric, math.nan))
        for each in self._observers:
            each.observed(trial, first_fresh, fresh)
        self._check_target(trial)
        if any(isinstance(each, Charged) for each in fresh) and self.end is None and self._is_overdrawn(trial):
            self.end = End.BUDGET
        if len(trial.curve) > evaluations and trial.repeat_of is None and self.plan.spec.search.stop_by_verdict:
            running.early_stop_verdict = early_stop_verdict(self._curve(trial), self._advice_for(trial))

    def waits(self, number: int, waiting: Waiting) -> None:
        """Take in what a running trial waits for."""
        running = self._running.get(number)
        if running is None or running.waiting == waiting:
            return
        self._start(running)
        running.waiting = waiting
        for each in self._observers:
            each.waits(running.trial, waiting)

    def ended(self, number: int, by: TrialEnd, error: str = "") -> None:
        """Close a running trial. One that the end of an interrupted sweep cut off stays open for the next run."""
        running = self._running.pop(number, None)
        if running is None:
            return
        if by is TrialEnd.SWEEP and not running.started:
            return  # it never began; it stays recorded as running and is taken up by the next run of the sweep
        self._start(running)
        if (
            by is TrialEnd.SWEEP
            and self.end in (End.INTERRUPTED, End.FAILED, End.WINDOW)
            and not running.ended_by_itself
        ):
            self.study.record(running.trial)
            return
        trial = self._closed(running, by, error)
        diverged = running.failure is not None and running.failure.kind is FailureKind.DIVERGED
        trial = replace(trial, verdict=judge(self._curve(trial, diverged=diverged), self._advice_for(trial)))
        self.study.tell(trial)
        for each in self._observers:
            each.trial_ended(trial)
        self._steer()
        if trial.state is TrialState.FAILED:
            self._after_failure(trial, running.failure)
        elif trial.values is not None:
            self._failures.clear()

    def finish(self) -> End:
        """Close the books after the engine has come to rest. Returns why the sweep ended."""
        for number in list(self._running):
            self.ended(number, TrialEnd.SWEEP)
        now = self._clock()
        self.study.add_seconds(now - self._started_at)
        self._started_at = now
        if self.end is None and self._window_is_used_up:
            self.end = End.WINDOW
        if self.end is None:
            done = len(self.study.trained) >= self.plan.spec.search.trials
            self.end = End.BUDGET if self._search_is_paid_out and not done else End.TRIALS if done else End.EXHAUSTED
        return self.end

    def _steer(self) -> None:
        """Look what the verdicts so far say of the space's edges; move them, or say what would be moved."""
        mode, plan = self.plan.spec.steering, self.plan
        if mode == "off" or self.end is not None or self.study.repeats:
            return
        ended = sorted((e for e in self.study.trained if e.state.ended), key=lambda each: each.ended_at or 0.0)
        found = steering.changes(ended, self._space, plan.steering_bounds, self._changes)
        if not found:
            return
        self._changes += found
        if mode == "act":
            self._space = plan.steered(self._changes)
            self.study.steer(found, self._space, plan.spec.search)
            for each in found:
                self._probe(each)
        for each in found:
            for observer in self._observers:
                observer.steered(each, made=mode == "act")

    def _probe(self, change: Change) -> None:
        best = next(iter(leaderboard(self.study.trained, self.objective)), None)
        if change.probe is None or best is None:
            return
        value = int(change.probe) if change.parameter == "n_epochs" else change.probe
        point = {**best.hyperparameters, change.parameter: value}
        if not self._space.violations(point):
            self.study.probe(point)

    def _advice_for(self, trial: Trial) -> Advice:
        return self._advice.at({**trial.resolved, **trial.hyperparameters}, self.plan.steering_bounds)

    def _curve(self, trial: Trial, *, diverged: bool = False) -> LearningCurve:
        return curve_of(trial, self.plan.data, self.plan.spec.objectives, diverged=diverged)

    def _start(self, running: _Running) -> None:
        if not running.started:
            running.started = True
            running.trial = replace(running.trial, started_at=self._clock())
            for each in self._observers:
                each.trial_started(running.trial)

    def _closed(self, running: _Running, by: TrialEnd, error: str) -> Trial:
        trial = running.trial
        if not running.ended_by_itself:
            epoch = f" after epoch {trial.curve[-1].epoch:g}" if len(trial.curve) > 1 else ""
            match by:
                case TrialEnd.SCHEDULER:
                    reason = f"stopped early by {self.plan.spec.search.scheduler.type}{epoch}"
                    trial = replace(trial, state=TrialState.STOPPED, stopped_by=StoppedBy.SCHEDULER, reason=reason)
                case TrialEnd.VERDICT:
                    kind = running.early_stop_verdict.kind.value if running.early_stop_verdict else "hopeless"
                    reason = f"stopped early by its verdict{epoch}: {kind}"
                    trial = replace(trial, state=TrialState.STOPPED, stopped_by=StoppedBy.VERDICT, reason=reason)
                case TrialEnd.SWEEP:
                    reason = f"stopped{epoch}: {self.end or End.INTERRUPTED}"
                    trial = replace(trial, state=TrialState.STOPPED, stopped_by=StoppedBy.SWEEP, reason=reason)
                case TrialEnd.CRASH | TrialEnd.ITSELF:
                    running.failure = Failure(FailureKind.LOST, error or "the worker ended without a word")
                    trial = replace(trial, state=TrialState.FAILED, reason=running.failure.message)
                case _ as unreachable:
                    assert_never(unreachable)
        elif trial.state is TrialState.COMPLETE and trial.values is None:
            reason = f"no finite {self.objective.metric} was measured"
            running.failure = Failure(FailureKind.BUG, reason)
            trial = replace(trial, state=TrialState.FAILED, reason=reason)
        now = self._clock()
        spend = replace(trial.spend, seconds=now - (trial.started_at or now))
        trial = replace(trial, ended_at=now, spend=spend, settled=self._is_settled(running, by))
        if trial.values is not None:  # what a trial took is what it took in all, not up to its best epoch
            kept = dict(zip((each.metric for each in self._objectives), trial.values, strict=True))
            trial = replace(trial, values=values(trial, kept, self._objectives))
        return trial

    def _is_settled(self, running: _Running, by: TrialEnd) -> bool:
        """Return whether nothing can be added to what the trial cost: a service may be ahead of what is known."""
        if not running.ended_by_itself:
            return self.plan.spec.capabilities.in_process and by is not TrialEnd.CRASH
        kind = running.failure.kind if running.failure is not None else None
        in_doubt = running.trial.handle is None and kind in (FailureKind.TRANSIENT, FailureKind.BUG)
        return kind is not FailureKind.LOST and not in_doubt

    def _is_overdrawn(self, running: Trial) -> bool:
        if not self.plan.spec.budget.limits_spend:
            return False
        self.study.record(running)
        return self.budget_ledger.overdrawn

    def _check_target(self, trial: Trial) -> None:
        target = self.plan.spec.objectives[0].target
        if target is None or trial.values is None or self.end is not None:
            return
        if trial.values[0] == target or self.objective.better(trial.values[0], target):
            self.end = End.TARGET

    def _after_failure(self, trial: Trial, failure: Failure | None) -> None:
        if failure is None:
            return
        if failure.kind.retryable and self.study.attempts(trial) <= self.plan.spec.search.retries:
            self.study.retry(trial)
            return
        self._failures.append(failure)
        if failure_policy.trips(self._failures):
            self.end = End.FAILED
            message = f"{failure_policy.ALIKE_FAILURES} trials in a row failed alike: {failure.message}"
            self.error = SweepError(message, failure.detail or "fix the cause, then run the same command again")
        elif failure.kind is FailureKind.USER:
            self.end = End.FAILED
            self.error = SweepError(failure.message, failure.detail)
