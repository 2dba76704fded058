"""What a sweep needs so that its winner can challenge a champion.

Checked in the plan, not after the night's run.
"""

from __future__ import annotations

from collections.abc import Iterable

from backends.model_packages import SupportsPackaging
from sweeps.data import PreparedData
from sweeps.errors import Problem
from sweeps.spec.checks import NO_PRICE
from sweeps.spec.sweep_spec import SweepSpec


def champion_problems(spec: SweepSpec, data: PreparedData) -> Iterable[Problem]:
    """Yield what would prevent registering the winner, or comparing it with the champion."""
    if spec.champion is None:
        return
    place = spec.document.place(("champion",))
    free = [metric for metric in spec.task_metrics if metric.declaration.is_free]
    objective = spec.objective_metric if spec.objective_metric in free else None
    deciding = objective or next(iter(() if data.dataset.labels else free), None)
    if objective is not None and data.dataset.labels:
        yield Problem(
            place,
            f"the registered model would choose labels, but `{objective.request.name}` scores texts that it writes",
            "write `data: {task: generation}`, or make valid_accuracy the objective",
        )
    if deciding is None and not data.dataset.labels:
        yield Problem(
            place,
            "a challenge compares answers, but this data set has no labels, and no free metric scores a text",
            "name a metric: `evaluation: {metrics: [exact_match]}`, or the labels: `data: {task: classification}`",
        )
    if deciding is not None and not deciding.declaration.is_mean:
        yield Problem(
            place,
            f"a challenge compares two models example by example, and `{deciding.request.name}` scores no single one",
            "make another metric the objective",
        )
    if deciding is not None and spec.champion.min_recall is not None:
        message = "min_recall limits the recall of each label, but a metric of free text decides this challenge"
        yield Problem(spec.document.place(("champion", "min_recall")), message, "remove min_recall")
    if data.test is None:
        yield Problem(
            place,
            "a challenge is decided on a test split, but this data set has none",
            "add one: `data: {test: 0.1}`, or a file",
        )
    if not issubclass(spec.backend_class, SupportsPackaging):
        yield Problem(
            place,
            f"models of backend `{spec.backend_type}` cannot be registered: they cannot answer outside the backend",
            "remove `champion:`, or use another backend",
        )
    if spec.champion.max_cost_usd is not None and not spec.capabilities.priced:
        yield Problem(spec.document.place(("champion", "max_cost_usd")), NO_PRICE, "remove max_cost_usd")
