"""What is known of a trial and of a sweep: plain values that the study stores and everything else reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from backends.contract import Handle, Measured, Scalar
from sweeps.spec.objective import Objective
from sweeps.verdicts.verdict import FitVerdict, VerdictKind


class TrialState(StrEnum):
    """Where a trial stands. A failed trial is never `stopped`, and a stopped one is no failure."""

    RUNNING = "running"
    COMPLETE = "complete"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """True for every state that is final."""
        return self is not TrialState.RUNNING


class StoppedBy(StrEnum):
    """Who stopped a trial before its end."""

    SCHEDULER = "scheduler"
    VERDICT = "verdict"
    SWEEP = "sweep"
    ITSELF = "itself"


@dataclass(frozen=True)
class Spend:
    """What was used so far. `usd` is None where nobody knows the price."""

    seconds: float = 0.0
    tokens: int = 0
    usd: float | None = None


@dataclass(frozen=True)
class CostBound:
    """The most that a run may take. None is unknown, which no limit covers."""

    tokens: int | None = None
    usd: float | None = None


@dataclass(frozen=True)
class Trial:
    """One trial, as far as it is known. `curve` holds its evaluations in order, the base model's own score first, and
    `running` some of what its training loop reported between them.

    `hyperparameters` is the point that was asked for, `resolved` what the backend made of it; `values` are the
    objective values of the kept epoch, in the objectives' order; times are seconds since the Unix epoch. `repeat_of`
    is the trial whose point is trained once more with another seed, in the finals. `at_most` is what the run may take,
    recorded before it is submitted where the sweep keeps books; `settled`: nothing will be added to `spend` any more.
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
    curve: tuple[Measured, ...] = ()
    running: tuple[Measured, ...] = ()
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
    at_most: CostBound | None = None
    settled: bool = False

    @property
    def epochs(self) -> float | None:
        """How many epochs it trains if nothing stops it; None where nobody knows."""
        asked = self.hyperparameters.get("n_epochs", self.resolved.get("n_epochs"))
        return float(asked) if isinstance(asked, int | float) else None

    @property
    def epochs_trained(self) -> float:
        """How many epochs it had trained at its last evaluation."""
        return self.curve[-1].epoch if self.curve else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; `from_json` inverts it."""
        return dataclasses.asdict(
            dataclasses.replace(self, hyperparameters=dict(self.hyperparameters), resolved=dict(self.resolved))
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuild a trial from `to_json`'s value."""
        verdict, handle = value["verdict"], value["handle"]
        return cls(
            **{
                **value,
                "state": TrialState(value["state"]),
                "handle": Handle(**handle) if handle else None,
                "curve": tuple(Measured(**each) for each in value["curve"]),
                "running": tuple(Measured(**each) for each in value.get("running", ())),
                "values": tuple(value["values"]) if value["values"] is not None else None,
                "spend": Spend(**value["spend"]),
                "at_most": CostBound(most["tokens"], most["usd"]) if (most := value.get("at_most")) else None,
                "verdict": FitVerdict(**{**verdict, "kind": VerdictKind(verdict["kind"])}) if verdict else None,
                "stopped_by": StoppedBy(value["stopped_by"]) if value.get("stopped_by") else None,
            }
        )


def leaderboard(trials: Sequence[Trial], objective: Objective) -> list[Trial]:
    """Return the trials that have a value and are no duplicates, best first; the earlier trial first on a tie."""
    scored = [each for each in trials if each.values is not None and each.duplicate_of is None]
    sign = -1.0 if objective.direction == "maximize" else 1.0
    return sorted(scored, key=lambda each: (sign * (each.values or (0.0,))[0], each.number))
