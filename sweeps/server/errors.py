"""The error body of the protocol, and how a backend's failure appears in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backends.contract import Failure, FailureKind
from sweeps.server.records import JobFailure

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"


class ApiError(Exception):
    """The server refuses a request.

    Holds the HTTP status and the fields of the body, `{"error": {message, type, param, code}}`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        type_: str = INVALID_REQUEST,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.type = type_
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Return the JSON body."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def failure_text(failure: Failure) -> str:
    """Return a failure's message with its remedy."""
    return f"{failure.message} ({failure.detail})" if failure.detail else failure.message


_RESPONSES: Mapping[FailureKind, tuple[int, str]] = {
    FailureKind.USER: (400, "invalid_request"),
    FailureKind.OUT_OF_MEMORY: (503, "out_of_memory"),
    FailureKind.DIVERGED: (500, "diverged"),
    FailureKind.TRANSIENT: (503, "unavailable"),
    FailureKind.QUOTA: (429, "rate_limit_exceeded"),
    FailureKind.LOST: (404, "lost"),
    FailureKind.BUG: (500, "internal_error"),
}
"""The HTTP status and the code of a request that failed at the backend, by kind of failure."""


def api_error(failure: Failure) -> ApiError:
    """Return the response to a request that failed at the backend."""
    status, code = _RESPONSES[failure.kind]
    type_ = SERVER_ERROR if status >= 500 else INVALID_REQUEST
    return ApiError(status, failure_text(failure), code=code, type_=type_)


_JOB_CODES: Mapping[FailureKind, str] = {
    FailureKind.USER: "invalid_request",
    FailureKind.OUT_OF_MEMORY: "out_of_memory",
    FailureKind.DIVERGED: "diverged",
    FailureKind.TRANSIENT: "server_error",
    FailureKind.QUOTA: "exceeded_quota",
    FailureKind.LOST: "lost",
    FailureKind.BUG: "internal_error",
}
"""`job.error.code` by kind of failure."""


def job_failure(failures: Sequence[Failure]) -> JobFailure:
    """Return why a job failed: the kind of the first failure, and the texts of the first three."""
    first = failures[0]
    message = "; ".join(failure_text(failure) for failure in failures[:3])
    param = "training_file" if first.kind is FailureKind.USER and "data file" in first.message else None
    return JobFailure(_JOB_CODES[first.kind], message, param)
