"""The learning curve of a trial, and which reports of its training loop the record keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from backends.contract import Evaluation, Measured
from backends.training_logs.learning_curve import Ended, LearningCurve
from sweeps.data.prepare import PreparedData
from sweeps.spec.objective import Objective
from sweeps.trials.trial import Trial, TrialState

_ENDED: Mapping[TrialState, Ended] = {
    TrialState.RUNNING: "stopped",
    TrialState.COMPLETE: "complete",
    TrialState.STOPPED: "stopped",
    TrialState.FAILED: "failed",
}


FIRST, LAST = 10, 10
"""Of a long run so many reports of its beginning and its end are kept."""


def thinned(reports: Sequence[Measured]) -> tuple[Measured, ...]:
    """Return the first and the last reports of a training loop, and the one with the highest loss.

    What is kept of `(*thinned(reports), next)` is what is kept of all of them: it can be done report by report.
    """
    known = [each for each in reports if math.isfinite(each.values.get("batch_loss", math.nan))]
    if len(known) <= FIRST + LAST + 1:
        return tuple(known)
    middle = known[FIRST:-LAST]
    return (*known[:FIRST], max(middle, key=lambda each: each.values["batch_loss"]), *known[-LAST:])


class ScoredObjective(Protocol):
    """One objective of a sweep, as its specification has it."""

    @property
    def objective(self) -> Objective:
        """The metric and its direction."""
        ...


def curve_of(
    trial: Trial, data: PreparedData, objectives: Sequence[ScoredObjective], *, diverged: bool = False
) -> LearningCurve:
    """Build the curve of a trial that has ended; `diverged` where the run itself found its loss not finite.

    It is judged by the first objective that is no loss, else by the accuracy where the data have labels.
    """
    metrics = [each.objective.metric for each in objectives]
    counts = data.label_counts.get("valid", {}) if data.task == "classification" else {}
    metric = next((each for each in metrics if not each.endswith("loss")), "accuracy" if counts else None)
    share = max(counts.values()) / sum(counts.values()) if any(counts.values()) else None
    labelled = metric is not None and metric.endswith(("accuracy", "macro_f1")) and "token" not in metric
    return LearningCurve.from_measurements(
        (*trial.curve, *trial.loop_reports),
        metric=metric,
        train_examples=min(Evaluation().train_examples, data.dataset.train.examples),
        valid_examples=data.dataset.valid.examples,
        classes=len(counts) if labelled and counts else None,
        chance=share if labelled and metric != "valid_macro_f1" else None,
        best_by="loss" if metrics and metrics[0].endswith("loss") else "metric",
        ended="diverged" if diverged else _ENDED[trial.state],
    )
