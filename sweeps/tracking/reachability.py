"""Checks within seconds whether a tracking URI is reachable, before anything heavy is loaded."""

from __future__ import annotations

import http.client
import socket
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from sweeps.errors import Problem, SweepError, UserInputError
from sweeps.tracking import local_database
from sweeps.tracking.local_database import DatabaseState
from sweeps.tracking.sqlite_files import connected, sqlite_errors

ANSWER_S = 4.0
"""How long each of two attempts waits for a server's answer."""

_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_OUT_OF_ORDER = (502, 503, 504)


_SCHEMES = (*_PORTS, "sqlite", "file", "databricks", "databricks-uc", "uc")


def check_scheme(uri: str) -> None:
    """Raise UserInputError if MLflow has no store for the scheme of a URI. Contacts nothing."""
    scheme = urlsplit(uri).scheme.partition("+")[0]
    plugins = tuple(entry_point.name for entry_point in metadata.entry_points(group="mlflow.tracking_store"))
    if scheme and scheme not in (*_SCHEMES, *plugins):
        hint = f"Set it to a folder, or to a URI with one of the schemes {', '.join((*_SCHEMES, *plugins))}."
        raise UserInputError([Problem("MLFLOW_TRACKING_URI", f"MLflow does not support {scheme}:// URIs", hint)])


def without_secrets(uri: str) -> str:
    """Return the URI without user, password and query, which may be secret."""
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def check(uri: str) -> None:
    """Raise SweepError within 10 s if nothing answers at an MLflow tracking URI.

    For a database file, creates its folder. Other schemes without a host are left to MLflow.
    """
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if (file := sqlite_path(uri)) is not None:
        _check_file(file)
    elif scheme in ("http", "https"):
        _twice(uri, lambda: _ask(uri))
    elif parts.hostname is not None and scheme in _PORTS:
        address = (parts.hostname, parts.port or _PORTS[scheme])
        _twice(uri, lambda: socket.create_connection(address, ANSWER_S).close())


def _check_file(path: Path) -> None:
    """Find a file or a folder that MLflow cannot use. Creates the folder, and nothing else."""
    with sqlite_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if local_database.examine(path) is DatabaseState.MISSING:
            with tempfile.TemporaryFile(dir=path.parent):
                return
        with connected(path) as database:
            database.execute("BEGIN IMMEDIATE")
            database.rollback()


def sqlite_path(uri: str) -> Path | None:
    """Return the file of an SQLite URI; None for other URIs and for databases in memory."""
    scheme, _, rest = uri.partition(":///")
    if scheme.partition("+")[0] != "sqlite" or not rest or rest.startswith((":memory:", "file:")):
        return None
    return Path(unquote(rest.partition("?")[0]))


def _ask(uri: str) -> None:
    request = urllib.request.Request(f"{uri.rstrip('/')}/health", headers={"User-Agent": "finesweep"})
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S):
            pass
    except urllib.error.HTTPError as error:  # any other answer shows that a server is there
        if error.code in _OUT_OF_ORDER:
            raise


def _twice(uri: str, ask: Callable[[], None]) -> None:
    for last in (False, True):
        try:
            return ask()
        except (OSError, http.client.HTTPException) as error:
            if last:
                reason = getattr(error, "reason", None) or error
                hint = "Start it, or unset MLFLOW_TRACKING_URI to record in the workspace."
                raise SweepError(f"MLflow does not answer at {without_secrets(uri)}: {reason}", hint) from error
        time.sleep(0.5)
    return None
