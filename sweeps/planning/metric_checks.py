"""Whether the task metrics of a sweep can measure, and the most that they can cost.

Reads the validation examples; nothing is spent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from backends.contract import BackendError
from backends.metrics import checking
from backends.metrics.cost import cost_bound
from backends.metrics.sample import sampled_examples
from sweeps.data.findings import warning
from sweeps.data.store import read_lines
from sweeps.errors import Problem, UserInputError, suggestion
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.spec.task_metrics import TaskMetric


def with_checked_metrics(plan: SweepPlan) -> SweepPlan:
    """Return the plan with the cost of its task metrics, and a finding for each doubtful one.

    Each metric that costs nothing measures a few correct answers, so that a scorer that raises,
    hangs or returns no number is found here. Raises UserInputError with all problems.
    """
    metrics = plan.spec.task_metrics
    if not metrics:
        return plan
    lines = sampled_lines(plan)
    requests = [metric.request for metric in metrics]
    stop = plan.data.dataset.stop
    check = checking.try_out(requests, lines, stop, plan.folder)
    problems = [
        Problem(_place(plan, found.metric), found.message, found.hint or "mend the metric, or remove it")
        for found in check.problems
    ]
    problems += _unmeasured_objectives(plan, check.values)
    if problems:
        raise UserInputError(problems)
    try:
        bound = cost_bound(requests, lines, stop, plan.spec.evaluation.generate.max_tokens)
    except BackendError as error:
        place = plan.spec.document.place(("evaluation", "metrics"))
        raise UserInputError([Problem(place, error.failure.message, error.failure.detail)]) from error
    doubtful = [
        warning(
            "reference-scores-low",
            _place(plan, metric.request.name),
            f"the correct answers themselves have only {check.values[metric.request.name]:.3g} in "
            f"`{metric.request.name}`, where {_best(metric):g} is the best",
            "look at the options of the metric, and at the column that it compares with",
        )
        for metric in metrics
        if _scores_references_low(metric, check.values)
    ]
    return replace(plan, findings=(*plan.findings, *doubtful), measurement_bound=bound)


def sampled_lines(plan: SweepPlan) -> Sequence[Mapping[str, Any]]:
    """Return the validation examples that the evaluations generate for."""
    generation, valid = plan.evaluation.generation, plan.data.dataset.valid
    assert generation is not None
    lines = read_lines(valid)
    return [lines[index] for index in sampled_examples(len(lines), generation.examples, valid.sha256)]


def _unmeasured_objectives(plan: SweepPlan, values: Mapping[str, float]) -> Iterable[Problem]:
    """Yield objectives that name a further number of a metric which the metric does not have."""
    tried = {metric.reported_name for metric in plan.spec.task_metrics if metric.request.name in values}
    measured = [f"valid_{name}" for name in values]
    for written in plan.spec.objectives:
        name = written.objective.metric
        if name not in measured and any(name.startswith(f"{known}_") for known in tried):
            place = plan.spec.document.place(("objective",))
            yield Problem(place, f"no metric measures `{name}`", suggestion(name, measured))


def _best(metric: TaskMetric) -> float:
    declaration = metric.declaration
    best = declaration.high if declaration.direction == "maximize" else declaration.low
    return float("inf") if best is None else best


def _scores_references_low(metric: TaskMetric, values: Mapping[str, float]) -> bool:
    value, best = values.get(metric.request.name), _best(metric)
    if value is None or best == float("inf"):
        return False
    worst = metric.declaration.low if metric.declaration.direction == "maximize" else metric.declaration.high
    return worst is not None and abs(best - value) > 0.1 * abs(best - worst)


def _place(plan: SweepPlan, name: str) -> str:
    index = next(n for n, metric in enumerate(plan.spec.task_metrics) if metric.request.name == name)
    return plan.spec.document.place(("evaluation", "metrics", index))
