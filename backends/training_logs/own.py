"""Our own histories: trials as `sweep status` and `sweep run` print them, bare curves, and the events of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from backends import codec
from backends.contract import Event, Failed, FailureKind, Finished, Measured
from backends.training_logs import names
from backends.training_logs.assembly import best_by, metric_name, with_baseline
from backends.training_logs.learning_curve import Ended, LearningCurve
from backends.training_logs.table import Context, NamedCurve, TrainingLogError

SCOPE = "local"

NOT_FINITE = "is not finite"
"""What the reason of a trial says whose backend saw a loss that was none; the curve ends before it."""

_ENDED: Mapping[str, Ended] = {"complete": "complete", "failed": "failed"}
_EVENT_KINDS = frozenset({"queued", "started", "measured", "checkpointed", "charged", "finished", "failed", "stopped"})
_MEASURED = frozenset({"step", "epoch", "values", "scope"})


def read(value: Any, name: str, context: Context) -> tuple[NamedCurve, ...] | None:
    """Return the curves of a value that this software wrote; None where it is none."""
    try:
        return _read(value, name, context)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        hint = "give the output of `sweep status NAME --json` as it is"
        raise TrainingLogError(name, f"looks like an output of this command, but is none ({reason})", hint) from None


def _read(value: Any, name: str, context: Context) -> tuple[NamedCurve, ...] | None:
    if isinstance(value, dict):
        if isinstance(value.get("trials"), list) and all(map(_is_trial, value["trials"])):
            objective = (value.get("objective") or {}).get("metric")
            return _trials(value["trials"], f"{name}: {value['name']}" if "name" in value else name, objective, context)
        if isinstance(value.get("curve"), list) and all(map(_is_measured, value["curve"])):
            if _is_trial(value):
                return _trials([value], name, None, context)
            return (_bare(value["curve"], name, context),)
        return (_bare([value], name, context),) if _is_measured(value) else None
    if not isinstance(value, list) or not value or not all(isinstance(each, dict) for each in value):
        return None
    if all(map(_is_measured, value)) and not any("kind" in each for each in value):
        return (_bare(value, name, context),)
    if all(each.get("kind") in _EVENT_KINDS for each in value):
        return (_events(codec.from_json(list[Event], value), name, context),)
    if all(map(_is_trial, value)):
        return _trials(value, name, None, context)
    if all("trials" in each for each in value):
        return tuple(curve for each in value for curve in _read(each, name, context) or ())
    return None


def _is_trial(value: Any) -> bool:
    return isinstance(value, dict) and {"curve", "hyperparameters", "number"} <= value.keys()


def _is_measured(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() >= _MEASURED and isinstance(value["values"], dict)


def _trials(
    values: Sequence[Mapping[str, Any]], name: str, objective: str | None, context: Context
) -> tuple[NamedCurve, ...]:
    if not values:
        raise TrainingLogError(name, "has no trials yet", "wait until one has been evaluated")
    curves = []
    for value in values:
        ended = _ENDED.get(value["state"], "stopped")
        if value["state"] == "stopped" and NOT_FINITE in value["reason"]:
            ended = "diverged"
        measured = [Measured(**evaluation) for evaluation in (*value["curve"], *value.get("running", ()))]
        curve = _curve(measured, name, objective, context, ended)
        curves.append(NamedCurve(f"{name}: trial {value['number']}", "trial", curve, scope=SCOPE))
    return tuple(curves)


def _bare(values: Sequence[Mapping[str, Any]], name: str, context: Context) -> NamedCurve:
    measured = [Measured(**{key: each[key] for key in _MEASURED}) for each in values]
    return NamedCurve(name, "curve", _curve(measured, name, None, context, "complete"), scope=SCOPE)


def _events(events: Sequence[Event], name: str, context: Context) -> NamedCurve:
    last = events[-1]
    ended: Ended = "stopped"
    if isinstance(last, Finished):
        ended = "complete"
    elif isinstance(last, Failed):
        ended = "diverged" if last.failure.kind is FailureKind.DIVERGED else "failed"
    measured = [each for each in events if isinstance(each, Measured)]
    return NamedCurve(name, "events of a run", _curve(measured, name, None, context, ended), scope=SCOPE)


def _curve(
    measured: Sequence[Measured], name: str, objective: str | None, context: Context, ended: Ended
) -> LearningCurve:
    there = {key.removeprefix("valid_") for each in measured for key in each.values if key.startswith("valid_")}
    wanted = metric_name(context.metric) if context.metric is not None else None
    if wanted is not None and wanted not in there:
        hint = f"metrics here: {', '.join(sorted(there - {'loss'})) or 'none'}; see --metric"
        raise TrainingLogError(name, f"no validation values of the metric `{context.metric}`", hint)
    if wanted is None and objective is not None and not objective.endswith("loss"):
        wanted = objective
    metric = wanted or next((each for each in names.METRICS if each in there), None)
    by_loss = objective is not None and objective.endswith("loss") and context.metric is None
    by = "metric" if objective is not None else best_by(metric, context)
    curve = LearningCurve.from_measurements(
        measured,
        metric=metric,
        train_examples=context.train_examples,
        valid_examples=context.valid_examples,
        classes=context.classes,
        best_by="loss" if by_loss else by,
        ended=ended,
    )
    return replace(curve, baseline=with_baseline(curve.baseline, context))
