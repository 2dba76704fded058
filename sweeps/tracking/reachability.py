"""Is there something at a tracking URI? Asked in seconds, before anything heavy is loaded or started."""

from __future__ import annotations

import contextlib
import http.client
import socket
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from sweeps.errors import Problem, SweepError, UserInputError

ANSWER_S = 4.0
"""A server that has not answered by then, twice, is not there."""

_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_OUT_OF_ORDER = (502, 503, 504)


_SCHEMES = (*_PORTS, "sqlite", "file", "databricks", "databricks-uc", "uc")


def check_scheme(uri: str) -> None:
    """Raise UserInputError where MLflow has no store for such a URI; nothing is asked or loaded."""
    scheme = urlsplit(uri).scheme.partition("+")[0]
    plugins = tuple(entry_point.name for entry_point in metadata.entry_points(group="mlflow.tracking_store"))
    if scheme and scheme not in (*_SCHEMES, *plugins):
        hint = f"give a folder, or a place that begins with one of {', '.join((*_SCHEMES, *plugins))}"
        raise UserInputError([Problem("MLFLOW_TRACKING_URI", f"MLflow keeps nothing at {scheme}://", hint)])


def without_secrets(uri: str) -> str:
    """Return the URI without what may be a secret: user, password and query."""
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def check(uri: str) -> None:
    """Raise SweepError where nothing answers at an MLflow tracking URI, within 10 s.

    A database file is made ready: its folder, and write-ahead logging, with which the UI can read while a sweep writes,
    and which halves the cost of every write (`docs/log.md`). Other schemes without a host are left to MLflow.
    """
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme == "sqlite":
        _check_file(uri)
    elif scheme in ("http", "https"):
        _twice(uri, lambda: _ask(uri))
    elif parts.hostname is not None and scheme in _PORTS:
        address = (parts.hostname, parts.port or _PORTS[scheme])
        _twice(uri, lambda: socket.create_connection(address, ANSWER_S).close())


def _check_file(uri: str) -> None:
    path = sqlite_path(uri)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path, timeout=ANSWER_S)) as database:
            with contextlib.suppress(sqlite3.OperationalError):  # somebody reads just now, or the disk is a network's
                database.execute("PRAGMA journal_mode=WAL")
            database.execute("SELECT count(*) FROM sqlite_master").fetchall()
            database.execute("BEGIN IMMEDIATE")
            database.rollback()
    except (OSError, sqlite3.Error) as error:
        hint = "give another place by MLFLOW_TRACKING_URI, or move the file away"
        raise SweepError(f"the MLflow database {path} cannot be used: {error}", hint) from error


def sqlite_path(uri: str) -> Path | None:
    """Return the file of an SQLite URI; None where the URI is no such, or the database lives in memory."""
    scheme, _, rest = uri.partition(":///")
    if scheme.partition("+")[0] != "sqlite" or not rest or rest.startswith((":memory:", "file:")):
        return None
    return Path(unquote(rest.partition("?")[0]))


def _ask(uri: str) -> None:
    request = urllib.request.Request(f"{uri.rstrip('/')}/health", headers={"User-Agent": "finesweep"})
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S):
            pass
    except urllib.error.HTTPError as error:  # whatever else it says, somebody answered
        if error.code in _OUT_OF_ORDER:
            raise


def _twice(uri: str, ask: Callable[[], None]) -> None:
    for last in (False, True):
        try:
            return ask()
        except (OSError, http.client.HTTPException) as error:
            if last:
                reason = getattr(error, "reason", None) or error
                hint = (
                    "start it, or give another place by MLFLOW_TRACKING_URI; "
                    "without either, a database in the sweep's own folder is used"
                )
                raise SweepError(f"MLflow does not answer at {without_secrets(uri)}: {reason}", hint) from error
        time.sleep(0.5)
    return None
