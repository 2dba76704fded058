"""`load` and `Sweep`: a stored sweep as typed tables and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.api.environment import open_workspace, storage
from sweeps.api.tables import curves_table, trials_table
from sweeps.execution.outcome import Outcome
from sweeps.study.finals import FinalsResult
from sweeps.study.state import SweepState, read_state
from sweeps.study.sweep_advice import SweepAdvice
from sweeps.trials.trial import Trial
from sweeps.verdicts.verdict import FitVerdict

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Sweep:
    """A sweep as its study recorded it when `load` read it, or when `run` ended.

    `state` holds all records. `report` is the path of the HTML report. `outcome` is set if `run`
    returned the sweep.
    """

    state: SweepState
    report: Path
    outcome: Outcome | None = None

    @property
    def name(self) -> str:
        """The name of the sweep."""
        return self.state.name

    @property
    def plan(self) -> Mapping[str, Any]:
        """The plan that the sweep ran, as `sweep plan --json` prints it."""
        return self.state.plan

    @property
    def best(self) -> Trial | None:
        """The winning trial: a repetition of the finals' winner, else the best trial of the
        search.
        """
        return self.state.best

    @property
    def finals(self) -> FinalsResult | None:
        """The result of the finals; None before they are decided."""
        return self.state.finals

    @cached_property
    def verdicts(self) -> Mapping[int, FitVerdict]:
        """The verdict of every judged trial, by the trial's number."""
        return {trial.number: trial.verdict for trial in self._trials if trial.verdict is not None}

    @property
    def advice(self) -> SweepAdvice:
        """What all ended trials of the search together advise: on each range, and on each trial."""
        return self.state.advice

    @cached_property
    def trials(self) -> pandas.DataFrame:
        """One row per trial, those of the finals included, in the order of their numbers.

        There is one float column per objective, one typed column per hyperparameter, and the fixed
        columns of `sweeps.api.tables.TRIAL_COLUMNS`. An unknown value is missing. A hyperparameter
        whose name is taken by another column has the prefix `hyperparameters.`.
        """
        metrics = [str(objective.get("maximize") or objective["minimize"]) for objective in self.plan["objectives"]]
        return trials_table(self._trials, metrics, self.state.state_name)

    @cached_property
    def curves(self) -> pandas.DataFrame:
        """One row per measurement: `trial`, `scope`, `epoch`, `step`, and a float column per
        metric.

        `scope` is `evaluation` for a measurement of the validation set and `step` for a report of
        the training loop. Step 0 is the base model. A metric that was not measured is missing.
        """
        return curves_table(self._trials)

    @property
    def _trials(self) -> Sequence[Trial]:
        return sorted((*self.state.trials, *self.state.repeats), key=lambda trial: trial.number)


def load(name: str, *, root: str | Path | None = None, outcome: Outcome | None = None) -> Sweep:
    """Load the sweep of this name, while it runs or afterwards. Changes nothing.

    `root` is the workspace (default: SWEEP_ROOT, else `.sweep`). `outcome` becomes that of the
    result. Raises UserInputError if there is no sweep of this name, and SweepError if its storage
    cannot be read.
    """
    workspace = open_workspace(root)
    return Sweep(read_state(workspace, name, storage()), workspace.report_file(name), outcome)
