"""Trials and events -> parameters, metrics and tags of a run, as plain values."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

from backends.contract import Event, Measured, Scalar, Started
from sweeps.trials.trial import Trial, TrialState
from sweeps.verdicts.verdict import FitVerdict

RunStatus: TypeAlias = Literal["RUNNING", "FINISHED", "KILLED", "FAILED"]
Content: TypeAlias = str | bytes | Path | Callable[[], bytes]
"""The content of an artifact: a text, bytes, a file, a folder, or a function that returns the
bytes.
"""

SWEEP_TAG = "finesweep.sweep_id"
TRIAL_TAG = "finesweep.trial_key"
CURSOR_TAG = "finesweep.cursor"
"""The tag that counts the trial's events that MLflow has."""

SHOWN_TAG = "finesweep.shown"
"""The tag of the sweep's run that says which trials are shown to their end; see `ShownTrials`."""

SUMMARY_STEP = 0
"""The step of metrics of which a run has only one value."""

UNTRAINED = "untrained/"
"""The prefix of the base model's scores. The slash puts them into a section below the curves."""

VIEW_KEY = "finesweep"
"""The name under which the table of runs is saved, with the columns of a sweep."""

_STATUS: Mapping[TrialState, RunStatus] = {
    TrialState.RUNNING: "RUNNING",
    TrialState.COMPLETE: "FINISHED",
    TrialState.STOPPED: "FINISHED",
    TrialState.FAILED: "FAILED",
}

_UNFIT_FOR_KEYS = re.compile(r"[^\w\-. :/]")


@dataclass(frozen=True)
class TrackedPart:
    """A part of a data set: its sha256 (hex) and its number of examples."""

    digest: str
    examples: int


@dataclass(frozen=True)
class TrackedDataset:
    """The data of a sweep, by purpose: `training`, `validation`."""

    name: str
    source: str
    parts: Mapping[Literal["training", "validation"], TrackedPart]


@dataclass(frozen=True)
class Point:
    """One value of a metric.

    `once` marks a summary, of which the latest value counts. Other metrics have one point per step.
    """

    key: str
    value: float
    step: int
    timestamp_ms: int
    once: bool = False


@dataclass
class Projection:
    """Everything that one run should show. `files` maps artifact paths to their content.

    `completes`: with it, the run of a trial shows everything. `is_whole`: it holds everything, so a
    part of it may be written already.
    """

    points: list[Point] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    files: dict[str, Content] = field(default_factory=dict)
    status: RunStatus | None = None
    ended_at_ms: int | None = None
    completes: bool = False
    is_whole: bool = False

    @property
    def ends(self) -> bool:
        """Whether it shows the end of its run."""
        return self.status not in (None, "RUNNING")

    def add(self, later: Projection) -> None:
        """Merge a later projection. Its parameters, tags, files and status win."""
        self.points += later.points
        self.params |= later.params
        self.tags |= later.tags
        self.files |= later.files
        self.is_whole |= later.is_whole
        if later.status is not None:
            self.status, self.ended_at_ms, self.completes = later.status, later.ended_at_ms, later.completes


def run_name(trial: Trial) -> str:
    """Return the name of a trial's run. Names sort like the trials' numbers."""
    return f"trial-{trial.number:02d}"


def status_of(trial: Trial) -> RunStatus:
    """Return the run status of a trial.

    A trial that was stopped early is FINISHED, as it did what it should; MLflow marks a run that is
    KILLED like a failure. The tag `state` tells the two apart.
    """
    return _STATUS[trial.state]


def of_start(trial: Trial, backend: str) -> Projection:
    """Project a trial that starts."""
    tags = {TRIAL_TAG: trial.key, "model": trial.base_model, "state": trial.state.value, "seed": str(trial.seed)}
    if trial.repeat_of is not None:
        tags["finals.repeats"] = run_name(replace(trial, number=trial.repeat_of))
    if backend:
        tags["backend"] = backend
    return Projection(params=params_of(trial.hyperparameters), tags=tags, status="RUNNING")


def of_events(first: int, events: Sequence[Event], now_ms: int, requested: Mapping[str, Scalar]) -> Projection:
    """Project the events numbered `first`, `first + 1`, ... of a trial, and move its cursor behind
    them.

    `requested` are the trial's hyperparameters.
    """
    projection = Projection(tags={CURSOR_TAG: str(first + len(events))})
    for event in events:
        if isinstance(event, Started):
            projection.params |= _resolved(event.resolved, requested)
        elif isinstance(event, Measured):
            projection.points += _points(event, now_ms)
    return projection


