"""What `sweep status` and `sweep report` read back: a sweep's plan and trials from its folder and its study."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from backends import codec
from sweeps.errors import Problem, UserInputError, suggestion
from sweeps.spec.objective import Objective
from sweeps.study.champion_decision import ChampionDecision
from sweeps.study.finals import FinalsResult, winning_trial
from sweeps.study.steering import Change
from sweeps.study.stored_study import read_study
from sweeps.trials.budget import Ledger, ledger
from sweeps.trials.trial import Trial, leaderboard
from sweeps.workspace import Workspace

WAITING, INTERRUPTED = "waiting", "interrupted"


@dataclass(frozen=True)
class SweepState:
    """How far a sweep is. `plan` is its plan as JSON values, `repeats` are the trials of the finals.

    Where no process runs the sweep, its open trials wait for the next `sweep run`.
    """

    name: str
    plan: Mapping[str, Any]
    objective: Objective
    trials: tuple[Trial, ...]
    repeats: tuple[Trial, ...] = ()
    changes: tuple[Change, ...] = ()
    finals: FinalsResult | None = None
    champion: ChampionDecision | None = None
    is_running: bool = True
    ledger: Ledger = field(default_factory=lambda: ledger(()))

    @property
    def data(self) -> str:
        """The name of the data that it really runs on."""
        return str(self.plan["data"]["name"])

    @property
    def planned_trials(self) -> int:
        """How many trials the search is to have."""
        return int(self.plan["search"]["trials"])

    @property
    def best(self) -> Trial | None:
        """The trial that wins: after the finals a repetition of their winner, else the best of the search so far."""
        winner = self.finals.winner if self.finals is not None else None
        won = winning_trial(self.trials if winner is not None else (), self.repeats, winner, self.objective)
        return won or next(iter(leaderboard(self.trials, self.objective)), None)

    def state_name(self, trial: Trial) -> str:
        """Return what the state of a trial is called: one that has not ended may not have begun either, or not run now.

        A trial is asked for before a worker is free for it.
        """
        if trial.state.ended:
            return trial.state.value
        return INTERRUPTED if not self.is_running else WAITING if trial.handle is None else trial.state.value

    @property
    def counts(self) -> Counter[str]:
        """How many trials are in each state."""
        return Counter(map(self.state_name, self.trials))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "name": self.name,
            "data": self.data,
            "wanted_trials": self.planned_trials,
            "objective": {"metric": self.objective.metric, "direction": self.objective.direction},
            "running": self.is_running,
            "states": dict(self.counts),
            "best": codec.to_json(self.best) if self.best else None,
            "trials": [codec.to_json(each) for each in self.trials],
            "repeats": [codec.to_json(each) for each in self.repeats],
            "changes": [codec.to_json(each) for each in self.changes],
            "finals": codec.to_json(self.finals) if self.finals else None,
            "champion": codec.to_json(self.champion) if self.champion else None,
            "spent": asdict(self.ledger.spent),
            "committed": asdict(self.ledger.reserved),
        }


def read_state(workspace: Workspace, name: str, storage: str | None) -> SweepState:
    """Read a sweep's state. Raises UserInputError where there is none of this name."""
    try:
        plan = json.loads((workspace.sweep_folder(name) / "plan.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise unknown_sweep(workspace, name) from None
    [(direction, metric), *_] = [
        (direction, metric)
        for each in plan["objectives"]
        for direction, metric in each.items()
        if direction in ("maximize", "minimize")
    ]
    stored = read_study(storage or workspace.study_file(name), workspace.study_name(name))
    return SweepState(
        name=name,
        plan=plan,
        objective=Objective(metric, direction),
        trials=tuple(each for each in stored.trials if each.repeat_of is None),
        repeats=tuple(each for each in stored.trials if each.repeat_of is not None),
        changes=stored.changes,
        finals=stored.finals,
        champion=stored.champion,
        ledger=stored.ledger,
        is_running=workspace.is_locked(name),
    )


def describe_best(best: Trial) -> str:
    """Name the best trial, and of a repetition what it repeats."""
    again = "" if best.repeat_of is None else f", trial {best.repeat_of} again in the finals"
    return f"trial {best.number}{again}"


def unknown_sweep(workspace: Workspace, name: str) -> UserInputError:
    """Return the error of asking for a sweep that has not run here."""
    hint = suggestion(name, workspace.sweep_names()) or "`sweep run FILE` starts one"
    return UserInputError([Problem(name, f"there is no such sweep in {workspace.root}", hint)])
