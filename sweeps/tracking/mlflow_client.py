"""Loading MLflow with our settings, and connecting to it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sweeps.tracking import local_database
from sweeps.tracking.reachability import sqlite_path
from sweeps.tracking.sqlite_files import uri_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # the UI needs no job runner for sweeps
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the outbox retries, and can be told to stop
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is for results, such as JSON
}
"""Settings that MLflow reads only from the environment. The user's own values win."""


def default_uri(root: Path) -> str:
    """Return the URI of the MLflow database in a workspace."""
    return uri_of((root / "mlflow.db").resolve())


def load() -> None:
    """Import MLflow with our settings, and keep the program's own logging configuration."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    import mlflow  # noqa: F401 - takes seconds, and attaches its own handlers to its loggers

    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        if handlers or not propagate:
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)
        else:
            logger.setLevel(max(logging.WARNING, level))


def new_client(uri: str, say: Callable[[str], None] = lambda message: None) -> MlflowClient:
    """Connect to the tracking server and the model registry at `uri`.

    Creates, upgrades or mends a local database first; `say` receives what `prepare` says. Raises
    SweepError if its file cannot be used, and SQLAlchemy's error if a database server refuses.
    """
    from mlflow import MlflowClient

    if (file := sqlite_path(uri)) is not None:
        local_database.prepare(file, say)
    elif urlsplit(uri).scheme.partition("+")[0] in ("postgresql", "mysql", "mssql"):
        _log_in(uri)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _log_in(uri: str) -> None:
    """Raise the database's error for a wrong password or name; MLflow would retry for 100 s."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool)
    engine.connect().close()