def of_end(trial: Trial, now_ms: int) -> Projection:
    """Project a trial's result: its objective, its verdict and its cost."""
    tags = {"state": trial.state.value, "reason": trial.reason, "model.path": trial.model or ""}
    verdict = trial.verdict
    if verdict is not None:
        tags |= {"verdict": verdict.kind.value, "verdict.reason": verdict.evidence, "verdict.advice": verdict.advice}
        if verdict.onset_epoch is not None:
            tags["verdict.onset_epoch"] = f"{verdict.onset_epoch:g}"
        tags["mlflow.note.content"] = _note(verdict)
    if trial.duplicate_of is not None:
        tags["duplicate_of"] = str(trial.duplicate_of)
    summary = {
        "objective": trial.values[0] if trial.values else None,
        "best_epoch": trial.best_epoch,
        "seconds": trial.spend.seconds,
        "tokens": trial.spend.tokens or None,
        "usd": trial.spend.usd,
    }
    ended_at_ms = now_ms if trial.ended_at is None else round(trial.ended_at * 1000)
    return Projection(
        points=summary_points(summary, ended_at_ms),
        params=_resolved(trial.resolved, trial.hyperparameters),
        tags={key: value for key, value in tags.items() if value},
        status=status_of(trial),
        ended_at_ms=ended_at_ms,
        completes=True,
    )


def of_files(files: Mapping[str, Content]) -> Projection:
    """Project artifacts of a trial. JSON files are tables, which MLflow shows in its own view."""
    tables = [{"path": path, "type": "table"} for path in files if path.endswith(".json")]
    return Projection(tags={"mlflow.loggedArtifacts": json.dumps(tables)} if tables else {}, files=dict(files))


def summary_points(values: Mapping[str, float | None], now_ms: int) -> list[Point]:
    """Return points for metrics of which a run has only one value. Unknown values are left out."""
    return [
        Point(_key(key), float(value), SUMMARY_STEP, now_ms, once=True)
        for key, value in values.items()
        if value is not None
    ]


def _resolved(values: Mapping[str, Scalar], requested: Mapping[str, Scalar]) -> dict[str, str]:
    """Return the values that a trial really used, if they differ from the requested ones.

    Equal values would only double the columns when you compare runs.
    """
    return params_of({name: value for name, value in values.items() if requested.get(name) != value}, "resolved.")


def params_of(values: Mapping[str, Scalar], prefix: str = "") -> dict[str, str]:
    """Return hyperparameters as a user would write them: 0.0002, lora, 3."""
    return {_key(prefix + key): value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}


def run_table_view(hyperparameters: Iterable[str]) -> str:
    """Return the view of MLflow's table of runs that shows a sweep, in the format of a shared view.

    The best trial comes first, with its objective, verdict, hyperparameters and state. The default
    view has none of these columns, and shows only the sweep's own run.
    """
    widths = {
        "attributes.`Run Name`": 170,
        "metrics.`objective`": 90,
        "tags.`verdict`": 90,
        **{f"params.`{_key(hyperparameter)}`": 70 + 5 * len(hyperparameter) for hyperparameter in hyperparameters},
        "metrics.`best_epoch`": 90,
        "metrics.`seconds`": 80,
        "tags.`state`": 90,
        "tags.`verdict.reason`": 500,
    }
    state = {
        "selectedColumns": list(widths),
        "columnOrder": list(widths),
        "columnWidths": widths,
        "orderByKey": "metrics.`objective`",
        "runsHiddenMode": "FIRST_20_RUNS",
    }
    return json.dumps(state)


def _note(verdict: FitVerdict) -> str:
    """Return the description at the top of the run's page, in Markdown."""
    evidence = verdict.evidence[:1].upper() + verdict.evidence[1:]
    advice = f"\n\nNext: {verdict.advice}." if verdict.advice else ""
    return f"**{verdict.kind.value}** · {evidence}.{advice}"


def _points(event: Measured, now_ms: int) -> list[Point]:
    points = [Point(_key(key), value, event.step, now_ms) for key, value in event.values.items()]
    if event.scope == "evaluation":
        if event.step == 0:
            known = {f"{UNTRAINED}{key}": value for key, value in event.values.items()}
            points += [Point(_key(key), value, event.step, now_ms) for key, value in known.items()]
        points.append(Point("epoch", event.epoch, event.step, now_ms))
    # An infinite value would flatten the rest of a chart. NaN leaves a gap, and the verdict says
    # why.
    return [point if math.isfinite(point.value) else Point(point.key, math.nan, point.step, now_ms) for point in points]


def _key(name: str) -> str:
    return _UNFIT_FOR_KEYS.sub("_", name)[:250]
