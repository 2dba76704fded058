"""Why the measurements of a sweep wait."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backends.contract import MetricRequest
from backends.metrics.contract import SupportsMetricWaiting
from backends.metrics.requested_metric import resolve
from backends.waiting import Waiting


def waiting(requests: Sequence[MetricRequest], workspace: Path) -> Waiting | None:
    """Return why a measurement of these metrics in this workspace waits now, or None.

    Sends no request. Raises BackendError, which names the metric.
    """
    for request in requests:
        requested = resolve(request)
        metric_class = requested.metric_class
        if not issubclass(metric_class, SupportsMetricWaiting):
            continue
        with requested.errors_of("waiting"):
            wait: Waiting | None = metric_class.waiting(requested.options, workspace)
        if wait is not None:
            return wait
    return None
