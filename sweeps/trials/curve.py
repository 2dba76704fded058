"""The learning curve of a trial, and the training-loop reports that its record keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from backends.contract import EvaluationSettings, Measured
from backends.metrics.contract import MetricDeclaration
from backends.training_logs.learning_curve import LearningCurve, MetricScale, RunEnd
from sweeps.data.prepared_data import PreparedData
from sweeps.spec.objective import Objective
from sweeps.spec.task_metrics import TaskMetric
from sweeps.trials.trial import Trial, TrialState

_ENDED: Mapping[TrialState, RunEnd] = {
    TrialState.RUNNING: "stopped",
    TrialState.COMPLETE: "complete",
    TrialState.STOPPED: "stopped",
    TrialState.FAILED: "failed",
}


FIRST_REPORTS, LAST_REPORTS = 10, 10
"""How many reports from the beginning and from the end of a long run the record keeps."""


def thin_loop_reports(reports: Sequence[Measured]) -> tuple[Measured, ...]:
    """Return the first and last reports of a training loop, and the one with the highest loss.

    Reports without a finite `batch_loss` are dropped. Thinning `(*thin_loop_reports(reports),
    next_report)` gives the same result as thinning all reports at once, so a caller can thin after
    each report.
    """
    finite = [report for report in reports if math.isfinite(report.values.get("batch_loss", math.nan))]
    if len(finite) <= FIRST_REPORTS + LAST_REPORTS + 1:
        return tuple(finite)
    middle = finite[FIRST_REPORTS:-LAST_REPORTS]
    highest = max(middle, key=lambda report: report.values["batch_loss"])
    return (*finite[:FIRST_REPORTS], highest, *finite[-LAST_REPORTS:])


def learning_curve_of(
    trial: Trial,
    data: PreparedData,
    objectives: Sequence[Objective],
    task_metrics: Sequence[TaskMetric] = (),
    metric_examples: int | None = None,
    *,
    diverged: bool = False,
) -> LearningCurve:
    """Build the learning curve of a trial so far.

    Set `diverged` if the run itself reported a non-finite loss. The curve's metric is the first
    objective that is not a loss; where all are losses, the accuracy if the data have labels. The
    task metrics were measured on `metric_examples` examples. A metric whose range is unknown has no
    values on the curve, because nobody can say how much of a change is chance.
    """
    metrics = [objective.metric for objective in objectives]
    counts = data.label_counts.get("valid", {}) if data.task == "classification" else {}
    metric = next((name for name in metrics if not name.endswith("loss")), "accuracy" if counts else None)
    task_metric = next((known for known in task_metrics if known.reported_name == metric), None)
    scale = MetricScale() if task_metric is None else _scale(task_metric.declaration)
    majority_share = max(counts.values()) / sum(counts.values()) if any(counts.values()) else None
    about_labels = (
        task_metric is None
        and metric is not None
        and metric.endswith(("accuracy", "macro_f1"))
        and "token" not in metric
    )
    curve = LearningCurve.from_measurements(
        (*trial.curve, *trial.loop_reports),
        metric=metric if scale is not None else None,
        train_examples=min(EvaluationSettings().train_examples, data.dataset.train.examples),
        valid_examples=data.dataset.valid.examples,
        classes=len(counts) if about_labels and counts else None,
        chance=majority_share if about_labels and metric != "valid_macro_f1" else None,
        best_by="loss" if metrics and metrics[0].endswith("loss") else "metric",
        ended="diverged" if diverged else _ENDED[trial.state],
        metric_scale=scale or MetricScale(),
        metric_examples=None if task_metric is None else metric_examples,
    )
    return curve if scale is not None or task_metric is None else replace(curve, metric=task_metric.request.name)


def _scale(declaration: MetricDeclaration) -> MetricScale | None:
    """Return the range of a metric, worst value first; None if an end is unknown."""
    low, high = declaration.low, declaration.high
    if low is None or high is None or low >= high:
        return None
    return MetricScale(low, high) if declaration.direction == "maximize" else MetricScale(high, low)
