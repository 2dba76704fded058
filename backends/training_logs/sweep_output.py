"""Reads this software's own JSON: the output of `sweep status --json`, and a run's events.jsonl.

Also reads the output of `sweep run --json`, and parts: a trial, or its curve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from backends import codec
from backends.contract import Event, Failed, FailureKind, Finished, Measured
from backends.training_logs import column_names
from backends.training_logs.curve_assembly import with_known_baseline
from backends.training_logs.errors import TrainingLogError
from backends.training_logs.imported_curve import ImportedCurve, RunDetails
from backends.training_logs.learning_curve import LearningCurve, RunEnd
from backends.training_logs.measure_choice import best_by, metric_name, no_such_metric

SCOPE = "local"

NOT_FINITE = "is not finite"
"""These words in a trial's reason mean that its backend saw a loss that is not finite; the curve
ends before it."""

_RUN_END: Mapping[str, RunEnd] = {"complete": "complete", "failed": "failed"}
_EVENT_KINDS = frozenset({"queued", "started", "measured", "checkpointed", "charged", "finished", "failed", "stopped"})
_MEASURED_KEYS = ("step", "epoch", "values", "scope")


def read(value: Any, name: str, details: RunDetails) -> tuple[ImportedCurve, ...] | None:
    """Return the curves of a value in our own format, None if the value has another format."""
    try:
        return _read(value, name, details)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        message = f"the JSON looks like the output of `sweep status --json`, but is damaged ({reason})"
        raise TrainingLogError(name, message, "give the unchanged output of `sweep status NAME --json`") from None


def _read(value: Any, name: str, details: RunDetails) -> tuple[ImportedCurve, ...] | None:
    if isinstance(value, dict):
        if isinstance(value.get("trials"), list) and all(map(_is_trial, value["trials"])):
            objective = (value.get("objective") or {}).get("metric")
            sweep_name = f"{name}: {value['name']}" if "name" in value else name
            return _trials(value["trials"], sweep_name, objective, details)
        if isinstance(value.get("curve"), list) and all(map(_is_measured, value["curve"])):
            if _is_trial(value):
                return _trials([value], name, None, details)
            return (_bare_curve(value["curve"], name, details),)
        return (_bare_curve([value], name, details),) if _is_measured(value) else None
    if not isinstance(value, list) or not value or not all(isinstance(entry, dict) for entry in value):
        return None
    if all(map(_is_measured, value)) and not any("kind" in entry for entry in value):
        return (_bare_curve(value, name, details),)
    if all(entry.get("kind") in _EVENT_KINDS for entry in value):
        return (_events(codec.from_json(list[Event], value), name, details),)
    if all(map(_is_trial, value)):
        return _trials(value, name, None, details)
    if all("trials" in entry for entry in value):
        return tuple(curve for entry in value for curve in _read(entry, name, details) or ())
    return None


def _is_trial(value: Any) -> bool:
    return isinstance(value, dict) and {"curve", "hyperparameters", "number"} <= value.keys()


def _is_measured(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() >= {*_MEASURED_KEYS} and isinstance(value["values"], dict)


def _measured(value: Mapping[str, Any]) -> Measured:
    """Return the measurement as it is written.

    Its values are not checked: one that is null counts as missing.
    """
    return Measured(**{key: value[key] for key in _MEASURED_KEYS})


def _trials(
    trials: Sequence[Mapping[str, Any]], name: str, objective: str | None, details: RunDetails
) -> tuple[ImportedCurve, ...]:
    if not trials:
        raise TrainingLogError(name, "the sweep has no trials yet", "wait until a trial has been evaluated")
    curves = []
    for trial in trials:
        ended = _RUN_END.get(trial["state"], "stopped")
        if trial["state"] == "stopped" and NOT_FINITE in trial["reason"]:
            ended = "diverged"
        measurements = [_measured(entry) for entry in (*trial["curve"], *trial.get("running", ()))]
        curve = _curve(measurements, name, objective, details, ended)
        curves.append(ImportedCurve(f"{name}: trial {trial['number']}", "trial", curve, scope=SCOPE))
    return tuple(curves)


def _bare_curve(values: Sequence[Mapping[str, Any]], name: str, details: RunDetails) -> ImportedCurve:
    measurements = [_measured(value) for value in values]
    return ImportedCurve(name, "curve", _curve(measurements, name, None, details, "complete"), scope=SCOPE)


def _events(events: Sequence[Event], name: str, details: RunDetails) -> ImportedCurve:
    last = events[-1]
    ended: RunEnd = "stopped"
    if isinstance(last, Finished):
        ended = "complete"
    elif isinstance(last, Failed):
        ended = "diverged" if last.failure.kind is FailureKind.DIVERGED else "failed"
    measurements = [event for event in events if isinstance(event, Measured)]
    return ImportedCurve(name, "events of a run", _curve(measurements, name, None, details, ended), scope=SCOPE)


def _curve(
    measurements: Sequence[Measured], name: str, objective: str | None, details: RunDetails, ended: RunEnd
) -> LearningCurve:
    validated = {
        key.removeprefix("valid_") for measured in measurements for key in measured.values if key.startswith("valid_")
    }
    metric = metric_name(details.metric) if details.metric is not None else None
    if details.metric is not None and metric not in validated:
        raise no_such_metric(name, details.metric, sorted(validated - {"loss"}))
    objective_is_loss = objective is not None and objective.endswith("loss")
    if metric is None and not objective_is_loss:
        metric = objective
    metric = metric or next((known for known in column_names.METRICS if known in validated), None)
    decided_by: Literal["metric", "loss"] = "metric" if objective is not None else best_by(metric, details)
    if objective_is_loss and details.metric is None:
        decided_by = "loss"
    curve = LearningCurve.from_measurements(
        measurements,
        metric=metric,
        train_examples=details.train_examples,
        valid_examples=details.valid_examples,
        classes=details.classes,
        best_by=decided_by,
        ended=ended,
    )
    return replace(curve, baseline=with_known_baseline(curve.baseline, details))
