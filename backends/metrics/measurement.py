"""The task metrics of a sweep, measured on generated texts.

The local trainer, hosted models, the finals, champion and challenger, and `predict --score` all
measure in this way.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from backends.contract import BackendError, Failure, FailureKind, MetricRequest
from backends.metrics.contract import Answers, Metric, MetricDeclaration, Scores
from backends.metrics.requested_metric import RequestedMetric, resolve


@dataclass(frozen=True)
class Measurement:
    """The values of all metrics for one list of predictions, see `named_values`.

    `per_example` are by the name of the metric, in the order of the predictions; metrics without
    values for single examples are absent. `usd` is None if a cost is unknown. `notes` are by the
    name of the metric.
    """

    values: Mapping[str, float]
    per_example: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    usd: float | None = 0.0
    tokens: int = 0
    notes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, measured: Mapping[str, Scores]) -> Measurement:
        """Return the measurement that consists of these scores, by the name of their metric."""
        known_usd = [scores.usd for scores in measured.values() if scores.usd is not None]
        return cls(
            named_values(measured),
            {name: scores.per_example for name, scores in measured.items() if scores.per_example is not None},
            math.fsum(known_usd) if len(known_usd) == len(measured) else None,
            sum(scores.tokens for scores in measured.values()),
            {name: scores.note for name, scores in measured.items() if scores.note},
        )

    @property
    def evaluation_values(self) -> dict[str, float]:
        """The values by the names of evaluations (`valid_...`)."""
        return {f"valid_{name}": value for name, value in self.values.items()}

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
        requested = resolve(request)
        with requested.errors_of("open"):
            return cls(requested, requested.metric_class.open(requested.options, workspace))

    def answers(self, predictions: Sequence[str], lines: Sequence[Mapping[str, Any]], stop: str) -> Answers:
        """Return what the metric compares.

        Raises BackendError (user) for the first line without a text to compare with.
        """
        return self.requested.answers(predictions, lines, stop)

    def problems(self, answers: Answers) -> Sequence[str]:
        """Return why these references or lines cannot be scored. Raises BackendError."""
        with self.requested.errors_of("problems"):
            return self.metric.problems(answers)

    def score(self, answers: Answers) -> Scores:
        """Score the answers. Raises BackendError, also for a value that is not finite."""
        with self.requested.errors_of("score"):
            scores = self.metric.score(answers)
            _check(scores, len(answers.predictions))
            return scores

    def close(self) -> None:
        """Close the metric. Raises BackendError."""
        with self.requested.errors_of("close"):
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
        """Measure at least one prediction. `lines` are those of the prepared data file, in order.

        `stop` is the stop sequence of the data set. The same predictions have the same values.
        Raises BackendError, whose message names the metric.
        """
        if len(predictions) != len(lines) or not predictions:
            raise ValueError(f"{len(predictions)} predictions for {len(lines)} lines")
        measured = {metric.name: metric.score(metric.answers(predictions, lines, stop)) for metric in self._metrics}
        return Measurement.of(measured)

    def close(self) -> None:
        """Release the processes and connections of all metrics. Idempotent."""
        with contextlib.ExitStack() as opened:
            for metric in self._metrics:
                opened.callback(metric.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def named_values(measured: Mapping[str, Scores]) -> dict[str, float]:
    """Return each value by the name of its metric, and further numbers by `NAME_KEY`.

    Where both have the same name, the value of the metric counts.
    """
    further = {f"{name}_{key}": value for name, scores in measured.items() for key, value in scores.further.items()}
    return {**further, **{name: scores.value for name, scores in measured.items()}}


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
