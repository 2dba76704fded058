"""Runs one claimed night: prepare, store the intent, run the sweep, store the outcome."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from backends.contract import Scalar
from sweeps.errors import SweepError, SweepInterruptedError
from sweeps.execution.environment import Environment
from sweeps.execution.observers import ProgressObserver
from sweeps.execution.outcome import Outcome, SweepEnd
from sweeps.execution.run import run as run_sweep
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.scheduling.calendar import window_end
from sweeps.scheduling.claims import Claim
from sweeps.scheduling.database import DatabaseUnavailableError
from sweeps.scheduling.heartbeat import Heartbeat
from sweeps.scheduling.night import Night, NightState
from sweeps.scheduling.night_budget import with_final_cost
from sweeps.scheduling.night_context import NightContext
from sweeps.scheduling.night_preparation import PreparedNight, prepare_night
from sweeps.scheduling.night_results import failure_reason, night_results, spent_before
from sweeps.scheduling.store import ScheduleStore
from sweeps.study.study import Study

DEADLINE_MARGIN_S = 60.0
"""The last trial ends this long before the window closes: finishing a sweep takes some seconds."""

STORE_RETRY_DELAYS_S = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0)
"""The delays between attempts to store an outcome while the database is unavailable."""

COMPLETE_ENDS = (SweepEnd.TRIALS, SweepEnd.EXHAUSTED, SweepEnd.TARGET, SweepEnd.BUDGET, SweepEnd.TIME)
"""After these ends a sweep has nothing left to do."""


class RunSweep(Protocol):
    """Runs a sweep, or continues it, as `sweeps.execution.run.run` does."""

    def __call__(
        self,
        plan: SweepPlan,
        environment: Environment,
        progress: ProgressObserver,
        say: Callable[[str], None],
        *,
        deadline: float | None,
        first_points: Sequence[Mapping[str, Scalar]],
        study_opened: Callable[[Study], None],
    ) -> Outcome:
        """Run the sweep; see `sweeps.execution.run.run`."""
        ...


def run_night(context: NightContext, progress: ProgressObserver, run: RunSweep = run_sweep) -> Night:
    """Run a claimed night, store its outcome, and return it.

    A SweepError or Ctrl-C becomes the state and the reason of the night. Any other exception is our
    bug: the night is stored as failed, and the exception is raised.
    """
    night = context.claim.night
    with Heartbeat(context.store.claims, context.claim) as heartbeat:
        try:
            night = _run(context, progress, run)
        except SweepInterruptedError as error:
            reason = heartbeat.lost or error.message
            night = replace(_last_stored(context), state=NightState.STOPPED, reason=reason)
        except SweepError as error:
            night = replace(_last_stored(context), state=NightState.FAILED, reason=failure_reason(error))
        except KeyboardInterrupt:
            night = replace(_last_stored(context), state=NightState.STOPPED, reason=heartbeat.lost or "stopped")
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}"
            failed = replace(night, state=NightState.FAILED, reason=reason, ended_at=context.clock())
            store_outcome(context.store, context.claim, failed, context.say)
            raise
    night = with_final_cost(context, replace(night, ended_at=context.clock()))
    store_outcome(context.store, context.claim, night, context.say)
    return night


def store_outcome(store: ScheduleStore, claim: Claim, night: Night, say: Callable[[str], None]) -> bool:
    """Store how a night ended, and retry while the database is unavailable.

    Returns False if another process has taken the lease, or if the database stays unavailable.
    """
    for delay_s in (*STORE_RETRY_DELAYS_S, None):
        try:
            return store.claims.finish(claim, night)
        except DatabaseUnavailableError as error:
            if delay_s is None:
                say(f"could not store how the night ended: {error.message}")
                return False
            time.sleep(delay_s)
    return False


def _run(context: NightContext, progress: ProgressObserver, run: RunSweep) -> Night:
    prepared = prepare_night(context)
    if isinstance(prepared, Night):
        return prepared
    night, plan = prepared.night, prepared.plan

    def store_sweep(study: Study) -> None:
        # Before the first trial spends anything. A night that ended earlier has no sweep and no
        # cost, so the next one prepares the same sweep again, with its first points.
        nonlocal night
        night = prepared.with_sweep_id(study.sweep_id)
        context.store.claims.store_progress(context.claim, night)

    before = spent_before(plan, context.environment)
    with context.environment.workspace.lock(plan.spec.name):
        end = window_end(context.schedule, night.planned_at)
        outcome = run(
            plan,
            context.environment,
            progress,
            context.say,
            deadline=end.timestamp() - DEADLINE_MARGIN_S if end is not None else None,
            first_points=prepared.first_points,
            study_opened=store_sweep,
        )
    results = {**night.results, **night_results(outcome, night.started_at or 0.0, before)}
    return _with_outcome(replace(night, results=results), prepared, outcome.end)


def _with_outcome(night: Night, prepared: PreparedNight, end: SweepEnd) -> Night:
    """Return the night with its state.

    A sweep that the monthly limit ended continues in a later night.
    """
    budget = prepared.budget
    if end is SweepEnd.BUDGET and budget is not None and budget.month_is_tighter:
        reason = "; ".join(filter(None, (night.reason, "the monthly limit ended the search")))
        return replace(night, state=NightState.PARTIAL, reason=reason)
    return replace(night, state=NightState.DONE if end in COMPLETE_ENDS else NightState.PARTIAL)


def _last_stored(context: NightContext) -> Night:
    """Return the night as stored so far.

    It has the sweep and the fingerprint that the next night needs in order to continue.
    """
    night = context.claim.night
    try:
        stored = context.store.nights(night.schedule)
    except DatabaseUnavailableError:
        return night
    return next((other for other in stored if other.key == night.key), night)
