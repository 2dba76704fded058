"""How one backend event changes the record of a trial. Pure functions."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import assert_never

from backends.contract import (
    Charged,
    Checkpointed,
    Event,
    Failed,
    FailureKind,
    Finished,
    Generated,
    Measured,
    Queued,
    Started,
    Stopped,
)
from sweeps.spec.objective import Objective
from sweeps.trials.curve import thin_loop_reports
from sweeps.trials.trial import StoppedBy, Trial, TrialState


def apply_event(trial: Trial, event: Event, objectives: Sequence[Objective]) -> Trial:
    """Return the record after one more event.

    The first objective decides which evaluation's values it keeps.
    """
    match event:
        case Queued() | Generated():
            return trial
        case Started():
            return replace(trial, resolved=dict(event.resolved))
        case Measured():
            return _add_measurement(trial, event, objectives)
        case Checkpointed():
            return replace(trial, model=event.model)
        case Charged():
            spend = trial.spend
            usd = spend.usd if event.usd is None else (spend.usd or 0.0) + event.usd
            return replace(trial, spend=replace(spend, tokens=spend.tokens + event.tokens, usd=usd))
        case Finished():
            return replace(trial, state=TrialState.COMPLETE, model=event.model, reason="trained to the end")
        case Failed():
            if event.failure.kind is FailureKind.DIVERGED:
                return replace(
                    trial, state=TrialState.STOPPED, stopped_by=StoppedBy.ITSELF, reason=event.failure.message
                )
            return replace(trial, state=TrialState.FAILED, reason=event.failure.message)
        case Stopped():
            reason = trial.reason or "stopped"
            return replace(
                trial, state=TrialState.STOPPED, stopped_by=StoppedBy.ITSELF, model=event.model, reason=reason
            )
        case _ as unreachable:
            assert_never(unreachable)


def objective_values(trial: Trial, measured: Mapping[str, float], objectives: Sequence[Objective]) -> tuple[float, ...]:
    """Return the values of the objectives, nan where one is unknown.

    Objectives about cost (`usd`, `tokens`, `seconds`) come from the trial's spend so far, the
    others from `measured`.
    """
    spend = {"usd": trial.spend.usd, "tokens": float(trial.spend.tokens), "seconds": trial.spend.seconds}
    known = {**measured, **{name: value for name, value in spend.items() if value is not None}}
    return tuple(known.get(objective.metric, math.nan) for objective in objectives)


def _add_measurement(trial: Trial, measured: Measured, objectives: Sequence[Objective]) -> Trial:
    # All trials share the strings of the names: in ten thousand trials they are 7 MB otherwise.
    measured = replace(measured, values={sys.intern(name): value for name, value in measured.values.items()})
    if measured.scope == "step":
        return replace(trial, loop_reports=thin_loop_reports((*trial.loop_reports, measured)))
    trial = replace(trial, curve=(*trial.curve, measured))
    if measured.step == 0:  # the base model's own score
        return trial
    values = objective_values(trial, measured.values, objectives)
    if not all(map(math.isfinite, values)):
        return trial
    if trial.values is None or objectives[0].better(values[0], trial.values[0]):
        trial = replace(trial, values=values, best_epoch=measured.epoch)
    return trial
