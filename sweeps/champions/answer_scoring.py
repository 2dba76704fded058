"""Scores the answers of a sweep's models example by example: finals and challenges use it.

A task metric scores generated texts. Without one, a label is right or wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from backends.contract import Dataset, Decoding, PredictOptions
from backends.metrics.measurement import MetricSet
from sweeps.data.store import read_lines
from sweeps.planning.metric_checks import sampled_lines
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.spec.task_metrics import TaskMetric

ACCURACY = "valid_accuracy"
"""The metric of the evaluations that equals the mean score of labels."""


@dataclass(frozen=True)
class AnswerScores:
    """The score of a model on some examples, and of each example if the metric has such a value."""

    value: float
    per_example: NDArray[np.float64] | None


class AnswerScoring(Protocol):
    """How the answers of a model become scores. `name` is the metric, for people."""

    @property
    def name(self) -> str:
        """The metric, as a reason names it."""
        ...

    @property
    def measured_as(self) -> str:
        """The metric of the evaluations that this is."""
        ...

    @property
    def maximize(self) -> bool:
        """Whether a higher score is better."""
        ...

    def options(self, decoding: Decoding | None = None) -> PredictOptions:
        """Return how to ask for the answers: as the evaluations do, or with another decoding."""
        ...

    def validation_lines(self) -> Sequence[Mapping[str, Any]]:
        """Return the validation examples that the evaluations measure this metric on."""
        ...

    def score(self, answers: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> AnswerScores:
        """Score the answers to the lines of a prepared file. Raises BackendError."""
        ...


@contextmanager
def opened_scoring(plan: SweepPlan) -> Iterator[AnswerScoring | None]:
    """Yield how to score the models of a sweep; None if only their loss is known.

    That is by the objective if it is a task metric, else by labels, else by the first task metric.
    Metrics that cost money are left out, because the budget covers trials only.
    """
    metrics = [metric for metric in plan.spec.task_metrics if metric.declaration.is_free]
    objective = plan.spec.objective_metric
    if plan.data.dataset.labels and objective not in metrics:
        yield _LabelScoring(plan.data.dataset)
    elif not metrics:
        yield None
    else:
        metric = objective if objective in metrics else metrics[0]
        with closing(MetricSet.open([metric.request], plan.folder)) as opened:
            yield _TextScoring(plan, metric, opened)


@dataclass(frozen=True)
class _LabelScoring:
    """An answer is right if it is the label of the example."""

    dataset: Dataset
    name = "accuracy"
    measured_as = ACCURACY
    maximize = True

    def options(self, decoding: Decoding | None = None) -> PredictOptions:
        return PredictOptions(labels=self.dataset.labels, stop=self.dataset.stop)

    def validation_lines(self) -> Sequence[Mapping[str, Any]]:
        return read_lines(self.dataset.valid)

    def score(self, answers: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> AnswerScores:
        truth = labels_of(lines, self.dataset)
        correct = np.array([answer == label for answer, label in zip(answers, truth, strict=True)], dtype=np.float64)
        return AnswerScores(float(correct.mean()), correct)


@dataclass(frozen=True)
class _TextScoring:
    """A task metric scores generated texts."""

    plan: SweepPlan
    metric: TaskMetric
    opened: MetricSet

    @property
    def name(self) -> str:
        return self.metric.request.name

    @property
    def measured_as(self) -> str:
        return self.metric.reported_name

    @property
    def maximize(self) -> bool:
        return self.metric.declaration.direction == "maximize"

    def options(self, decoding: Decoding | None = None) -> PredictOptions:
        generate = self.plan.spec.evaluation.generate
        return PredictOptions.generate(decoding or generate.decoding, self.plan.data.dataset.stop)

    def validation_lines(self) -> Sequence[Mapping[str, Any]]:
        return sampled_lines(self.plan)

    def score(self, answers: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> AnswerScores:
        measured = self.opened.measure(answers, lines, self.plan.data.dataset.stop)
        scores = measured.per_example.get(self.name) if self.metric.declaration.is_mean else None
        per_example = None if scores is None else np.array(scores, dtype=np.float64)
        return AnswerScores(measured.values[self.name], per_example)


def labels_of(lines: Sequence[Mapping[str, Any]], dataset: Dataset) -> tuple[str, ...]:
    """Return the labels of lines, as the data file has them."""
    chat = dataset.layout == "chat"
    return tuple(line["messages"][-1]["content"] if chat else line["completion"] for line in lines)
