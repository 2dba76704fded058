"""One night: is it worth running, under which name, from which points, until when; and what came of it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from backends.contract import Scalar
from sweeps.errors import SweepError, SweepInterruptedError
from sweeps.execution.environment import Environment
from sweeps.execution.run import run as run_sweep
from sweeps.execution.observers import ProgressObserver
from sweeps.execution.outcome import Outcome, SweepEnd
from sweeps.planning.plan import plan_file
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.scheduling import change_detection, data_drift
from sweeps.scheduling.calendar import closing
from sweeps.scheduling.heartbeat import Heartbeat
from sweeps.scheduling.monthly_budget import Money, month
from sweeps.scheduling.night_allowance import Allowance, allowance, closed, told
from sweeps.scheduling.schedule import Night, NightState, Schedule
from sweeps.scheduling.store import Claim, Schedules, StorageAwayError
from sweeps.spec.yaml_source import with_overrides
from sweeps.study import state
from sweeps.study.stored_study import stored_fingerprint
from sweeps.workspace import Workspace

ENDING_S = 60.0
"""So long before the window closes the sweep is to be done: what follows the last trial takes some seconds."""

STORING = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0)
"""Seconds between the attempts to store how a night ended, where the database is away."""

FINISHED = (SweepEnd.TRIALS, SweepEnd.EXHAUSTED, SweepEnd.TARGET, SweepEnd.BUDGET, SweepEnd.TIME)


@dataclass(frozen=True)
class _Tonight:
    """What was decided before any trial."""

    plan: SweepPlan
    points: tuple[dict[str, Scalar], ...]
    found: Mapping[str, Any]


class Search(Protocol):
    """How a night's sweep is run: as `run.run` does it."""

    def __call__(
        self,
        plan: SweepPlan,
        environment: Environment,
        progress: ProgressObserver,
        say: Callable[[str], None],
        *,
        deadline: float | None,
        first_points: Sequence[Mapping[str, Scalar]],
    ) -> Outcome:
        """Run the sweep or go on with it; see `run.run`."""
        ...


def run_night(
    schedule: Schedule,
    claim: Claim,
    schedules: Schedules,
    environment: Environment,
    progress: ProgressObserver,
    say: Callable[[str], None],
    search: Search = run_sweep,
    clock: Callable[[], float] = time.time,
) -> Night:
    """Run a claimed night and store how it ended. Returns the night; what fails is its state and reason, too.

    Only what is our own mistake is raised, after the night has been stored as failed.
    """
    night = claim.night
    with Heartbeat(schedules, claim) as heartbeat:
        try:
            night = _run(schedule, claim, schedules, environment, progress, say, search, clock)
        except SweepInterruptedError as stopped:
            night = replace(
                _known(schedules, night), state=NightState.STOPPED, reason=heartbeat.lost or stopped.message
            )
        except SweepError as error:
            night = replace(_known(schedules, night), state=NightState.FAILED, reason=_in_words(error))
        except KeyboardInterrupt:
            night = replace(_known(schedules, night), state=NightState.STOPPED, reason=heartbeat.lost or "stopped")
        except BaseException as error:
            failed = replace(night, state=NightState.FAILED, reason=f"{type(error).__name__}: {error}")
            store(schedules, claim, replace(failed, ended_at=clock()), say)
            raise
    night = _closed(replace(night, ended_at=clock()), schedule, schedules, environment)
    store(schedules, claim, night, say)
    return night


def store(schedules: Schedules, claim: Claim, night: Night, say: Callable[[str], None]) -> bool:
    """Store how a night ended, patiently where the database is away. False where somebody else has the night."""
    for pause_s in (*STORING, None):
        try:
            return schedules.finish(claim, night)
        except StorageAwayError as away:
            if pause_s is None:
                say(f"how the night ended is not stored: {away.message}")
                return False
            time.sleep(pause_s)
    return False


def folder(workspace: Workspace, schedule: str) -> Path:
    """Where the summaries, drift reports and logs of a schedule's nights are."""
    return workspace.root / "nights" / schedule


