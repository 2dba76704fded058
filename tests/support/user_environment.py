"""The environment of a user for the commands of a test: nothing of the developer's own settings."""

from __future__ import annotations

import os

HIDDEN = ("MLFLOW_TRACKING_URI", "SWEEP_STORAGE", "SWEEP_ROOT", "SWEEP_FILES", "RAY_ADDRESS")

STORAGE_UNDER_TEST = "SWEEP_TEST_STORAGE"
"""If set: the database in which the commands of a test keep their studies."""


def user_environment(**variables: str) -> dict[str, str]:
    """Return the variables of this process without `HIDDEN`, and with these."""
    inherited = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    if STORAGE_UNDER_TEST in os.environ:
        inherited["SWEEP_STORAGE"] = os.environ[STORAGE_UNDER_TEST]
    return {**inherited, **variables}
