"""`sweep predict --score`: measures predictions by the task metrics, as the evaluations do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from backends.contract import BackendError, MetricRequest
from backends.metrics.measurement import Measurement, MetricSet
from sweeps.errors import Problem, SweepError, UserInputError
from sweeps.spec.problems import validation_problems
from sweeps.spec.sweep_file import EvaluationSpec
from sweeps.spec.task_metrics import read_task_metrics
from sweeps.spec.yaml_source import parse


def requested_metrics(written: Sequence[str], reference: str | None) -> tuple[MetricRequest, ...]:
    """Read metrics as they are written in a sweep file: `exact_match`, `{regex: {pattern: ...}}`.

    They compare with the column `reference` unless they name another one. Raises UserInputError.
    """
    document = parse(f"metrics: [{', '.join(written)}]", "--score")
    problems: list[Problem] = []
    try:
        evaluation = EvaluationSpec.model_validate(document.value)
    except ValidationError as error:
        raise UserInputError(validation_problems(error, document, EvaluationSpec)) from None
    metrics = read_task_metrics(evaluation, None, document, problems, ("metrics",))
    if problems:
        raise UserInputError(problems)
    return tuple(replace(metric.request, reference=metric.request.reference or reference) for metric in metrics)


def check_columns(records: Sequence[Mapping[str, Any]], metrics: Sequence[MetricRequest]) -> None:
    """Raise UserInputError if the records lack a column that a metric compares with, or have one of
    its name.

    Without a column of its own, a metric takes the column `completion`, or the last message of a
    conversation.
    """
    columns = {str(key) for key in records[0]}
    default = "messages" if "messages" in columns else "completion"
    if taken := sorted(columns & {metric.name for metric in metrics}):
        hint = "rename it, or give the metric another `name:`"
        raise UserInputError([Problem("--score", f"the file already has a column {taken[0]!r}", hint)])
    if missing := {metric.reference or default for metric in metrics} - columns:
        column = sorted(missing)[0]
        hint = f"name the column with the correct answers: --reference COLUMN; there are {', '.join(records[0])}"
        raise UserInputError([Problem("--score", f"the file has no column {column!r} to compare with", hint)])


def measure(
    records: Sequence[Mapping[str, Any]], predictions: Sequence[str], metrics: Sequence[MetricRequest], workspace: Path
) -> Measurement:
    """Measure predictions beside the records that they are for. Raises SweepError."""
    lines = [{**record, "row": record} for record in records]
    try:
        with MetricSet.open(metrics, workspace) as opened:
            return opened.measure(predictions, lines)
    except BackendError as error:
        raise SweepError(error.failure.message, error.failure.detail) from error