def _run(
    schedule: Schedule,
    claim: Claim,
    schedules: Schedules,
    environment: Environment,
    progress: ProgressObserver,
    say: Callable[[str], None],
    search: Search,
    clock: Callable[[], float],
) -> Night:
    night, workspace = claim.night, environment.workspace
    plan = plan_file(
        Path(schedule.file),
        schedule.overrides,
        workspace,
        Path(schedule.data) if schedule.data else None,
        estimate=False,
    )
    now = change_detection.fingerprint(plan)
    others = [each for each in schedules.nights(schedule.name) if each != night and each.state.ended]
    judged, before = change_detection.worth(now, others)
    for word in judged.words:
        say(word)
    night = replace(night, fingerprint=now.to_json(), reason="; ".join(judged.words), found={"worth": judged.kind})
    if judged.kind == "unchanged":
        kept = {"sweep": before.sweep, "champion": before.found.get("champion")} if before is not None else {}
        return replace(night, state=NightState.UNCHANGED, found={**night.found, **kept, "worth": judged.kind})
    plan = _named(plan, workspace, _name(schedule, plan, judged, before, night, environment))
    if plan.spec.budget.monthly_usd is not None:
        others = _all_told(others, claim, schedules, environment)
    allowed = allowance(plan, schedule, others, environment, clock())
    if allowed is not None:
        if (why := allowed.refusal(plan, before)) is not None:
            say(why)
            return replace(night, state=NightState.NO_BUDGET, reason=why, found=_unpaid(night, others, allowed))
        plan = allowed.limited(plan)
        night = replace(night, found={**night.found, "money": allowed.money.to_json()})
    tonight = _prepared(schedule, plan, judged, before, night, environment, say)
    night = replace(night, sweep=tonight.plan.spec.name, found={**night.found, **tonight.found})
    schedules.note(claim, night)  # with what it may spend, before it spends anything
    spent_before = _spent(tonight.plan, environment)
    with workspace.lock(tonight.plan.spec.name):
        end = closing(schedule, night.planned_at)
        outcome = search(
            tonight.plan,
            environment,
            progress,
            say,
            deadline=end.timestamp() - ENDING_S if end is not None else None,
            first_points=tonight.points,
        )
    cut_short = outcome.end is SweepEnd.BUDGET and allowed is not None and allowed.binds
    done = NightState.DONE if outcome.end in FINISHED and not cut_short else NightState.PARTIAL
    night = replace(night, state=done, found={**night.found, **_numbers(outcome, night, spent_before)})
    if cut_short:
        night = replace(night, reason="; ".join(filter(None, (night.reason, "the month's limit ended the search"))))
    return night


def _closed(night: Night, schedule: Schedule, schedules: Schedules, environment: Environment) -> Night:
    """Return the night with what it has cost at most, however it ended, and with the month's books for people."""
    money = Money.of(night)
    if money is None or night.sweep is None or night.ended_at is None:
        return night
    money = closed(money, night.sweep, environment)
    night = replace(night, found={**night.found, "money": money.to_json()})
    try:
        named = (night.planned_at, night.attempt)
        others = [night for night in schedules.nights(night.schedule) if (night.planned_at, night.attempt) != named]
    except StorageAwayError:
        return night
    ledger = month([*others, night], schedule.tz, money.monthly, night.ended_at or 0.0)
    return replace(night, found={**night.found, "month": asdict(ledger)})


def _all_told(nights: Sequence[Night], claim: Claim, schedules: Schedules, environment: Environment) -> list[Night]:
    """Return the nights; of those that ended without a word what they cost is asked of their studies, and stored."""
    known = [told(night, environment) for night in nights]
    if late := [after for before, after in zip(nights, known, strict=True) if before != after]:
        schedules.amend(claim, late)
    return known


def _unpaid(night: Night, others: Sequence[Night], allowed: Allowance) -> dict[str, Any]:
    """Return what is told of a night without budget. The first of several in a row is news, the others are not."""
    last = max((other for other in others if not other.manual), key=lambda other: other.planned_at, default=None)
    news = last is None or last.state is not NightState.NO_BUDGET
    return {**night.found, "month": asdict(allowed.month), "news": news}


