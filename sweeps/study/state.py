"""The state of a stored sweep: its plan and its trials, read back from its folder and its study."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from backends import codec
from backends.contract import Generated
from sweeps.errors import Problem, SweepError, UserInputError, suggestion
from sweeps.spec.objective import Objective
from sweeps.study.champion_decision import ChampionDecision
from sweeps.study.finals import FinalsResult, winning_trial
from sweeps.study.generated_texts import read_texts
from sweeps.study.lease import LEASE_S
from sweeps.study.steering import Change
from sweeps.study.stored_study import read_holder, read_study
from sweeps.study.sweep_advice import SweepAdvice, advise_on_stored
from sweeps.trials.budget import Ledger, ledger
from sweeps.trials.trial import Trial, leaderboard
from sweeps.workspace import Workspace

WAITING, INTERRUPTED = "waiting", "interrupted"
"""The names of the states of an open trial that does not run now; see `SweepState.state_name`."""


@dataclass(frozen=True)
class SweepState:
    """The progress of a sweep.

    `plan` is its plan as JSON values, and `repeats` are the trials of the finals. If no process
    runs the sweep (`is_running` is False), its open trials wait for the next `sweep run`.
    `best_texts` is what the best trial wrote at its evaluations.
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
    best_texts: tuple[Generated, ...] = ()
    ledger: Ledger = field(default_factory=lambda: ledger(()))

    @property
    def data(self) -> str:
        """The name of the data in use: of the fallback, if the sweep fell back to it."""
        return str(self.plan["data"]["name"])

    @property
    def planned_trials(self) -> int:
        """How many trials the search plans."""
        return int(self.plan["search"]["trials"])

    @property
    def best(self) -> Trial | None:
        """After finals the winner's best repetition, else the best trial of the search."""
        winner = self.finals.winner if self.finals is not None else None
        winning = winning_trial(self.trials if winner is not None else (), self.repeats, winner, self.objective)
        return winning or next(iter(leaderboard(self.trials, self.objective)), None)

    @cached_property
    def advice(self) -> SweepAdvice:
        """What all ended trials of the search together advise to try next."""
        return advise_on_stored(self.plan, self.objective, self.trials, self.changes)

    def state_name(self, trial: Trial) -> str:
        """Return the name of a trial's state.

        An open trial may be running, waiting for a worker (the sweep asks for a trial before a
        worker is free) or interrupted.
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
            "trials": [codec.to_json(trial) for trial in self.trials],
            "repeats": [codec.to_json(repeat) for repeat in self.repeats],
            "changes": [codec.to_json(change) for change in self.changes],
            "finals": codec.to_json(self.finals) if self.finals else None,
            "champion": codec.to_json(self.champion) if self.champion else None,
            "advice": self.advice.to_json(),
            "spent": asdict(self.ledger.spent),
            "committed": asdict(self.ledger.reserved),
        }


def read_state(workspace: Workspace, name: str, storage: str | None, *, curves: bool = True) -> SweepState:
    """Read the state of a sweep.

    `storage` is the URL of a database; None means the journal file of the workspace. Raises
    UserInputError if there is no sweep of this name, and SweepError if it cannot be read. For
    `curves` see `read_study`.
    """
    plan = read_plan(workspace, name)
    stored = read_study(storage or workspace.study_file(name), workspace.study_name(name), curves=curves)
    state = SweepState(
        name=name,
        plan=plan,
        objective=objective_of(plan),
        trials=tuple(trial for trial in stored.trials if trial.repeat_of is None),
        repeats=tuple(trial for trial in stored.trials if trial.repeat_of is not None),
        changes=stored.changes,
        finals=stored.finals,
        champion=stored.champion,
        ledger=stored.ledger,
        is_running=is_running(workspace, name, storage),
    )
    if state.best is None or not curves:
        return state
    return replace(state, best_texts=read_texts(workspace.sweep_folder(name), state.best.key))


def read_plan(workspace: Workspace, name: str) -> Mapping[str, Any]:
    """Read the plan of a sweep's last run, as JSON values.

    Raises UserInputError if there is no sweep of this name, and SweepError for a damaged file.
    """
    file = workspace.sweep_folder(name) / "plan.json"
    try:
        plan: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise unknown_sweep(workspace, name) from None
    except ValueError:  # a full disk under version 0.1 could cut the file off
        raise SweepError(f"{file} is damaged", "run the sweep again to write it anew; its study is kept") from None
    return plan


def objective_of(plan: Mapping[str, Any]) -> Objective:
    """Return the first objective of a stored plan."""
    stored = plan["objectives"][0]
    direction: Literal["maximize", "minimize"] = "maximize" if "maximize" in stored else "minimize"
    return Objective(str(stored[direction]), direction)


def is_running(workspace: Workspace, name: str, storage: str | None) -> bool:
    """Return whether a process runs the sweep, on this machine or on one that shares its storage.

    A process of another machine counts for `LEASE_S` after its last sign of life.
    """
    if workspace.is_locked(name):
        return True
    if storage is None:
        return False
    holder = read_holder(storage, workspace.study_name(name))
    return holder is not None and not holder.is_gone_from_here and time.time() - holder.renewed_at < LEASE_S


def describe_best(best: Trial) -> str:
    """Name the best trial; for a repetition also name the trial that it repeats."""
    repetition = "" if best.repeat_of is None else f", trial {best.repeat_of} again in the finals"
    return f"trial {best.number}{repetition}"


def require_sweep(workspace: Workspace, name: str) -> None:
    """Raise UserInputError unless a sweep of this name has started in this workspace."""
    if name not in workspace.sweep_names():
        raise unknown_sweep(workspace, name)


def unknown_sweep(workspace: Workspace, name: str) -> UserInputError:
    """Build the error for a sweep name that this workspace does not know."""
    hint = suggestion(name, workspace.sweep_names()) or "start a sweep with `sweep run FILE`"
    return UserInputError([Problem(name, f"there is no such sweep in {workspace.root}", hint)])
