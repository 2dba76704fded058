"""What an event makes of a trial's record. Pure."""

from __future__ import annotations

import math
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
    Measured,
    Queued,
    Started,
    Stopped,
)
from sweeps.spec.objective import Objective
from sweeps.trials.curve import thinned
from sweeps.trials.trial import StoppedBy, Trial, TrialState


def after(trial: Trial, event: Event, objectives: Sequence[Objective]) -> Trial:
    """Return the record with one more event; the first objective decides which evaluation's values it keeps."""
    match event:
        case Queued():
            return trial
        case Started():
            return replace(trial, resolved=dict(event.resolved))
        case Measured():
            return _measured(trial, event, objectives)
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


def _measured(trial: Trial, event: Measured, objectives: Sequence[Objective]) -> Trial:
    if event.scope == "step":
        return replace(trial, loop_reports=thinned((*trial.loop_reports, event)))
    trial = replace(trial, curve=(*trial.curve, event))
    if event.step == 0:
        return trial
    found = values(trial, event.values, objectives)
    if not all(math.isfinite(each) for each in found):
        return trial
    if trial.values is None or objectives[0].better(found[0], trial.values[0]):
        trial = replace(trial, values=found, best_epoch=event.epoch)
    return trial


def values(trial: Trial, measured: Mapping[str, float], objectives: Sequence[Objective]) -> tuple[float, ...]:
    """Return the objectives' values: of an evaluation, or of what the trial has taken so far; nan for unknown ones."""
    took = {"usd": trial.spend.usd, "tokens": float(trial.spend.tokens), "seconds": trial.spend.seconds}
    known = {**measured, **{name: value for name, value in took.items() if value is not None}}
    return tuple(known.get(each.metric, math.nan) for each in objectives)
