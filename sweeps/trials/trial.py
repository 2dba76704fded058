"""The record of one trial: plain values that the study stores and other packages read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from pydantic import Field, SerializerFunctionWrapHandler, WrapSerializer

from backends.contract import FailureKind, Handle, Measured, Scalar
from sweeps.spec.objective import Objective
from sweeps.verdicts.verdict import FitVerdict


class TrialState(StrEnum):
    """The state of a trial.

    A failure ends as `failed` and never as `stopped`; a deliberate stop is no failure.
    """

    RUNNING = "running"
    COMPLETE = "complete"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """True for every final state."""
        return self is not TrialState.RUNNING


class StoppedBy(StrEnum):
    """Who stopped a trial before its end."""

    SCHEDULER = "scheduler"
    VERDICT = "verdict"
    SWEEP = "sweep"
    ITSELF = "itself"


@dataclass(frozen=True, slots=True)
class Spend:
    """What a trial has used so far. `usd` is None where the price is unknown."""

    seconds: float = 0.0
    tokens: int = 0
    usd: float | None = None


@dataclass(frozen=True, slots=True)
class CostBound:
    """The most that one run can cost. None means unknown, and no limit covers an unknown cost."""

    tokens: int | None = None
    usd: float | None = None


def _without_kind(
    measured: Measured, serialize: SerializerFunctionWrapHandler
) -> dict[str, int | float | str | dict[str, float]]:
    """Leave out the tag of the event: all entries are measurements, stored without a tag."""
    fields: dict[str, int | float | str | dict[str, float]] = serialize(measured)
    fields.pop("kind", None)
    return fields


Measurement = Annotated[Measured, WrapSerializer(_without_kind)]
"""A `Measured` event as the record of a trial stores it."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Everything known about one trial.

    `curve` holds its evaluations in order, starting with the base model's own score. `loop_reports`
    is a bounded selection of the reports of the training loop between them.

    `hyperparameters` is the requested point, and `resolved` the values that the backend uses for
    it. `values` are the objective values of the kept epoch, in the order of the objectives. Times
    are seconds since the Unix epoch. `duplicate_of` is an earlier trial with the same point, whose
    result this one takes over. `repeat_of` is the trial whose point the finals train again with
    another seed. `cost_bound` is the most that the run can cost; where the sweep keeps a budget it
    is recorded before submission. `settled`: `spend` is final. `failure` is the kind of the failure
    of a failed trial, and `will_retry` whether the sweep owes another attempt for it. `machine` is
    the name of the machine that trains it, or trained it last. `passed_evaluations` counts the
    evaluations after which an earlier run of the sweep let it go on: a later run, which sees them
    again, may stop it only after those. MLflow shows them already.

    The stored names of `loop_reports` and `cost_bound` are those of version 0.1.
    """

    number: int
    key: str
    base_model: str
    hyperparameters: Mapping[str, Scalar]
    seed: int
    state: TrialState = TrialState.RUNNING
    reason: str = ""
    handle: Handle | None = None
    resolved: Mapping[str, Scalar] = field(default_factory=dict)
    curve: tuple[Measurement, ...] = ()
    loop_reports: Annotated[tuple[Measurement, ...], Field(alias="running")] = ()
    values: tuple[float, ...] | None = None
    best_epoch: float | None = None
    model: str | None = None
    spend: Spend = field(default_factory=Spend)
    verdict: FitVerdict | None = None
    started_at: float | None = None
    ended_at: float | None = None
    duplicate_of: int | None = None
    repeat_of: int | None = None
    stopped_by: StoppedBy | None = None
    cost_bound: Annotated[CostBound | None, Field(alias="at_most")] = None
    settled: bool = False
    failure: FailureKind | None = None
    will_retry: bool = False
    machine: str | None = None
    passed_evaluations: int = 0

    @property
    def planned_epochs(self) -> float | None:
        """The epochs that the trial trains if nothing stops it; None where that is unknown."""
        n_epochs = self.hyperparameters.get("n_epochs", self.resolved.get("n_epochs"))
        return float(n_epochs) if isinstance(n_epochs, int | float) else None

    @property
    def evaluations(self) -> int:
        """The number of evaluations after training began."""
        return sum(measured.step > 0 for measured in self.curve)

    @property
    def trained_epochs(self) -> float:
        """The epochs that the trial had trained at its last evaluation."""
        return self.curve[-1].epoch if self.curve else 0.0


def leaderboard(trials: Sequence[Trial], objective: Objective) -> list[Trial]:
    """Return the trials with a value, without duplicates: best first, on a tie earliest first."""
    scored = [trial for trial in trials if trial.values is not None and trial.duplicate_of is None]
    sign = -1.0 if objective.direction == "maximize" else 1.0
    return sorted(scored, key=lambda trial: (sign * (trial.values or (0.0,))[0], trial.number))
