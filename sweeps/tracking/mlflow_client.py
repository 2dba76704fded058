"""Loading MLflow with our settings, connecting to it, and translating its errors."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.tracking.outbox import RejectedError, UnreachableError

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

MESSAGE_CHARS = 240

_CREDENTIALS = re.compile(r"//[^/@\s]+@")

_FINAL_CODES = frozenset(
    {
        "BAD_REQUEST",
        "INVALID_PARAMETER_VALUE",
        "INVALID_STATE",
        "MALFORMED_REQUEST",
        "PERMISSION_DENIED",
        "RESOURCE_ALREADY_EXISTS",
        "RESOURCE_DOES_NOT_EXIST",
        "UNAUTHENTICATED",
    }
)
"""MLflow's error codes that a retry cannot help."""


def default_uri(root: Path) -> str:
    """Return the URI of the MLflow database in a workspace."""
    return f"sqlite:///{(root / 'mlflow.db').resolve()}"


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


def new_client(uri: str) -> MlflowClient:
    """Connect to the tracking server and the model registry at `uri`."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Raise RejectedError for errors that a retry cannot help, and UnreachableError for the others.

    The messages contain no credentials.
    """
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        yield
    except MlflowException as error:
        text = _message(str(error).partition("\n")[0])
        if error.error_code in _FINAL_CODES:
            raise RejectedError(text) from error
        raise UnreachableError(f"MLflow does not answer: {text}") from error
    except RequestException as error:
        raise UnreachableError(f"MLflow does not answer: {_message(str(error))}") from error
    except OSError as error:
        raise RejectedError(str(error)) from error


def _message(text: str) -> str:
    return _CREDENTIALS.sub("//", text)[:MESSAGE_CHARS]
