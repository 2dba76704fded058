"""Warnings that MLflow itself causes in the process of a test."""

from __future__ import annotations

import pytest

MLFLOW_WARNINGS = (
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
)
"""The marks that let them pass. Every other warning is an error."""
