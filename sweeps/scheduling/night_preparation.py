"""Prepares a night before its first trial: plan, changes, name, budget, warm start, drift."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backends import codec
from backends.contract import Scalar
from sweeps.planning.gathering import BackendOutOfReachError
from sweeps.planning.plan import plan_file
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.scheduling import data_drift
from sweeps.scheduling.change_detection import DetectedChanges, detect_changes
from sweeps.scheduling.fingerprint import fingerprint_of
from sweeps.scheduling.night import Night, NightState, nights_folder
from sweeps.scheduling.night_budget import NightBudget, night_budget, with_known_costs
from sweeps.scheduling.night_context import NightContext
from sweeps.scheduling.sweep_naming import free_name, renamed
from sweeps.scheduling.warm_start import registered_champion, warm_start
from sweeps.workspace import write_text

PATIENCE_S = 3600.0
"""How long a night waits for a backend that gives no answer."""
RETRY_S = 60.0


@dataclass(frozen=True)
class PreparedNight:
    """A night that will run trials, and everything that its sweep needs.

    `budget` is None without a monthly limit.
    """

    night: Night
    plan: SweepPlan
    first_points: tuple[dict[str, Scalar], ...]
    budget: NightBudget | None

    def with_sweep_id(self, sweep_id: str) -> Night:
        """Return the night, whose cost, if it has a limit, is that of the study with this id."""
        if self.budget is None:
            return self.night
        cost = replace(self.budget.cost, sweep_id=sweep_id)
        return replace(self.night, results={**self.night.results, "money": codec.to_json(cost)})


def with_patience(
    make_plan: Callable[[], SweepPlan],
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> SweepPlan:
    """Return the plan; try again for an hour while the backend is out of reach.

    A person who waits gets the error within seconds, but nobody waits for a night. Raises the last
    BackendOutOfReachError, and every other error at once.
    """
    began = clock()
    while True:
        try:
            return make_plan()
        except BackendOutOfReachError as error:
            if clock() - began >= PATIENCE_S:
                raise
            say(f"{error.message}; trying again in {RETRY_S:.0f} s")
        sleep(RETRY_S)


def prepare_night(context: NightContext) -> PreparedNight | Night:
    """Decide what the claimed night does. Spends nothing.

    Returns the night itself, with its final state, if it runs no trial: nothing changed, or the
    rest of the monthly limit covers no trial. Raises SweepError.
    """
    schedule, environment, claimed = context.schedule, context.environment, context.claim.night
    data = Path(schedule.data) if schedule.data else None
    plan = with_patience(
        lambda: plan_file(Path(schedule.file), schedule.overrides, environment.workspace, data, estimate=False),
        context.say,
    )
    fingerprint = fingerprint_of(plan)
    earlier_nights = [night for night in context.store.nights(schedule.name) if night != claimed and night.state.ended]
    changes, earlier = detect_changes(fingerprint, earlier_nights)
    for reason in changes.reasons:
        context.say(reason)
    night = replace(
        claimed,
        fingerprint=codec.to_json(fingerprint),
        reason="; ".join(changes.reasons),
        results={"worth": changes.kind},
    )
    if changes.kind == "unchanged":
        return _unchanged(night, earlier)
    if changes.kind == "go_on" and earlier is not None and earlier.sweep:
        name = earlier.sweep
    else:
        name = free_name(plan, schedule.tz, night.planned_at, environment)
    plan = renamed(plan, name, environment.workspace)
    if plan.spec.budget.monthly_usd is not None:
        earlier_nights = with_known_costs(context, earlier_nights)
    budget = night_budget(context, plan, earlier_nights)
    if budget is not None:
        if (refusal := budget.refusal(plan, earlier)) is not None:
            context.say(refusal)
            return _without_budget(night, refusal, budget, earlier_nights)
        plan = budget.applied_to(plan)
    points, results = _warm_start_and_drift(context, plan, changes, earlier)
    night = replace(night, sweep=plan.spec.name, results={**night.results, **results})
    return PreparedNight(night, plan, points, budget)


def _unchanged(night: Night, earlier: Night | None) -> Night:
    """Return a night that runs no trial; its results name the current sweep and champion."""
    current = {"sweep": earlier.sweep, "champion": earlier.results.get("champion")} if earlier is not None else {}
    return replace(night, state=NightState.UNCHANGED, results={**night.results, **current})


def _without_budget(night: Night, refusal: str, budget: NightBudget, earlier_nights: Sequence[Night]) -> Night:
    """Return a night without budget. Only the first of several in a row is news."""
    planned = (other for other in earlier_nights if not other.manual)
    last = max(planned, key=lambda other: other.planned_at, default=None)
    is_news = last is None or last.state is not NightState.NO_BUDGET
    results = {**night.results, "month": codec.to_json(budget.month), "news": is_news}
    return replace(night, state=NightState.NO_BUDGET, reason=refusal, results=results)


def _warm_start_and_drift(
    context: NightContext, plan: SweepPlan, changes: DetectedChanges, earlier: Night | None
) -> tuple[tuple[dict[str, Scalar], ...], dict[str, Any]]:
    """Return the first points of a new sweep, and the results about them and about data drift."""
    points: tuple[dict[str, Scalar], ...] = ()
    results: dict[str, Any] = {}
    if earlier is None or not earlier.sweep or changes.kind != "changed":
        return points, results
    champion = registered_champion(plan, context.environment)
    if changes.same_space:
        points = warm_start(plan, earlier.sweep, champion, context.environment, context.say)
        results["first_points"] = [dict(point) for point in points]
    if changes.data_changed:
        trained_on = (champion.data if champion is not None else None) or earlier.fingerprint["data"]
        results["drift"] = _drift(context, plan, str(trained_on))
    return points, results


def _drift(context: NightContext, plan: SweepPlan, trained_on: str) -> dict[str, Any]:
    """Compare the training data with earlier data, write the report, and return the results.

    `trained_on` is the fingerprint of the earlier data.
    """
    workspace = context.environment.workspace
    earlier_data = workspace.root / "data" / trained_on / "train.jsonl"
    if not earlier_data.is_file():
        return {"why_not": "the earlier training data is not on this machine"}
    drift = data_drift.compare(data_drift.read(earlier_data), data_drift.read(Path(plan.data.dataset.train.path)))
    folder, name = nights_folder(workspace, context.schedule.name), context.claim.night.file_name
    folder.mkdir(parents=True, exist_ok=True)
    report = folder / f"{name}-drift.md"
    write_text(report, data_drift.markdown(drift, trained_on, plan.data.fingerprint))
    write_text(folder / f"{name}-drift.json", json.dumps(codec.to_json(drift), indent=2))
    for sentence in drift.sentences:
        context.say(f"drift: {sentence}")
    return {"report": str(report), "words": list(drift.sentences)}
