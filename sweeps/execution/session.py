"""One run of a sweep, seen from inside: turns events into records, verdicts and decisions.

A session knows the plan and the study, but neither Ray nor MLflow. The engine feeds it; observers
listen to it.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Concatenate, ParamSpec, TypeVar

from backends.contract import (
    TERMINAL_EVENTS,
    Backend,
    BackendError,
    Charged,
    Event,
    Failed,
    Failure,
    FailureKind,
    Handle,
)
from backends.pausing import SupportsPausing
from backends.training_logs.learning_curve import LearningCurve
from backends.waiting import Waiting
from search_spaces.catalogue import Catalogue
from sweeps.errors import SweepError
from sweeps.execution.budget_ledger import BudgetLedger
from sweeps.execution.clock import steady_clock
from sweeps.execution.end_conditions import EndConditions
from sweeps.execution.observers import Observer
from sweeps.execution.outcome import PAUSING_ENDS, RESUMABLE_ENDS, SweepEnd
from sweeps.execution.running_trial import RunningTrial, TrialEnd
from sweeps.execution.space_steering import SpaceSteering
from sweeps.execution.trial_queue import TrialQueue
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.study.steering import Change
from sweeps.study.study import NoTrial, Study
from sweeps.trials.curve import learning_curve_of
from sweeps.trials.events import apply_event
from sweeps.trials.trial import Spend, Trial, TrialState
from sweeps.verdicts.advice import Advice, advice_for_space
from sweeps.verdicts.data_causes import with_data_causes
from sweeps.verdicts.judge import early_stop_verdict, judge

_LOG = logging.getLogger("sweeps")

P = ParamSpec("P")
R = TypeVar("R")

STORE_SECONDS_EVERY_S = 10.0
"""How often the study stores the time used, so that a killed run counts towards the time limit."""

LOOK_FOR_REQUEST_EVERY_S = 2.0
"""How often the session looks whether `sweep stop` was typed on some machine."""

STOP_ATTEMPTS, STOP_PAUSE_S = 3, 1.0
"""How often the session tries to stop a run at the end of the sweep."""


def _ends_on_error(method: Callable[Concatenate[Session, P], R]) -> Callable[Concatenate[Session, P], R]:
    """Let a SweepError in this method end the sweep, such as a full disk under the study.

    Ray Tune takes an exception here for a failure of the trial and would go on with the others.
    """

    @functools.wraps(method)
    def call(self: Session, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except SweepError as error:
            self.fail(error)
            raise

    return call


class Session:
    """Hands out trials, records and judges them, steers the space, and ends the sweep.

    Call all methods from one thread. `staged_trials` is the number of extra trials to hand out
    beyond the concurrency limit, so that an idle worker starts at once.
    """

    def __init__(
        self,
        plan: SweepPlan,
        study: Study,
        observers: Sequence[Observer],
        clock: Callable[[], float] | None = None,
        backend: Backend | None = None,
        deadline: float | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`backend` prices the trials; `BudgetLedger` states when it may be None.

        `clock` returns seconds since the Unix epoch; the default is a `steady_clock`. `deadline` is
        a time of `clock`. The session starts no trial that would not end before it. A trial that
        still runs then is stopped and stays open, and the next run of the sweep resumes it.
        """
        self.plan = plan
        self.study = study
        self.objective = plan.spec.objective
        self.budget_ledger = BudgetLedger(plan, study, backend, sleep)
        self.staged_trials = 0
        self._objectives = tuple(spec.objective for spec in plan.spec.objectives)
        self._observers = observers
        self._backend, self._sleep = backend, sleep
        self._clock = clock or steady_clock()
        self._counted_until = self._looked_for_request_at = self._clock()
        self._running: dict[int, RunningTrial] = {}
        self._times_offered_again: Counter[int] = Counter()
        self._end_conditions = EndConditions(plan.spec, deadline)
        self._queue = TrialQueue(plan, study, self.budget_ledger, self._end_conditions, deadline)
        self._steering = SpaceSteering(plan, study)
        capabilities = plan.spec.capabilities
        accepted = [declared.name for declared in capabilities.hyperparameters]
        self._advice = advice_for_space(Catalogue.load(), capabilities.recommendation_scope, plan.space, accepted)

    @property
    def end(self) -> SweepEnd | None:
        """Why the sweep ends, or None while it goes on."""
        return self._end_conditions.end

    @property
    def error(self) -> SweepError | None:
        """The error that ended the sweep, if one did and the user can act on it."""
        return self._end_conditions.error

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of this sweep, earlier runs included."""
        return self.study.seconds_used + self._clock() - self._counted_until

    @property
    def running(self) -> list[Trial]:
        """The trials that have a worker now."""
        return [running.trial for running in self._running.values() if running.started]

    @property
    def changes(self) -> tuple[Change, ...]:
        """The changes of the space that the verdicts have called for so far."""
        return tuple(self._steering.changes)

    @_ends_on_error
    def next_trial(self) -> Trial | NoTrial:
        """Return a trial to start now, WAIT if none can start yet, EXHAUSTED if none is left."""
        if self.should_end() or self._queue.exhausted:
            return NoTrial.EXHAUSTED
        if len(self._running) >= self.plan.concurrency + self.staged_trials:
            return NoTrial.WAIT
        trial = self._queue.next(self._clock(), any_running=bool(self._running))
        if isinstance(trial, NoTrial):
            return trial
        trial = _without_results(trial)
        self.study.record(trial)
        self._running[trial.number] = RunningTrial(trial)
        return trial

    @_ends_on_error
    def should_end(self) -> bool:
        """Return whether every running trial must stop now; `end` then says why."""
        now = self._clock()
        if now - self._counted_until >= STORE_SECONDS_EVERY_S:
            self._store_seconds()
        if now - self._looked_for_request_at >= LOOK_FOR_REQUEST_EVERY_S:
            self._looked_for_request_at = now
            if self.study.stop_is_requested():
                self.interrupt()
        return self._end_conditions.check(self.seconds, self._clock())

    def is_stopped_by_verdict(self, number: int) -> bool:
        """Return whether a running trial must stop, having certainly overfitted or diverged."""
        running = self._running.get(number)
        return running is not None and running.early_stop_verdict is not None

    def interrupt(self) -> None:
        """End the sweep so that it can resume later: running trials stay recorded as running."""
        self._end_conditions.interrupt()

    def abort(self) -> None:
        """End the sweep because the engine failed.

        Running trials stay open as after `interrupt`.
        """
        self._end_conditions.abort()

    def fail(self, error: SweepError) -> None:
        """End the sweep because of an error. Running trials stay open."""
        self._end_conditions.fail(error)

    def report_unfollowed(self, number: int, failure: Failure) -> None:
        """Record why a worker gives up a run that may go on. The trial fails, unsettled."""
        if (running := self._running.get(number)) is not None:
            running.failure = failure

    def report_unreachable(self, failure: Failure) -> None:
        """End the sweep because a run continues at its service but cannot be followed.

        Its trial stays open.
        """
        hint = failure.detail or "fix the cause, then run the same command again"
        self.fail(SweepError(failure.message, hint))

    @_ends_on_error
    def trial_started(self, number: int) -> None:
        """Record that a trial has its worker."""
        if number in self._running:
            self._start(self._running[number])

    def trial_placed(self, number: int, machine: str) -> None:
        """Record which machine trains a running trial."""
        running = self._running.get(number)
        if running is not None and running.trial.machine != machine:
            running.trial = replace(running.trial, machine=machine)

    @_ends_on_error
    def observe(self, number: int, handle: Handle | None, first: int, events: Sequence[Event]) -> None:
        """Record the events numbered `first`, `first + 1`, ... of a running trial.

        Skips events recorded before.
        """
        running = self._running.get(number)
        if running is None:
            return
        self._start(running)
        new_events = events[max(0, running.next_event - first) :]
        is_first_handle = handle is not None and not running.submitted
        if is_first_handle:
            running.submitted = True
            running.trial = replace(running.trial, handle=handle)
        if not new_events:
            if is_first_handle:  # a job that waits in a queue: the end of the sweep must be able to stop it
                self.study.record(running.trial)
            return
        trial = running.trial
        evaluations_before = len(trial.curve)
        for event in new_events:
            trial = apply_event(trial, event, self._objectives)
            running.ended_by_itself |= isinstance(event, TERMINAL_EVENTS)
            running.failure = event.failure if isinstance(event, Failed) else running.failure
        running.trial = trial
        first_new, running.next_event = running.next_event, running.next_event + len(new_events)
        evaluated = len(trial.curve) > evaluations_before
        if evaluated or evaluations_before == 0:
            new_values = {
                index: trial.curve[index].values.get(self.objective.metric, math.nan)
                for index in range(max(1, evaluations_before), len(trial.curve))
            }
            self.study.record(trial, new_values)
        for observer in self._observers:
            observer.events_received(trial, first_new, new_events)
        self._end_conditions.check_target(trial)
        charged = any(isinstance(event, Charged) for event in new_events)
        if charged and self.end is None and self._is_over_budget(trial):
            self._end_conditions.end = SweepEnd.BUDGET
        is_judged = trial.repeat_of is None and self.plan.spec.search.stop_by_verdict
        if evaluated and is_judged and trial.evaluations >= trial.passed_evaluations:
            running.early_stop_verdict = early_stop_verdict(self._curve(trial), self._advice_for(trial))

    @_ends_on_error
    def trial_waiting(self, number: int, waiting: Waiting) -> None:
        """Record that a running trial pauses.

        Observers learn it unless they already know this reason and this time.
        """
        running = self._running.get(number)
        if running is None or running.waiting == waiting:
            return
        self._start(running)
        running.waiting = waiting
        for observer in self._observers:
            observer.trial_waiting(running.trial, waiting)

    @_ends_on_error
    def trial_ended(self, number: int, ended_by: TrialEnd, error: str = "", *, out_of_memory: bool = False) -> None:
        """Close a running trial.

        `error` is the error of a crashed worker, and `out_of_memory` says that it was ended for
        lack of memory. After the last attempt that is a failure of the point, which the sampler
        then avoids.

        If the sweep ends but can resume (see `RESUMABLE_ENDS`), the trial stays open for the next
        run. A trial that never had a worker also stays open, or is set aside if the sweep cannot
        resume.
        """
        running = self._running.pop(number, None)
        if running is None:
            return
        if ended_by is TrialEnd.SWEEP and not running.started:
            if self.end is not None and self.end not in RESUMABLE_ENDS:
                self.study.set_aside(running.trial)
            return
        self._start(running)
        if ended_by is TrialEnd.SWEEP and self.end in RESUMABLE_ENDS and not running.ended_by_itself:
            self.study.record(running.trial)
            return
        if running.may_go_on(ended_by) and self._stays_open(running, ended_by):
            return
        if ended_by is TrialEnd.CRASH and not running.submitted:
            self._stop_unseen_run(running)
        trial = running.close(ended_by, spec=self.plan.spec, sweep_end=self.end, now=self._clock(), error=error)
        verdict = judge(self._curve(trial, diverged=running.diverged), self._advice_for(trial))
        verdict = with_data_causes(verdict, self.plan.findings, self.plan.data.sizes)
        trial = replace(trial, verdict=verdict)
        if trial.state is TrialState.FAILED and running.failure is not None:
            trial = self._with_failure(trial, running.failure)
            if out_of_memory and not trial.will_retry:
                trial = replace(trial, failure=FailureKind.OUT_OF_MEMORY)
        self.study.tell(trial)
        for observer in self._observers:
            observer.trial_ended(trial)
        self._steer()
        if trial.state is not TrialState.FAILED:
            if trial.values is not None:
                self._end_conditions.count_success()
        elif running.failure is not None and not trial.will_retry:
            self._end_conditions.count_failure(running.failure)

    @_ends_on_error
    def offer_again(self, number: int) -> None:
        """Take back a running trial whose machine was lost. It comes next, under its old key."""
        running = self._running.pop(number, None)
        if running is not None:
            self._offer_again(running)

    def _offer_again(self, running: RunningTrial) -> None:
        trial = _without_results(running.trial)
        self.study.record(trial)
        self.study.offer_again(trial)

    def _stays_open(self, running: RunningTrial, ended_by: TrialEnd) -> bool:
        """Keep a trial open whose run may go on somewhere. Returns False to close it as failed.

        Only the same key finds such a run: another attempt under a new key could train it twice.
        """
        trial, failure = running.trial, running.failure
        self._times_offered_again[trial.number] += 1
        retries_left = self._times_offered_again[trial.number] <= self.plan.spec.search.retries
        if retries_left and (failure is None or failure.kind.retryable):
            self._offer_again(running)
            return True
        if ended_by is TrialEnd.CRASH or failure is None:
            return False
        self.study.record(_without_results(trial))
        self.report_unreachable(failure)
        return True

    def finish(self) -> SweepEnd:
        """Close the remaining trials and record the time used, once the engine has stopped.

        Returns why the sweep ended.
        """
        self._end_conditions.end = self.end or self._queue.end
        if self._end_conditions.end not in RESUMABLE_ENDS:
            for trial in self.study.take_interrupted():
                self._running[trial.number] = RunningTrial(_without_results(trial), started=True)
            for running in list(self._running.values()):
                self._stop_run(running)
        elif self._end_conditions.end in PAUSING_ENDS:
            self._pause_runs()
        for number, running in list(self._running.items()):
            self.trial_ended(number, TrialEnd.ITSELF if running.ended_by_itself else TrialEnd.SWEEP)
        self._store_seconds()
        return self._end_conditions.end

    def _pause_runs(self) -> None:
        """Free the machine from the runs that the next run of the sweep continues."""
        backend = self._backend
        if backend is None or not isinstance(backend, SupportsPausing):
            return
        for trial in self.study.trials:
            if trial.state.ended:
                continue
            try:
                backend.pause(trial.key)
            except BackendError as error:
                _LOG.warning("the run of trial %d was not paused and may go on: %s", trial.number, error)

    def _stop_run(self, running: RunningTrial) -> None:
        """Stop a run that may go on at its service, although this process never heard of it.

        The sweep ends for good, so nobody would follow it. If its service does not answer, the
        trial stays open.
        """
        trial, backend = running.trial, self._backend
        is_new = not running.started and not self.study.was_interrupted(trial.number)
        if backend is None or backend.capabilities.in_process or running.submitted or is_new:
            return
        found = self._find_and_stop(trial, backend)
        if found is None:
            del self._running[trial.number]
            return
        handle, events = found
        self.observe(trial.number, handle, 0, events)

    def _stop_unseen_run(self, running: RunningTrial) -> None:
        """Stop the run that a crashed worker may have submitted, and record its handle.

        The trial is closed, and the final cost of the run is asked for later.
        """
        if self._backend is None or self._backend.capabilities.in_process:
            return
        if found := self._find_and_stop(running.trial, self._backend):
            running.trial = replace(running.trial, handle=found[0])

    def _find_and_stop(self, trial: Trial, backend: Backend) -> tuple[Handle, Sequence[Event]] | None:
        """Find the run of a trial by its key, and stop it. Returns None if the service refuses.

        If there is no such run, the service begins one, which is stopped at once.
        """
        for attempts_left in reversed(range(STOP_ATTEMPTS)):
            try:
                handle = trial.handle or backend.submit(self.plan.request(trial))
                backend.stop(handle)
                return handle, backend.events(handle, 0)
            except BackendError as error:
                if not error.failure.kind.retryable or not attempts_left:
                    _LOG.warning("the run of trial %d was not stopped and may go on: %s", trial.number, error)
                    return None
            self._sleep(STOP_PAUSE_S)
        return None

    def _start(self, running: RunningTrial) -> None:
        if not running.started:
            running.started = True
            running.trial = replace(running.trial, started_at=self._clock())
            for observer in self._observers:
                observer.trial_started(running.trial)

    def _steer(self) -> None:
        if self.end is not None:
            return
        for change in self._steering.step():
            for observer in self._observers:
                observer.space_steered(change, applied=self._steering.applies)

    def _store_seconds(self) -> None:
        now = self._clock()
        self.study.add_seconds(now - self._counted_until)
        self._counted_until = now

    def _with_failure(self, trial: Trial, failure: Failure) -> Trial:
        """Record why the trial failed, and whether the sweep owes another attempt for it."""
        attempts = self.study.attempts(trial) + self._times_offered_again[trial.number]
        retries_left = attempts <= self.plan.spec.search.retries
        return replace(trial, failure=failure.kind, will_retry=failure.kind.retryable and retries_left)

    def _is_over_budget(self, running: Trial) -> bool:
        if not self.plan.spec.budget.limits_spend:
            return False
        self.study.record(running)
        return self.budget_ledger.over_budget

    def _advice_for(self, trial: Trial) -> Advice:
        return self._advice.for_run({**trial.resolved, **trial.hyperparameters}, self.plan.advice_limits)

    def _curve(self, trial: Trial, *, diverged: bool = False) -> LearningCurve:
        generation = self.plan.evaluation.generation
        return learning_curve_of(
            trial,
            self.plan.data,
            self._objectives,
            self.plan.spec.task_metrics,
            None if generation is None else generation.examples,
            diverged=diverged,
        )


def _without_results(trial: Trial) -> Trial:
    """Return the open record of a trial whose run reports its events from the beginning."""
    return replace(
        trial,
        state=TrialState.RUNNING,
        passed_evaluations=max(trial.passed_evaluations, trial.evaluations),
        reason="",
        resolved={},
        curve=(),
        loop_reports=(),
        values=None,
        best_epoch=None,
        model=None,
        spend=Spend(),
        ended_at=None,
        stopped_by=None,
    )
