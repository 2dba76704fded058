"""Keeps the log messages of libraries off the screen: they go to the log file of the sweep."""

from __future__ import annotations

import logging
from pathlib import Path

from backends import credentials

REDIRECTED_LOGGERS = (
    "mlflow",
    "alembic",
    "optuna",
    "transformers",
    "peft",
    "datasets",
    "huggingface_hub",
    "py.warnings",
    "sweeps",
    "backends",
)


class _MaskingFormatter(logging.Formatter):
    """Keeps secrets out of the file, whichever library writes them."""

    def format(self, record: logging.LogRecord) -> str:
        return credentials.masked(super().format(record))


class _LogFile(logging.FileHandler):
    """A log that loses lines on a full disk, and does not print tracebacks about them."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the name is logging's
        """Do nothing: the sweep itself reports the full disk."""


def redirect_library_logs(file: Path) -> logging.Handler:
    """Send the messages and warnings of libraries, and our own, to `file`.

    Returns the handler of the file.
    """
    handler = _LogFile(file, encoding="utf-8", delay=True)
    handler.setFormatter(_MaskingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.captureWarnings(True)
    for name in REDIRECTED_LOGGERS:
        logger = logging.getLogger(name)
        for earlier in logger.handlers:
            if isinstance(earlier, _LogFile):
                earlier.close()
        logger.handlers[:], logger.propagate = [handler], False
    return handler
