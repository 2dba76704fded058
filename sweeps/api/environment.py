"""What a caller of the API need not pass: the workspace, the tracking server, the storage and
Ray.
"""

from __future__ import annotations

import os
from pathlib import Path

from backends import credentials
from sweeps.execution.environment import Environment
from sweeps.study.storage_url import check_storage_url
from sweeps.tracking import check_scheme, default_uri
from sweeps.workspace import DEFAULT_ROOT, Workspace


def tracking_uri(workspace: Workspace) -> str:
    """Return MLFLOW_TRACKING_URI, or the database in the workspace if it is not set.

    Raises UserInputError for a scheme that MLflow does not support.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or default_uri(workspace.root)
    check_scheme(uri)
    return uri


def storage() -> str | None:
    """Return SWEEP_STORAGE, the URL of the database with the studies; None means journal files.

    Raises UserInputError if no database can have this URL.
    """
    if not (url := os.environ.get("SWEEP_STORAGE")):
        return None
    check_storage_url(url)
    return url


def open_workspace(root: str | Path | None) -> Workspace:
    """Return the workspace at `root`, else at SWEEP_ROOT, else at `.sweep` in the current
    folder.
    """
    return Workspace(Path(root or os.environ.get("SWEEP_ROOT") or DEFAULT_ROOT).absolute())


def environment(workspace: Workspace, ray_address: str | None = None, files: str | None = None) -> Environment:
    """Return where sweeps are stored, tracked and run, and let backends read secrets."""
    credentials.make_file_names_absolute(os.environ)
    credentials.use_secrets_from(os.environ)
    store = files or os.environ.get("SWEEP_FILES") or None
    return Environment(workspace, tracking_uri(workspace), storage(), ray_address, store)
