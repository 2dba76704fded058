"""The Prometheus metrics: jobs by status, requests, received bytes, answered prompts."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from sweeps.server.storage import Store

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class PrometheusMetrics:
    """The metrics of one server.

    They have a registry of their own, so that two servers in a process do not mix.
    """

    def __init__(self, store: Store) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "sweep_http_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "sweep_http_request_seconds", "Time to answer.", ["route"], registry=self.registry
        )
        self.received_bytes = Counter("sweep_received_bytes", "Bytes of files received.", registry=self.registry)
        self.predictions = Counter("sweep_predictions", "Prompts answered by models.", registry=self.registry)
        self.registry.register(_JobsByStatus(store))

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _JobsByStatus(Collector):
    """Counts the jobs in the database whenever Prometheus asks."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily("sweep_jobs", "Fine-tuning jobs by status.", labels=["status"])
        for status, count in self._store.count_by_status().items():
            family.add_metric([status], count)
        yield family