def _prepared(
    schedule: Schedule,
    plan: SweepPlan,
    judged: change_detection.Worth,
    before: Night | None,
    night: Night,
    environment: Environment,
    say: Callable[[str], None],
) -> _Tonight:
    """Give tonight's sweep, where only data changed, its first points and the report of the drift."""
    workspace, found = environment.workspace, {}
    points: tuple[dict[str, Scalar], ...] = ()
    if before is not None and before.sweep and judged.kind == "changed":
        champion = _champion(plan, environment)
        if judged.same_space:
            points = _warm(plan, before.sweep, champion, environment, say)
            found["first_points"] = [dict(point) for point in points]
        if judged.data_changed:
            trained_on = str((champion or {}).get("data") or before.fingerprint["data"])
            found |= _drift(workspace, schedule, night, trained_on, plan, say)
    return _Tonight(plan, points, found)


def _name(
    schedule: Schedule,
    plan: SweepPlan,
    judged: change_detection.Worth,
    before: Night | None,
    night: Night,
    environment: Environment,
) -> str:
    """Return what tonight's sweep is called: as the earlier night's where it goes on with that."""
    if judged.kind == "go_on" and before is not None and before.sweep:
        return before.sweep
    return _free_name(environment, plan.spec.name, plan.fingerprint, schedule, night)


def _free_name(environment: Environment, base: str, fingerprint: str, schedule: Schedule, night: Night) -> str:
    """Return the file's own name where no other sweep has it, else that name with the night's local date."""
    if not _taken(environment, base, fingerprint):
        return base
    day = datetime.fromtimestamp(night.planned_at, UTC).astimezone(ZoneInfo(schedule.tz)).date().isoformat()
    dated = f"{base[: 100 - len(day) - 5]}-{day}"
    name, number = dated, 1
    while _taken(environment, name, fingerprint):
        number += 1
        name = f"{dated}.{number}"
    return name


def _taken(environment: Environment, name: str, fingerprint: str) -> bool:
    """Return whether another sweep has the name: in this folder, or in the database, where another machine began it."""
    if change_detection.taken(environment.workspace.sweep_folder(name), fingerprint):
        return True
    if environment.storage is None:
        return False
    return stored_fingerprint(environment.storage, environment.workspace.study_name(name)) not in (None, fingerprint)


def _named(plan: SweepPlan, workspace: Workspace, name: str) -> SweepPlan:
    """Return the plan under another name. MLflow's experiment and the registered model keep the file's own name."""
    base = plan.spec.name
    if name == base:
        return plan
    spec = plan.spec
    written = [f"name={json.dumps(name)}"]
    if spec.tracking.experiment is None:
        spec = spec.with_sections(tracking=spec.tracking.model_copy(update={"experiment": base}))
        written.append(f"tracking.experiment={json.dumps(base)}")
    if spec.champion is not None and spec.champion.model is None:
        spec = spec.with_sections(champion=spec.champion.model_copy(update={"model": base}))
        written.append(f"champion.model={json.dumps(base)}")
    spec = replace(spec.with_sections(name=name), document=with_overrides(spec.document, written))
    return replace(plan, spec=spec, folder=workspace.sweep_folder(name))


def _champion(plan: SweepPlan, environment: Environment) -> dict[str, Any] | None:
    """Return the point of the registered champion and the data it was trained on; None where there is no champion."""
    if plan.spec.champion is None:
        return None
    version = environment.registry().champion(plan.spec.champion.model or plan.spec.name)
    if version is None:
        return None
    point = json.loads(version.tags.get("finesweep.hyperparameters", "{}"))
    return {"point": point, "data": version.tags.get("finesweep.data")}


