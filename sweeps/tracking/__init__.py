"""MLflow: one parent run a sweep, one child run a trial, projected from what the study records."""

from sweeps.tracking.reachability import check_scheme
from sweeps.tracking.run_metrics import MetricHistory, metric_history
from sweeps.tracking.tracker import TrackedDataset, TrackedPart, Tracker, default_uri, serve_ui, table_path

__all__ = [
    "MetricHistory",
    "TrackedDataset",
    "TrackedPart",
    "Tracker",
    "check_scheme",
    "default_uri",
    "metric_history",
    "serve_ui",
    "table_path",
]
