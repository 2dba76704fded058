"""Decides the finals after the search, unless the sweep ended before its finals were complete."""

from __future__ import annotations

from collections.abc import Callable

from backends.contract import Backend, BackendError
from sweeps.errors import SweepError
from sweeps.execution import finals_scoring
from sweeps.execution.outcome import SweepEnd
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.study.finals import FinalsResult
from sweeps.study.study import Study


def decide_finals(
    plan: SweepPlan, study: Study, backend: Backend, end: SweepEnd, say: Callable[[str], None]
) -> FinalsResult | None:
    """Rank the finalists, store the result in the study and return it.

    Returns None if there are no finals to decide. A stored result about the same repetitions is
    returned as it is. `say` receives progress messages. Raises SweepError if the backend cannot
    score the finalists.
    """
    if plan.spec.finals is None:
        return None
    repeats_ended = sum(repeat.state.ended for repeat in study.repeats)
    complete_within_budget = end is SweepEnd.BUDGET and repeats_ended == plan.final_trials
    if end not in (SweepEnd.TRIALS, SweepEnd.EXHAUSTED) and not complete_within_budget:
        if end is not SweepEnd.INTERRUPTED:
            say(f"no finals: {end}")
        return None
    stored = study.finals
    if stored is not None and stored.was_decided_by(study.repeats):
        return stored
    say("comparing the finalists on the validation set and scoring the winner once on the test split")
    try:
        result = finals_scoring.score_finals(plan, study.search_trials, study.repeats, backend)
    except BackendError as error:
        raise SweepError(
            f"the finalists cannot be compared: {error.failure.message}",
            error.failure.detail or "run the same command again to compare them; every trial is recorded",
        ) from error
    if result is not None:
        study.store_finals(result)
    return result