def _warm(
    plan: SweepPlan,
    sweep: str,
    champion: Mapping[str, Any] | None,
    environment: Environment,
    say: Callable[[str], None],
) -> tuple[dict[str, Scalar], ...]:
    try:
        earlier = state.read_state(environment.workspace, sweep, environment.storage)
    except SweepError as error:
        say(f"no points are taken over from `{sweep}`: {error.message}")
        return ()
    winner = earlier.finals.winner if earlier.finals is not None else None
    point = champion["point"] if champion is not None else None
    points = change_detection.first_points(point, earlier.trials, winner, plan.spec.objective, plan.space)
    if points:
        whose = "the champion's, then the best of" if point in points else "the best of"
        say(f"{len(points)} points are tried first: {whose} `{sweep}`")
    return points


def _drift(
    workspace: Workspace, schedule: Schedule, night: Night, trained_on: str, plan: SweepPlan, say: Callable[[str], None]
) -> dict[str, Any]:
    old = workspace.root / "data" / trained_on / "train.jsonl"
    if not old.is_file():
        return {"drift": {"why_not": "the data of the earlier night are no longer here"}}
    found = data_drift.compare(data_drift.read(old), data_drift.read(Path(plan.data.dataset.train.path)))
    home = folder(workspace, schedule.name)
    where = home / f"{night.file_name}-drift.md"
    home.mkdir(parents=True, exist_ok=True)
    where.write_text(data_drift.markdown(found, trained_on, plan.data.fingerprint), encoding="utf-8")
    (home / f"{night.file_name}-drift.json").write_text(json.dumps(found.to_json(), indent=2), encoding="utf-8")
    for word in found.words:
        say(f"drift: {word}")
    return {"drift": {"report": str(where), "words": list(found.words)}}


def _spent(plan: SweepPlan, environment: Environment) -> tuple[float, int]:
    """Return what the sweep has cost before tonight: dollars and tokens."""
    try:
        spent = state.read_state(environment.workspace, plan.spec.name, environment.storage).ledger.spent
    except SweepError:
        return 0.0, 0
    return spent.usd, spent.tokens


def _numbers(outcome: Outcome, night: Night, before: tuple[float, int]) -> dict[str, Any]:
    """Return what the summary tells of a night, plain values."""
    since = night.started_at or 0.0
    every: Sequence[Any] = (*outcome.trials, *outcome.repeats)
    tonight = [each for each in every if each.ended_at is not None and each.ended_at >= since]
    spent, best = outcome.ledger.spent, outcome.best
    test = outcome.finals.test if outcome.finals is not None else None
    return {
        "end": outcome.end.value,
        "data": outcome.plan.data.name,
        "trials": len(tonight),
        "trials_of_the_sweep": sum(trial.state.ended for trial in outcome.trials),
        "wanted_trials": outcome.plan.spec.search.trials,
        "states": dict(Counter(each.state.value for each in tonight)),
        "verdicts": dict(Counter(each.verdict.kind.value for each in tonight if each.verdict is not None)),
        "priced": outcome.plan.spec.capabilities.priced,
        "usd": round(spent.usd - before[0], 6),
        "tokens": spent.tokens - before[1],
        "metric": outcome.plan.spec.objective.metric,
        "best": None
        if best is None or best.values is None
        else {
            "trial": best.number,
            "value": best.values[0],
            "epoch": best.best_epoch,
            "hyperparameters": dict(best.hyperparameters),
        },
        "test_accuracy": list(test) if test is not None else None,
        "champion": asdict(outcome.champion) if outcome.champion is not None else None,
        "report": str(outcome.report),
        "mlflow": outcome.run_url,
        "problems": list(outcome.problems),
    }


def _known(schedules: Schedules, night: Night) -> Night:
    """Return what is stored of the night so far: its sweep and fingerprint, by which the next one goes on."""
    try:
        stored = schedules.nights(night.schedule)
    except StorageAwayError:
        return night
    same = (each for each in stored if (each.planned_at, each.attempt) == (night.planned_at, night.attempt))
    return next(same, night)


def _in_words(error: SweepError) -> str:
    lines = str(error).splitlines()
    more = f" (and {len(lines) - 1} more problems)" if len(lines) > 1 else ""
    return (lines[0] if lines else type(error).__name__) + more + (f"; {error.hint}" if error.hint else "")
