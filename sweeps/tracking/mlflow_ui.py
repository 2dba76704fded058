"""The MLflow UI: the command that serves it, and the path of a sweep's table of runs."""

from __future__ import annotations

import sys
from collections.abc import Callable

from sweeps.tracking import local_database
from sweeps.tracking.local_database import DatabaseState
from sweeps.tracking.mlflow_client import SETTINGS, load
from sweeps.tracking.projection import VIEW_KEY
from sweeps.tracking.reachability import sqlite_path

_QUIET = {"PYTHONWARNINGS": "ignore"}
"""The warnings of the UI's server are meant for MLflow's developers."""

_SERVER = f"""
import os
for name, value in {SETTINGS | _QUIET!r}.items():
    os.environ.setdefault(name, value)
from mlflow.cli import cli
cli()
"""


def serve_ui(uri: str, port: int, say: Callable[[str], None] = lambda message: None) -> list[str]:
    """Return the command that serves the MLflow UI of a database, on this machine only, until it is
    killed.

    The server reads artifacts at the paths of this machine that the experiment names. It would
    upgrade an earlier database in place, so this makes the database ready first; see `prepare`.
    """
    file = sqlite_path(uri)
    if file is not None and local_database.examine(file) is not DatabaseState.READY:
        load()
        local_database.prepare(file, say)
    options = {"--backend-store-uri": uri, "--host": "127.0.0.1", "--port": str(port), "--workers": "1"}
    return [sys.executable, "-c", _SERVER, "server", *(word for option in options.items() for word in option)]


def table_path(experiment_id: str) -> str:
    """Return the URL path of an experiment's table of runs, with a sweep's columns.

    MLflow opens an experiment for generative AI without the type of workflow.
    """
    return f"/#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW_KEY}&workflowType=machine_learning"
