"""Decides when a sweep as a whole ends: a limit, the target, an interruption or a failure.

Takes the clock as input.
"""

from __future__ import annotations

from backends.contract import Failure, FailureKind
from sweeps.errors import SweepError
from sweeps.execution import failure_policy
from sweeps.execution.outcome import SweepEnd
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.trials.trial import Trial


class EndConditions:
    """Why the sweep ends, and the error that ended it.

    `end` is None while the sweep goes on. `error` is None unless the user has something to fix.
    """

    def __init__(self, spec: SweepSpec, deadline: float | None) -> None:
        """`deadline` is a time on the clock that `check` receives as `now`, or None."""
        self.end: SweepEnd | None = None
        self.error: SweepError | None = None
        self._spec = spec
        self._deadline = deadline
        self._failures: list[Failure] = []

    def check(self, seconds_used: float, now: float) -> bool:
        """Apply the time limit and the deadline. Returns whether the sweep must end now."""
        hours = self._spec.budget.hours
        if self.end is None and hours is not None and seconds_used >= hours * 3600:
            self.end = SweepEnd.TIME
        if self.end is None and self._deadline is not None and now >= self._deadline:
            self.end = SweepEnd.DEADLINE
        return self.end is not None

    def check_target(self, trial: Trial) -> None:
        """End the sweep if the trial reaches the target of the first objective."""
        target, objective = self._spec.objectives[0].target, self._spec.objective
        if target is None or trial.values is None or self.end is not None:
            return
        if trial.values[0] == target or objective.better(trial.values[0], target):
            self.end = SweepEnd.TARGET

    def count_failure(self, failure: Failure) -> None:
        """Count a failed trial that is not retried. Ends the sweep if others would fail too."""
        self._failures.append(failure)
        if failure_policy.ends_sweep(self._failures):
            message = f"{failure_policy.MAX_SIMILAR_FAILURES} trials in a row failed in the same way: {failure.message}"
            self.fail(SweepError(message, failure.detail or "fix the cause, then run the same command again"))
        elif failure.kind is FailureKind.USER:
            self.fail(SweepError(failure.message, failure.detail))

    def count_success(self) -> None:
        """Forget earlier failures: only failures with no success between them end the sweep."""
        self._failures.clear()

    def interrupt(self) -> None:
        """End the sweep on the user's request, unless it is ending already."""
        self.end = self.end or SweepEnd.INTERRUPTED

    def abort(self) -> None:
        """End the sweep because the engine failed, unless it is ending already."""
        self.end = self.end or SweepEnd.FAILED

    def fail(self, error: SweepError) -> None:
        """End the sweep as failed, whatever it was ending for before."""
        self.end, self.error = SweepEnd.FAILED, error
