"""Why the measurements of a sweep wait."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backends.contract import MetricRequest
from backends.guarded_backend import translated_errors
from backends.metrics.contract import SupportsMetricWaiting
from backends.metrics.measurement import errors_named
from backends.metrics.requested_metric import resolve
from backends.waiting import Waiting


def waiting(requests: Sequence[MetricRequest], workspace: Path) -> Waiting | None:
    """Return why a measurement of these metrics in this workspace waits now, or None.

    Sends no request. Raises BackendError.
    """
    for request in requests:
        requested = resolve(request)
        metric_class = requested.metric_class
        if not issubclass(metric_class, SupportsMetricWaiting):
            continue
        with errors_named(request.name), translated_errors(metric_class, "waiting", "metric"):
            wait: Waiting | None = metric_class.waiting(requested.options, workspace)
        if wait is not None:
            return wait
    return None
