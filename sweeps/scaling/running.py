"""Runs the points of a scale run one after another, as sweeps of the workspace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sweeps.errors import SweepInterruptedError, UserInputError
from sweeps.execution.environment import Environment
from sweeps.execution.observers import ProgressObserver
from sweeps.execution.outcome import SweepEnd
from sweeps.scaling.allowance import Standing, allowance, budget_problems
from sweeps.scaling.curves import judged
from sweeps.scaling.plan import ScalePlan, ScalePoint
from sweeps.scaling.result import ScaleResult
from sweeps.scaling.stored_points import OtherPoints, is_done, mark, measured, other_points, standing, stored
from sweeps.study.stored_study import StoredStudy

Say = Callable[[str], None]

SKIPPED = ("changed since the last run", "starting Ray and MLflow", "sweep `")
"""Messages of a sweep that say nothing new about a point: its budget is set anew for each run, and
Ray starts once."""

RAY_RECORD = "ray.json"


def require_budget(plan: ScalePlan, environment: Environment, *, fresh: bool = False) -> None:
    """Raise UserInputError if the budget does not cover all points. Spends nothing."""
    standings, others = _standings(plan, environment, fresh=fresh)
    place = plan.document.place(("budget", "usd" if plan.budget.usd is not None else "tokens"))
    if problems := list(budget_problems(plan.budget, standings, others.committed, place)):
        raise UserInputError(problems)


def run_scale(
    plan: ScalePlan,
    environment: Environment,
    progress: Callable[[], ProgressObserver],
    say: Say,
    *,
    fresh: bool = False,
) -> ScaleResult:
    """Train every point that is not trained yet, and return the curves.

    `progress` makes the observer of one sweep. With `fresh` the stored sweeps of all points are set
    aside first. Raises SweepInterruptedError after Ctrl-C and SweepError after a failure; the same
    call continues where it stopped. A used-up budget is no error: the result says what is missing.
    """
    workspace = environment.workspace
    with workspace.lock(plan.home):
        if fresh:
            _set_aside(plan, environment, say)
        require_budget(plan, environment)
        end = _run_points(plan, environment, progress, say)
        return result_of(plan, environment, end)


def result_of(plan: ScalePlan, environment: Environment, end: str = "") -> ScaleResult:
    """Return the curves as far as they are trained."""
    curves = []
    for choice in plan.request.models:
        points = []
        for point in plan.points:
            if point.choice == choice:
                points.append(measured(point, _stored(point, environment), end))
        first = next(point for point in plan.points if point.choice == choice)
        seed = first.plan.spec.search.seed
        curves.append(judged(choice.label, first.plan.base_model, points, plan.measure, seed))
    some = plan.points[-1].plan.data
    return ScaleResult(
        plan.name, some.name, plan.measure, plan.request.seeds, plan.request.searches, tuple(curves), end
    )


def _run_points(plan: ScalePlan, environment: Environment, progress: Callable[[], ProgressObserver], say: Say) -> str:
    """Run the points; return why the rest was not run, or an empty text."""
    missing = [point for point in plan.points if not _is_done(point, environment)]
    total = len(plan.points)
    if not missing:
        say(f"all {total} points are trained already")
        return ""
    if len(missing) < total:
        say(f"{total - len(missing)} of {total} points are trained already")
    say("starting Ray and MLflow once for all points")
    record = environment.workspace.sweep_folder(plan.home) / RAY_RECORD
    try:
        for index, point in enumerate(plan.points):
            if point not in missing:
                continue
            standings, others = _standings(plan, environment)
            limit = allowance(plan.budget, standings, index, others.committed, others.seconds)
            if limit is None:
                say(f"the budget is used up after {index} of {total} points")
                return "the budget was used up before"
            say(f"point {index + 1} of {total}: {point.choice.label} on {point.size:,} examples")
            own = replace(point, plan=replace(point.plan, spec=point.plan.spec.with_sections(budget=limit)))
            ended = _run_point(plan, own, environment, progress(), say, record=record, index=index)
            if ended is SweepEnd.TIME:
                say(f"the time limit was reached after {index + 1} of {total} points")
                return "the time limit was reached before"
    finally:
        _end_ray(record)
    return ""


def _run_point(
    plan: ScalePlan,
    point: ScalePoint,
    environment: Environment,
    progress: ProgressObserver,
    say: Say,
    *,
    record: Path,
    index: int,
) -> SweepEnd:
    from sweeps.execution import run as execution

    workspace, name = environment.workspace, point.plan.spec.name

    def say_news(message: str) -> None:
        if not message.startswith(SKIPPED):
            say(message)

    with workspace.lock(name):
        mark(workspace, plan, point)
        try:
            return execution.run(point.plan, environment, progress, say_news, lasting_ray=record).end
        except SweepInterruptedError:
            raise SweepInterruptedError(
                f"stopped after {index} of {len(plan.points)} points; every result is saved",
                "run the same command again: it continues where it stopped, and trains nothing twice",
            ) from None


def _set_aside(plan: ScalePlan, environment: Environment, say: Say) -> None:
    """Keep the stored sweeps of all points under other names."""
    for point in plan.points:
        name = point.plan.spec.name
        if (environment.workspace.sweep_folder(name) / "plan.json").exists():
            with environment.workspace.lock_afresh(name) as aside:
                if aside is not None:
                    say(f"kept the earlier sweep as `{aside.name}`")


def _standings(plan: ScalePlan, environment: Environment, *, fresh: bool = False) -> tuple[list[Standing], OtherPoints]:
    standings = [standing(point, None if fresh else _stored(point, environment)) for point in plan.points]
    return standings, other_points(environment.workspace, plan, environment.storage)


def _stored(point: ScalePoint, environment: Environment) -> StoredStudy | None:
    return stored(environment.workspace, point.plan.spec.name, environment.storage)


def _is_done(point: ScalePoint, environment: Environment) -> bool:
    study = _stored(point, environment)
    return study is not None and is_done(point, study)


def _end_ray(record: Path) -> None:
    """End the Ray that the points have shared."""
    from sweeps.execution import engine

    engine.disconnect(record)
