"""The task metrics of a sweep, measured on generated texts.

The local trainer, hosted models, the finals, champion and challenger, and `predict --score` all
measure in this way.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from backends.contract import BackendError, Failure, FailureKind, MetricRequest
from backends.guarded_backend import translated_errors
from backends.metrics.contract import Answers, Metric, MetricDeclaration, Scores
from backends.metrics.failures import about_metric
from backends.metrics.requested_metric import RequestedMetric, resolve


@dataclass(frozen=True)
class Measurement:
    """The values of all metrics for one list of predictions.

    `values` are by the name of the metric, and `NAME_KEY` for its further numbers, unless a metric
    has that name. `per_example` are by the name of the metric, in the order of the predictions;
    metrics without values for single examples are absent. `usd` is None if a cost is unknown.
    `notes` are by the name of the metric.
    """

    values: Mapping[str, float]
    per_example: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    usd: float | None = 0.0
    tokens: int = 0
    notes: Mapping[str, str] = field(default_factory=dict)

    def scores_of(self, example: int) -> dict[str, float]:
        """Return the value of each metric for the prediction at this position."""
        return {name: values[example] for name, values in self.per_example.items()}


@dataclass(frozen=True)
class OpenMetric:
    """A requested metric that is ready to score. Each of its errors names the metric."""

    requested: RequestedMetric
    metric: Metric

    @property
    def name(self) -> str:
        """The name under which the metric is reported."""
        return self.requested.request.name

    @classmethod
    def open(cls, request: MetricRequest, workspace: Path) -> OpenMetric:
        """Open the metric. Raises BackendError."""
        with errors_named(request.name):
            requested = resolve(request)
            with translated_errors(requested.metric_class, "open", "metric"):
                return cls(requested, requested.metric_class.open(requested.options, workspace))

    def answers(self, predictions: Sequence[str], lines: Sequence[Mapping[str, Any]], stop: str) -> Answers:
        """Return what the metric compares.

        Raises BackendError (user) for the first line without a text to compare with.
        """
        return self.requested.answers(predictions, lines, stop)

    def problems(self, answers: Answers) -> Sequence[str]:
        """Return why these references or lines cannot be scored. Raises BackendError."""
        with errors_named(self.name), translated_errors(type(self.metric), "problems", "metric"):
            return self.metric.problems(answers)

    def score(self, answers: Answers) -> Scores:
        """Score the answers. Raises BackendError, also for a value that is not finite."""
        with errors_named(self.name), translated_errors(type(self.metric), "score", "metric"):
            scores = self.metric.score(answers)
            _check(scores, len(answers.predictions))
            return scores

    def close(self) -> None:
        """Close the metric. Raises BackendError."""
        with errors_named(self.name), translated_errors(type(self.metric), "close", "metric"):
            self.metric.close()


class MetricSet:
    """The open metrics of a sweep, in the order of their requests. Close it after use."""

    def __init__(self, metrics: Sequence[OpenMetric]) -> None:
        self._metrics = tuple(metrics)

    @classmethod
    def open(cls, requests: Sequence[MetricRequest], workspace: Path) -> MetricSet:
        """Open the metrics of the requests, which write only below `workspace`.

        Raises BackendError, whose message names the metric. No metric stays open then.
        """
        with contextlib.ExitStack() as opened:
            metrics = []
            for request in requests:
                metrics.append(metric := OpenMetric.open(request, workspace))
                opened.callback(metric.close)
            opened.pop_all()
            return cls(metrics)

    @property
    def declarations(self) -> dict[str, MetricDeclaration]:
        """What each metric declares, by its name."""
        return {metric.name: metric.requested.declaration for metric in self._metrics}

    def measure(self, predictions: Sequence[str], lines: Sequence[Mapping[str, Any]], stop: str = "") -> Measurement:
        """Measure predictions, at least one, beside the lines of the prepared data file.

        `stop` is the stop sequence of the data set. The same predictions have the same values.
        Raises BackendError, whose message names the metric.
        """
        if len(predictions) != len(lines) or not predictions:
            raise ValueError(f"{len(predictions)} predictions for {len(lines)} lines")
        values: dict[str, float] = {}
        further: dict[str, float] = {}
        per_example: dict[str, tuple[float, ...]] = {}
        notes: dict[str, str] = {}
        costs: list[float | None] = []
        tokens = 0
        for metric in self._metrics:
            scores = metric.score(metric.answers(predictions, lines, stop))
            values[metric.name] = scores.value
            further.update({f"{metric.name}_{key}": value for key, value in scores.further.items()})
            if scores.per_example is not None:
                per_example[metric.name] = scores.per_example
            if scores.note:
                notes[metric.name] = scores.note
            costs.append(scores.usd)
            tokens += scores.tokens
        known = [cost for cost in costs if cost is not None]
        usd = math.fsum(known) if len(known) == len(costs) else None
        return Measurement({**further, **values}, per_example, usd, tokens, notes)

    def close(self) -> None:
        """Release the processes and connections of all metrics. Idempotent."""
        with contextlib.ExitStack() as opened:
            for metric in self._metrics:
                opened.callback(metric.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def errors_named(name: str) -> Iterator[None]:
    """Put the name of the metric before the message of each BackendError."""
    try:
        yield
    except BackendError as error:
        raise BackendError(about_metric(name, error.failure)) from error


def _check(scores: Scores, count: int) -> None:
    """Raise BackendError for scores that a metric must not return."""
    if not isinstance(scores, Scores):
        raise _defect(f"`score` returned {type(scores).__name__} and no Scores")
    if scores.per_example is not None and len(scores.per_example) != count:
        raise _defect(f"`score` returned {len(scores.per_example)} values for {count} examples")
    for value in (scores.value, *(scores.per_example or ()), *scores.further.values()):
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise _defect(f"`score` returned {value!r} where it must return a finite number")


def _defect(message: str) -> BackendError:
    return BackendError(Failure(FailureKind.BUG, message, "The author of the metric can mend it."))
