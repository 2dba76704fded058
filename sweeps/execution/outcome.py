"""How a sweep ends: the reason (`SweepEnd`), and the outcome that `run` returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from sweeps.execution.environment import Environment
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.reports.baselines import closing_comparison
from sweeps.spec.objective import Objective
from sweeps.study.champion_decision import ChampionDecision
from sweeps.study.finals import FinalsResult, winning_trial
from sweeps.study.steering import Change
from sweeps.study.study import Study
from sweeps.study.sweep_advice import SweepAdvice, advise_on_stored
from sweeps.trials.budget import Ledger, ledger
from sweeps.trials.trial import Trial
from sweeps.verdicts.baseline_comparison import BaselineComparison


class SweepEnd(StrEnum):
    """Why a sweep ended.

    Nights and MLflow store the value, so an existing value must not change.
    """

    TRIALS = "all trials are done"
    EXHAUSTED = "every point of the space has been tried"
    TARGET = "the target was reached"
    TIME = "the time limit was reached"
    BUDGET = "no further trial fits into the limit"
    DEADLINE = "no further trial ends before the deadline"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


RESUMABLE_ENDS = (SweepEnd.INTERRUPTED, SweepEnd.FAILED, SweepEnd.DEADLINE)
"""After these ends the sweep is incomplete. Running trials stay open, and the next run of the sweep
resumes them."""


PAUSING_ENDS = (SweepEnd.INTERRUPTED, SweepEnd.DEADLINE)
"""After these ends the user wants the machine. After a failure the programs go on for a while, so
that the next run of the sweep finds them where they are."""


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended.

    `trials` are the trials of the search, `repeats` those of the finals. `best` is the trial whose
    model the sweep delivers, or None. `changes` are the changes that the sweep made to its space.
    `ledger` covers the cost of all trials, finals included. `report` is the path of the HTML
    report. `champion` is the decision on the challenge; it is None unless the sweep file asks for a
    challenge and the sweep has a winner. `problems` says in words what was not recorded, and
    `lacking` names the runs that MLflow does not have as they should be: `sweep track` sends them.
    `comparison` says whether the sweep beats the baselines of its data; None if that is unknown.
    `advice` is what all trials together advise to try next.
    """

    plan: SweepPlan
    trials: tuple[Trial, ...]
    repeats: tuple[Trial, ...]
    changes: tuple[Change, ...]
    best: Trial | None
    finals: FinalsResult | None
    end: SweepEnd
    seconds: float
    ledger: Ledger
    tracking_uri: str
    run_url: str | None
    report: Path
    problems: tuple[str, ...]
    champion: ChampionDecision | None = None
    lacking: tuple[str, ...] = ()
    comparison: BaselineComparison | None = None
    advice: SweepAdvice = field(default_factory=SweepAdvice)


def selected_trial(study: Study, objective: Objective) -> Trial | None:
    """Return the trial whose model the sweep delivers; see `winning_trial`."""
    winner = study.finals.winner if study.finals is not None else None
    return winning_trial(study.search_trials, study.repeats, winner, objective)


def outcome_of(
    plan: SweepPlan,
    study: Study,
    end: SweepEnd,
    environment: Environment,
    run_url: str | None,
    problems: Sequence[str],
    decision: ChampionDecision | None,
    lacking: Sequence[str] = (),
) -> Outcome:
    """Build the outcome from what the study records.

    `run_url` is the address of the sweep's MLflow run, `problems` are the problems that tracking
    had, and `lacking` are the runs that MLflow lacks.
    """
    best = selected_trial(study, plan.spec.objective)
    searched, stored_plan = study.search_trials, plan.to_json()
    advice = advise_on_stored(stored_plan, plan.spec.objective, searched, study.steering)
    return Outcome(
        plan=plan,
        # without staged trials, which have neither ended nor a handle
        trials=tuple(trial for trial in searched if trial.state.ended or trial.handle),
        repeats=tuple(trial for trial in study.repeats if trial.state.ended),
        changes=tuple(study.steering),
        best=best,
        finals=study.finals,
        end=end,
        seconds=study.seconds_used,
        ledger=ledger(study.trials),
        tracking_uri=environment.tracking_uri,
        run_url=run_url,
        report=environment.workspace.report_file(plan.spec.name),
        problems=tuple(problems),
        champion=decision,
        lacking=tuple(lacking),
        comparison=closing_comparison(stored_plan, plan.spec.objective, best, searched, study.finals, advice),
        advice=advice,
    )
