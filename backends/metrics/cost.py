"""The most that measuring the metrics of a sweep can cost, before a model has written anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from backends.contract import MetricRequest
from backends.metrics.contract import CostBound, SupportsCostBound
from backends.metrics.requested_metric import RequestedMetric, resolve

FREE = CostBound(0.0, 0, "")


def cost_bound(
    requests: Sequence[MetricRequest], lines: Sequence[Mapping[str, Any]], stop: str, max_tokens: int
) -> CostBound:
    """Return the most that one measurement of these metrics, for these lines, can cost.

    The lines are those of the prepared data file that a model answers, each with at most
    `max_tokens` tokens. If a metric costs money and states no bound, the bound is unknown. Opens no
    metric. Raises BackendError, whose message names the metric.
    """
    bounds = [_bound(resolve(request), lines, stop, max_tokens) for request in requests]
    usd = [bound.usd for bound in bounds if bound.usd is not None]
    tokens = [bound.tokens for bound in bounds if bound.tokens is not None]
    return CostBound(
        math.fsum(usd) if len(usd) == len(bounds) else None,
        sum(tokens) if len(tokens) == len(bounds) else None,
        "; ".join(bound.basis for bound in bounds if bound.basis),
    )


def _bound(requested: RequestedMetric, lines: Sequence[Mapping[str, Any]], stop: str, max_tokens: int) -> CostBound:
    name, metric_class = requested.request.name, requested.metric_class
    if requested.declaration.is_free or not lines:
        return FREE
    if not issubclass(metric_class, SupportsCostBound):
        return CostBound(None, None, f"{name}: the metric does not say what it costs")
    answers = requested.answers([""] * len(lines), lines, stop)
    with requested.errors_of("cost_bound"):
        bound: CostBound = metric_class.cost_bound(requested.options, answers, max_tokens)
    return CostBound(bound.usd, bound.tokens, f"{name}: {bound.basis}")
