"""The task metrics of a sweep file: each written entry becomes a request with its declaration."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from backends.contract import BackendError, Capabilities, MetricRequest
from backends.guarded_backend import translated_errors
from backends.metrics import registry
from backends.metrics.contract import MetricDeclaration
from sweeps.errors import Problem
from sweeps.spec.problems import validation_problems
from sweeps.spec.sweep_file import EvaluationSpec, MetricSpec
from sweeps.spec.yaml_source import Document, KeyPath


@dataclass(frozen=True)
class TaskMetric:
    """A task metric that the trials measure, and what it says about itself."""

    request: MetricRequest
    declaration: MetricDeclaration

    @property
    def reported_name(self) -> str:
        """The name under which an evaluation reports it."""
        return f"valid_{self.request.name}"


def read_task_metrics(
    evaluation: EvaluationSpec,
    capabilities: Capabilities | None,
    document: Document,
    problems: list[Problem],
    section: KeyPath = ("evaluation", "metrics"),
) -> tuple[TaskMetric, ...]:
    """Load the metrics that the file names, and read their options and the files that those name.

    Adds what is wrong to `problems`, and leaves the wrong ones out. `capabilities` is None if the
    backend is unknown. The metrics are in `section` of the document.
    """
    if evaluation.metrics and capabilities is not None and not capabilities.task_metrics:
        message = f"backend `{document.value['backend']['type']}` measures no task metrics"
        problems.append(Problem(document.place(section), message, "remove `metrics`, or use another backend"))
    names = Counter(written.name or written.type for written in evaluation.metrics)
    metrics = []
    for index, written in enumerate(evaluation.metrics):
        place: KeyPath = (*section, index)
        name = written.name or written.type
        if names[name] > 1:
            names[name] = 0  # one problem for all of them
            message = f"two metrics are called `{name}`"
            problems.append(Problem(document.place(place), message, "give one of them another `name:`"))
        if capabilities is not None and f"valid_{name}" in (*capabilities.metrics, *capabilities.label_metrics):
            message = f"the backend itself measures a `valid_{name}`"
            problems.append(Problem(document.place(place), message, "give the metric another `name:`"))
        if (metric := _task_metric(written, name, place, document, problems)) is not None:
            metrics.append(metric)
    return tuple(metrics)


def _task_metric(
    written: MetricSpec, name: str, place: KeyPath, document: Document, problems: list[Problem]
) -> TaskMetric | None:
    try:
        metric_class = registry.load(written.type)
    except registry.RegistryError as error:
        problems.append(Problem(document.place(place), error.message, error.hint))
        return None
    try:
        options = metric_class.options_model.model_validate({} if written.options is None else written.options)
    except ValidationError as error:
        problems += validation_problems(error, document, metric_class.options_model, (*place, written.type))
        return None
    try:
        with translated_errors(metric_class, "prepare", "metric"):
            complete = metric_class.prepare(options, Path.cwd())
        with translated_errors(metric_class, "describe", "metric"):
            declaration = metric_class.describe(complete)
    except BackendError as error:
        problems.append(Problem(document.place(place), error.failure.message, error.failure.detail))
        return None
    request = MetricRequest(name, written.type, complete.model_dump(mode="json", by_alias=True), written.reference)
    return TaskMetric(request, declaration)
