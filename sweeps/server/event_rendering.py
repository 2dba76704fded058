"""What a backend says about a run -> what the protocol calls it: log lines, metrics, checkpoints, the result file."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from backends.contract import Charged, Event, Measured, Scalar

_EVALUATION = {
    "valid_loss": "full_valid_loss",
    "valid_token_accuracy": "full_valid_mean_token_accuracy",
    "train_token_accuracy": "full_train_mean_token_accuracy",
}
"""Scores of a whole data set are `full_...` here; those that are not named get the prefix alone."""

_STEP = {"batch_loss": "train_loss", "batch_token_accuracy": "train_mean_token_accuracy"}

_WORDS = (
    ("train_loss", "training loss"),
    ("valid_loss", "validation loss"),
    ("full_valid_loss", "full validation loss"),
)

_COLUMNS = (
    "step",
    "train_loss",
    "train_mean_token_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
)
"""The first columns of a result file; further metrics follow in the order in which they came."""


def metrics(event: Measured, before: Sequence[Event], *, has_validation: bool) -> dict[str, float]:
    """Return the metrics of a measurement in the protocol's names.

    `valid_...` are the scores of the whole validation file, too: nothing smaller is ever measured. An evaluation
    carries the running values of the same step, as the real services report both at once. Without a validation file
    there are no validation metrics, although the backend was given a sample of the training file.
    """
    if event.scope == "step":
        return {_STEP.get(name, name): value for name, value in event.values.items()}
    found: dict[str, float] = {}
    for each in before:
        if isinstance(each, Measured) and each.scope == "step" and each.step == event.step:
            found |= metrics(each, (), has_validation=has_validation)
    for name, value in event.values.items():
        if name.startswith("valid_") and not has_validation:
            continue
        found[_EVALUATION.get(name, f"full_{name}")] = value
    for name in ("valid_loss", "valid_mean_token_accuracy"):
        if f"full_{name}" in found:
            found[name] = found[f"full_{name}"]
    return found


def data_of(event: Measured, values: Mapping[str, float], resolved: Mapping[str, Scalar]) -> dict[str, Any]:
    """Return the `data` of a metrics event. JSON has no number for what is not finite: null."""
    data: dict[str, Any] = {"step": event.step}
    if (total := total_steps(resolved)) is not None:
        data["total_steps"] = total
    data["epoch"] = event.epoch
    return data | finite(values)


def finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Return values with None in place of those that are not finite."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def total_steps(resolved: Mapping[str, Scalar]) -> int | None:
    """Return the steps of the complete run, where the backend says how many an epoch has."""
    if "steps_per_epoch" not in resolved or "n_epochs" not in resolved:
        return None
    return int(resolved["steps_per_epoch"]) * int(resolved["n_epochs"])


def sentence(data: Mapping[str, Any]) -> str:
    """Return the message of a metrics event."""
    total = f"/{data['total_steps']}" if "total_steps" in data else ""
    parts = [f"{word}={_number(data[name])}" for name, word in _WORDS if name in data]
    return f"Step {data['step']}{total}: {', '.join(parts)}" if parts else f"Step {data['step']}{total}"


def _number(value: float | None) -> str:
    return "nan" if value is None else f"{value:.4g}"


def trained_tokens(heard: Iterable[Event]) -> int | None:
    """Return the tokens that the backend has charged, None where it has not said."""
    charges = [each.tokens for each in heard if isinstance(each, Charged)]
    return sum(charges) if charges else None


def result_csv(heard: Sequence[Event], *, has_validation: bool) -> bytes:
    """Return the result file of a run: one row a step, a cell empty where nothing was measured."""
    rows: dict[int, dict[str, float]] = {}
    for number, each in enumerate(heard):
        if isinstance(each, Measured):
            row = rows.setdefault(each.step, {"epoch": each.epoch})
            row.update(
                metrics(each, heard[:number] if each.scope == "evaluation" else (), has_validation=has_validation)
            )
    more = dict.fromkeys(name for row in rows.values() for name in row if name not in _COLUMNS)
    out = io.StringIO()
    writer = csv.DictWriter(out, [*_COLUMNS, *more], restval="", lineterminator="\n")
    writer.writeheader()
    for step in sorted(rows):
        writer.writerow({"step": step, **rows[step]})
    return out.getvalue().encode()
