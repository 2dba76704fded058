"""What the sweeps of a scale run have taken and measured so far, read from the workspace."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from sweeps.scaling.allowance import Standing
from sweeps.scaling.curves import MeasuredPoint
from sweeps.scaling.plan import ScalePlan, ScalePoint
from sweeps.spec.objective import Objective
from sweeps.study.finals import FinalsResult
from sweeps.study.stored_study import StoredStudy, read_study
from sweeps.trials.budget import Amount, total
from sweeps.trials.trial import Trial, TrialState, leaderboard
from sweeps.workspace import Workspace, write_text

MARK = "scale.json"
"""The file by which the folder of a point names its scale run. A folder that was set aside has
another name than its mark."""


@dataclass(frozen=True)
class OtherPoints:
    """What points of the same scale run have taken that this command does not name."""

    committed: Amount
    seconds: float


def mark(workspace: Workspace, plan: ScalePlan, point: ScalePoint) -> None:
    """Let the folder of a point name its scale run. The caller holds the lock of the folder."""
    name = point.plan.spec.name
    write_text(workspace.sweep_folder(name) / MARK, json.dumps({"scale": plan.home, "sweep": name}))


def stored(workspace: Workspace, name: str, storage: str | None) -> StoredStudy | None:
    """Return the study of a point; None before it starts. Raises SweepError if it is unreadable."""
    if not (workspace.sweep_folder(name) / "plan.json").exists():
        return None
    return read_study(storage or workspace.study_file(name), workspace.study_name(name), curves=False)


def standing(point: ScalePoint, study: StoredStudy | None) -> Standing:
    """Return what a point needs and has taken."""
    if study is None:
        return Standing(point.required, point.most)
    taken = study.ledger.worst_case
    if is_done(point, study):
        return Standing(taken, taken, taken, study.seconds)
    return Standing(point.required, point.most, taken, study.seconds)


def other_points(workspace: Workspace, plan: ScalePlan, storage: str | None) -> OtherPoints:
    """Return what earlier commands of this scale run have taken for other points."""
    named = {point.plan.spec.name for point in plan.points}
    studies = []
    for file in sorted((workspace.root / "sweeps").glob(f"*/{MARK}")):
        if file.parent.name not in named and _marks(file, plan.home):
            studies.append(stored(workspace, file.parent.name, storage))
    known = [study for study in studies if study is not None]
    return OtherPoints(total(study.ledger.worst_case for study in known), sum(study.seconds for study in known))


def is_done(point: ScalePoint, study: StoredStudy) -> bool:
    """Return whether the sweep of a point has ended with everything that is asked for."""
    ended = [trial for trial in study.search_trials if trial.state.ended]
    finals = point.plan.spec.finals
    is_over = study.is_finished and len(ended) >= point.plan.spec.search.trials
    if finals is None or not any(trial.values for trial in ended):
        return is_over
    return is_over and study.finals is not None and len(_repeats(point, study)) >= finals.seeds


def measured(point: ScalePoint, study: StoredStudy | None, why_not: str) -> MeasuredPoint:
    """Return the values of a point. `why_not` says why the scale run ended before it, if it did."""
    name = point.plan.spec.name
    if study is None:
        return MeasuredPoint(point.size, name, missing=why_not or "not trained")
    trials = _counted(point, study)
    values = tuple(trial.values[0] for trial in trials if trial.values)
    asked = 1 if point.plan.spec.finals is None else point.plan.spec.finals.seeds + bool(point.hyperparameters)
    result = study.finals
    spent = study.ledger.spent
    return MeasuredPoint(
        size=point.size,
        sweep=name,
        values=values,
        hyperparameters=dict(trials[0].hyperparameters) if trials else {},
        test=None if result is None else result.test,
        test_metric="" if result is None or result.test is None else result.test_metric,
        tokens=spent.tokens,
        usd=spent.usd if any(trial.spend.usd is not None for trial in study.attempts) else None,
        seconds=study.seconds,
        verdicts=tuple(trial.verdict.kind.value for trial in trials if trial.values and trial.verdict),
        missing="" if len(values) >= asked else _missing(study, len(values), asked, why_not),
    )


def _counted(point: ScalePoint, study: StoredStudy) -> list[Trial]:
    """Return the runs of a point, by seed.

    A search was won by luck, too, so that only the repetitions of its winner count. A point that
    trains the centre has no such winner, and its first run counts like the others.
    """
    first = list(study.search_trials[:1]) if point.hyperparameters else []
    if point.plan.spec.finals is None:
        return first or leaderboard(study.search_trials, point.plan.spec.objective)[:1]
    last_seed = point.plan.spec.search.seed + point.plan.spec.finals.seeds
    repeats = [trial for trial in _repeats(point, study) if trial.seed <= last_seed]
    return [*first, *sorted(repeats, key=lambda trial: trial.seed)]


def _repeats(point: ScalePoint, study: StoredStudy) -> list[Trial]:
    finalist = _finalist(study.finals, study.search_trials, point.plan.spec.objective)
    return [trial for trial in study.repeats if trial.repeat_of == finalist and trial.state.ended]


def _finalist(result: FinalsResult | None, searched: tuple[Trial, ...], objective: Objective) -> int | None:
    if result is not None:
        return result.winner
    best = next(iter(leaderboard(searched, objective)), None)
    return None if best is None else best.number


def _missing(study: StoredStudy, count: int, asked: int, why_not: str) -> str:
    failed = [trial for trial in study.trials if trial.state is TrialState.FAILED]
    reason = failed[0].reason if failed else why_not or "not trained to the end"
    return f"{count} of {asked} seeds: {reason}"


def _marks(file: Path, home: str) -> bool:
    """Return whether a mark names this scale run, and the folder that it lies in."""
    try:
        written = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(written == {"scale": home, "sweep": file.parent.name})
