"""Finds metrics that cannot measure, before a sweep spends anything."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backends.contract import BackendError, MetricRequest
from backends.metrics.contract import Scores
from backends.metrics.measurement import OpenMetric, named_values

TRIED_EXAMPLES = 8
"""How many examples a trial measurement has."""

SHOWN_PROBLEMS = 3


@dataclass(frozen=True)
class MetricProblem:
    """Why a metric cannot measure: one sentence with the name of the metric, and the remedy."""

    metric: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class MetricCheck:
    """The problems of all metrics, and their values for predictions that equal the references.

    `measurement.named_values` says under which names. A metric that was not tried has no value.
    """

    problems: tuple[MetricProblem, ...]
    values: Mapping[str, float]


def try_out(
    requests: Sequence[MetricRequest], lines: Sequence[Mapping[str, Any]], stop: str, workspace: Path
) -> MetricCheck:
    """Try the metrics on lines of a data file, and return why they cannot measure. Costs nothing.

    To try a metric is to score a few references as predictions, so that a scorer that raises,
    hangs, ends its process, or returns no finite number is a problem. A metric that is unknown, has
    a wrong option, or lacks a library is a problem, too. A metric that has problems or costs money
    is not tried.
    """
    found: list[MetricProblem] = []
    measured: dict[str, Scores] = {}
    step = max(1, len(lines) // TRIED_EXAMPLES)
    tried = lines[::step][:TRIED_EXAMPLES]
    for request in requests:
        with _reported(request.name, found), contextlib.closing(OpenMetric.open(request, workspace)) as metric:
            known = _problems(metric, lines, stop)
            found += known
            if tried and not known and metric.requested.declaration.is_free:
                answers = metric.answers([""] * len(tried), tried, stop)
                right = replace(answers, predictions=tuple(texts[0] for texts in answers.references))
                measured[request.name] = metric.score(right)
    return MetricCheck(tuple(found), named_values(measured))


def _problems(metric: OpenMetric, lines: Sequence[Mapping[str, Any]], stop: str) -> list[MetricProblem]:
    """Return the problems of an open metric. Raises BackendError."""
    if without := metric.requested.lines_without_reference(lines, stop):
        first, failure = without[0]
        count = f"{len(without)} of {len(lines)} examples cannot be scored; example {first} {failure.message}"
        return [MetricProblem(metric.name, f"metric {metric.name!r}: {count}", failure.detail)]
    sentences = list(metric.problems(metric.answers([""] * len(lines), lines, stop))) if lines else []
    shown = sentences[:SHOWN_PROBLEMS]
    if len(sentences) > SHOWN_PROBLEMS:
        shown.append(f"{len(sentences) - SHOWN_PROBLEMS} more problems of this metric")
    return [MetricProblem(metric.name, f"metric {metric.name!r}: {text}") for text in shown]


@contextlib.contextmanager
def _reported(name: str, found: list[MetricProblem]) -> Iterator[None]:
    """Turn a BackendError into a problem."""
    try:
        yield
    except BackendError as error:
        found.append(MetricProblem(name, error.failure.message, error.failure.detail))
