"""The errors of task metrics."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from backends.contract import BackendError, Failure, FailureKind


def user_error(message: str, remedy: str = "") -> BackendError:
    """Return an error that the user can mend, with this message and remedy."""
    return BackendError(Failure(FailureKind.USER, message, remedy))


@contextlib.contextmanager
def errors_named(name: str) -> Iterator[None]:
    """Put the name of the metric before the message of each BackendError."""
    try:
        yield
    except BackendError as error:
        failure = error.failure
        raise BackendError(Failure(failure.kind, f"metric {name!r}: {failure.message}", failure.detail)) from error
