"""The backend's events in the words of the protocol: log lines, metrics, the result file."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from backends.contract import Charged, Event, Measured, Scalar

_EVALUATION_NAMES = {
    "valid_loss": "full_valid_loss",
    "valid_token_accuracy": "full_valid_mean_token_accuracy",
    "train_token_accuracy": "full_train_mean_token_accuracy",
}
"""The protocol's names of scores of a whole data set.

A name that is missing here only gets the prefix `full_`.
"""

_STEP_NAMES = {"batch_loss": "train_loss", "batch_token_accuracy": "train_mean_token_accuracy"}

_MESSAGE_WORDS = (
    ("train_loss", "training loss"),
    ("valid_loss", "validation loss"),
    ("full_valid_loss", "full validation loss"),
)

_FIRST_COLUMNS = (
    "step",
    "train_loss",
    "train_mean_token_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
)
"""The first columns of a result file.

Other metrics follow in the order in which they first occur.
"""


def protocol_metrics(event: Measured, earlier: Sequence[Event], *, has_validation: bool) -> dict[str, float]:
    """Return the metrics of a measurement under the protocol's names.

    `valid_...` are also scores of the whole validation file, because the backend never scores a
    smaller part. An evaluation includes the running values of its step, which are among the
    `earlier` events, as the real services report both at once. Without a validation file there are
    no validation metrics, although the backend scores a sample of the training file in its place.
    """
    if event.scope == "step":
        return {_STEP_NAMES.get(name, name): value for name, value in event.values.items()}
    metrics: dict[str, float] = {}
    for previous in earlier:
        if isinstance(previous, Measured) and previous.scope == "step" and previous.step == event.step:
            metrics |= protocol_metrics(previous, (), has_validation=has_validation)
    for name, value in event.values.items():
        if name.startswith("valid_") and not has_validation:
            continue
        metrics[_EVALUATION_NAMES.get(name, f"full_{name}")] = value
    for name in ("valid_loss", "valid_mean_token_accuracy"):
        if f"full_{name}" in metrics:
            metrics[name] = metrics[f"full_{name}"]
    return metrics


def metrics_data(event: Measured, metrics: Mapping[str, float], resolved: Mapping[str, Scalar]) -> dict[str, Any]:
    """Return the `data` of a metrics event; `resolved` are the values that the run uses."""
    data: dict[str, Any] = {"step": event.step}
    if (total := _total_steps(resolved)) is not None:
        data["total_steps"] = total
    data["epoch"] = event.epoch
    return data | finite_or_null(metrics)


def finite_or_null(values: Mapping[str, float]) -> dict[str, float | None]:
    """Return the values, with None in place of non-finite ones, which JSON cannot express."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _total_steps(resolved: Mapping[str, Scalar]) -> int | None:
    """Return the steps of the complete run, or None if the steps per epoch are unknown."""
    if "steps_per_epoch" not in resolved or "n_epochs" not in resolved:
        return None
    return int(resolved["steps_per_epoch"]) * int(resolved["n_epochs"])


def metrics_message(data: Mapping[str, Any]) -> str:
    """Return the message of a metrics event, given its `data`."""
    total = f"/{data['total_steps']}" if "total_steps" in data else ""
    parts = [f"{word}={_number(data[name])}" for name, word in _MESSAGE_WORDS if name in data]
    return f"Step {data['step']}{total}: {', '.join(parts)}" if parts else f"Step {data['step']}{total}"


def _number(value: float | None) -> str:
    return "nan" if value is None else f"{value:.4g}"


def trained_tokens(events: Iterable[Event]) -> int | None:
    """Return how many tokens the backend has charged for, or None if it has charged nothing."""
    charges = [event.tokens for event in events if isinstance(event, Charged)]
    return sum(charges) if charges else None


def result_csv(events: Sequence[Event], *, has_validation: bool) -> bytes:
    """Return the result file of a run: one row per step, an empty cell per missing measurement."""
    rows: dict[int, dict[str, float]] = {}
    for number, event in enumerate(events):
        if isinstance(event, Measured):
            row = rows.setdefault(event.step, {"epoch": event.epoch})
            earlier = events[:number] if event.scope == "evaluation" else ()
            row.update(protocol_metrics(event, earlier, has_validation=has_validation))
    other_columns = dict.fromkeys(name for row in rows.values() for name in row if name not in _FIRST_COLUMNS)
    out = io.StringIO()
    writer = csv.DictWriter(out, [*_FIRST_COLUMNS, *other_columns], restval="", lineterminator="\n")
    writer.writeheader()
    for step in sorted(rows):
        writer.writerow({"step": step, **rows[step]})
    return out.getvalue().encode()
