"""Merge a job's measurements from log, checkpoints and result files, by training step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backends.hosted.journal import LogEntry
from backends.hosted.profile import MetricNames
from backends.hosted.remote_objects import RemoteCheckpoint
from backends.hosted.result_files import Row


@dataclass
class StepMeasurements:
    """The measurements of one step under the host's names.

    `received_at` is when the first of them arrived. `epoch` is None where the host does not report
    it.
    """

    received_at: float = math.inf
    values: dict[str, float] = field(default_factory=dict)
    epoch: float | None = None


def merged(
    names: MetricNames,
    log: Sequence[LogEntry],
    checkpoints: Sequence[RemoteCheckpoint],
    rows: Sequence[Row],
    now: float,
) -> tuple[dict[int, StepMeasurements], float | None]:
    """Return the measurements by step, and the total number of steps (None if unknown).

    Where sources disagree, the log wins, then the checkpoint. Checkpoints and rows count as
    received now.
    """
    by_step: dict[int, StepMeasurements] = {}
    totals: list[float] = []
    from_log = [(entry.received_at, entry.event.data) for entry in log]
    from_checkpoints = [(now, {**checkpoint.metrics, "step": checkpoint.step}) for checkpoint in checkpoints]
    from_rows = [(now, row) for row in rows]
    for received_at, data in (*from_log, *from_checkpoints, *from_rows):
        step = data.get("step")
        values = _known_values(data, names)
        if not isinstance(step, int | float) or not values:
            continue
        measurements = by_step.setdefault(int(step), StepMeasurements())
        measurements.received_at = min(measurements.received_at, received_at)
        measurements.values = {**values, **measurements.values}
        if isinstance(epoch := data.get("epoch"), int | float) and measurements.epoch is None:
            measurements.epoch = float(epoch)
        if isinstance(total := data.get("total_steps"), int | float):
            totals.append(float(total))
    return by_step, max(totals, default=None)


def renamed(values: Mapping[str, float], names: Mapping[str, str]) -> dict[str, float]:
    """Return the values under our names; `names` maps the host's names to ours."""
    return {ours: values[theirs] for theirs, ours in names.items() if theirs in values}


def _known_values(data: Mapping[str, Any], names: MetricNames) -> dict[str, float]:
    """Return the known metrics of an event or row under the host's names, aliases resolved."""
    known = {*names.step, *names.evaluation}
    values = {}
    for name, raw in data.items():
        canonical = name if name in known else names.aliases.get(name)
        if canonical not in known:
            continue
        value = _number(raw, names)
        if value is not None:
            values[str(canonical)] = value
    return values


def _number(raw: object, names: MetricNames) -> float | None:
    if raw is None:
        return math.nan if names.null_is_not_finite else None
    if isinstance(raw, str):  # "NaN", from hosts that write strict JSON
        try:
            return float(raw)
        except ValueError:
            return None
    return float(raw) if isinstance(raw, int | float) else None
