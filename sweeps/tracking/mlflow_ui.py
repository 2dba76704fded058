"""The MLflow UI: the command that serves it, and the path of a sweep's table of runs."""

from __future__ import annotations

import sys

from sweeps.tracking.mlflow_client import SETTINGS
from sweeps.tracking.projection import VIEW_KEY

_QUIET = {"PYTHONWARNINGS": "ignore"}
"""The warnings of the UI's server are meant for MLflow's developers."""

_SERVER = f"""
import os
for name, value in {SETTINGS | _QUIET!r}.items():
    os.environ.setdefault(name, value)
from mlflow.cli import cli
cli()
"""


def serve_ui(uri: str, port: int) -> list[str]:
    """Return the command that serves the MLflow UI of a database, on this machine only, until it is
    killed.

    The server reads artifacts at the paths of this machine that the experiment names.
    """
    options = {"--backend-store-uri": uri, "--host": "127.0.0.1", "--port": str(port), "--workers": "1"}
    return [sys.executable, "-c", _SERVER, "server", *(word for option in options.items() for word in option)]


def table_path(experiment_id: str) -> str:
    """Return the URL path of an experiment's table of runs, with a sweep's columns."""
    return f"/#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW_KEY}"
