"""MLflow: one parent run per sweep, one child run per trial, and the Model Registry."""

from sweeps.tracking.mlflow_client import default_uri
from sweeps.tracking.mlflow_ui import serve_ui, table_path
from sweeps.tracking.projection import TrackedDataset, TrackedPart
from sweeps.tracking.reachability import check_scheme
from sweeps.tracking.run_metrics import MetricHistory, metric_history
from sweeps.tracking.tracker import Tracker

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
