"""A trial while the engine runs it, and the record that closes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never

from backends.contract import Failure, FailureKind
from backends.waiting import Waiting
from sweeps.execution.outcome import SweepEnd
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.trials.events import objective_values
from sweeps.trials.trial import StoppedBy, Trial, TrialState
from sweeps.verdicts.verdict import FitVerdict


class TrialEnd(StrEnum):
    """What ended a trial, as the engine sees it."""

    ITSELF = "itself"
    SCHEDULER = "scheduler"
    VERDICT = "verdict"
    SWEEP = "sweep"
    CRASH = "crash"


@dataclass
class RunningTrial:
    """A trial that the engine has taken. It waits for a worker until `started`.

    `submitted` tells that the backend has accepted the run, or found it by its key. `next_event` is
    the number of the first event not seen yet, `ended_by_itself` tells that a terminal event came,
    and `early_stop_verdict` is a verdict certain enough to stop the trial.
    """

    trial: Trial
    started: bool = False
    submitted: bool = False
    next_event: int = 0
    failure: Failure | None = None
    ended_by_itself: bool = False
    early_stop_verdict: FitVerdict | None = None
    waiting: Waiting | None = None

    @property
    def diverged(self) -> bool:
        """Whether the backend reported that the run diverged."""
        return self.failure is not None and self.failure.kind is FailureKind.DIVERGED

    def may_go_on(self, ended_by: TrialEnd) -> bool:
        """Return whether the run may still go on where it trains, although the trial was lost.

        That is so after the crash of a worker, and after a submission that failed on the way: the
        backend may have accepted the run, and an earlier submission may have succeeded.
        """
        if ended_by is TrialEnd.CRASH:
            return not self.ended_by_itself
        failure = self.failure
        if failure is None or self.submitted or not self.ended_by_itself:
            return False
        return failure.kind.retryable or failure.kind is FailureKind.USER

    def close(
        self, ended_by: TrialEnd, *, spec: SweepSpec, sweep_end: SweepEnd | None, now: float, error: str = ""
    ) -> Trial:
        """Return the record of the ended trial, without its verdict.

        `error` is the error of a crashed worker, `sweep_end` why the sweep is ending, if it is.
        Sets `failure` if the worker was lost, or if the run completed without a finite value of the
        objective.
        """
        trial = self.trial
        if not self.ended_by_itself:
            trial = self._cut_short(ended_by, spec, sweep_end, error)
        elif trial.state is TrialState.COMPLETE and trial.values is None:
            self.failure = Failure(FailureKind.BUG, f"no finite {spec.objective.metric} was measured")
            trial = replace(trial, state=TrialState.FAILED, reason=self.failure.message)
        spend = replace(trial.spend, seconds=now - (trial.started_at or now))
        settled = self._is_settled(ended_by, in_process=spec.capabilities.in_process)
        trial = replace(trial, ended_at=now, spend=spend, settled=settled)
        if trial.values is not None:
            # An objective over cost or time counts the whole trial, not only up to its best epoch.
            objectives = tuple(objective_spec.objective for objective_spec in spec.objectives)
            kept = dict(zip((objective.metric for objective in objectives), trial.values, strict=True))
            trial = replace(trial, values=objective_values(trial, kept, objectives))
        return trial

    def _cut_short(self, ended_by: TrialEnd, spec: SweepSpec, sweep_end: SweepEnd | None, error: str) -> Trial:
        trial = self.trial
        epoch = f" after epoch {trial.curve[-1].epoch:g}" if len(trial.curve) > 1 else ""
        match ended_by:
            case TrialEnd.SCHEDULER:
                reason, stopped_by = f"stopped early by {spec.search.scheduler.type}{epoch}", StoppedBy.SCHEDULER
            case TrialEnd.VERDICT:
                kind = f": {self.early_stop_verdict.kind}" if self.early_stop_verdict is not None else ""
                reason, stopped_by = f"stopped early by its verdict{epoch}{kind}", StoppedBy.VERDICT
            case TrialEnd.SWEEP:
                reason, stopped_by = f"stopped{epoch}: {sweep_end or SweepEnd.INTERRUPTED}", StoppedBy.SWEEP
            case TrialEnd.CRASH | TrialEnd.ITSELF:
                lost = Failure(FailureKind.LOST, error or "the worker process ended without a message")
                self.failure = self.failure or lost
                return replace(trial, state=TrialState.FAILED, reason=self.failure.message)
            case _ as unreachable:
                assert_never(unreachable)
        return replace(trial, state=TrialState.STOPPED, stopped_by=stopped_by, reason=reason)

    def _is_settled(self, ended_by: TrialEnd, *, in_process: bool) -> bool:
        """Return whether the cost is final.

        A service may have trained, and charged, beyond the last event seen.
        """
        if not self.ended_by_itself:
            return in_process and ended_by is not TrialEnd.CRASH
        kind = self.failure.kind if self.failure is not None else None
        may_have_been_submitted = self.trial.handle is None and kind in (FailureKind.TRANSIENT, FailureKind.BUG)
        return kind is not FailureKind.LOST and not may_have_been_submitted
