"""The error of a task metric that its user can mend."""

from __future__ import annotations

from backends.contract import BackendError, Failure, FailureKind


def user_error(message: str, remedy: str = "") -> BackendError:
    """Return the error with this message and remedy."""
    return BackendError(Failure(FailureKind.USER, message, remedy))


def about_metric(name: str, failure: Failure) -> Failure:
    """Return the failure with the name of the metric before its message."""
    return Failure(failure.kind, f"metric {name!r}: {failure.message}", failure.detail)
