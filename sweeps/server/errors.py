"""The one error body of the protocol, and what a backend's failure is called in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.contract import Failure, FailureKind

INVALID = "invalid_request_error"
SERVER = "server_error"


class ApiError(Exception):
    """A request that is refused: the HTTP status and the fields of `{"error": {message, type, param, code}}`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        type_: str = INVALID,
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


def not_found(what: str, name: str, *, code: str | None = None, param: str = "id") -> ApiError:
    """Return the answer where a client names something that is not there."""
    return ApiError(404, f"No such {what}: {name}", code=code, param=param)


def failure_text(failure: Failure) -> str:
    """Return a failure's message with its remedy."""
    return f"{failure.message} ({failure.detail})" if failure.detail else failure.message


_STATUS: Mapping[FailureKind, tuple[int, str | None]] = {
    FailureKind.USER: (400, "invalid_request"),
    FailureKind.OUT_OF_MEMORY: (503, "out_of_memory"),
    FailureKind.DIVERGED: (500, "diverged"),
    FailureKind.TRANSIENT: (503, "unavailable"),
    FailureKind.QUOTA: (429, "rate_limit_exceeded"),
    FailureKind.LOST: (404, "lost"),
    FailureKind.BUG: (500, "internal_error"),
}


def of_failure(failure: Failure) -> ApiError:
    """Return the answer to a request that a backend could not fulfil."""
    status, code = _STATUS[failure.kind]
    return ApiError(status, failure_text(failure), code=code, type_=SERVER if status >= 500 else INVALID)


JOB_CODES: Mapping[FailureKind, str] = {
    FailureKind.USER: "invalid_request",
    FailureKind.OUT_OF_MEMORY: "out_of_memory",
    FailureKind.DIVERGED: "diverged",
    FailureKind.TRANSIENT: "server_error",
    FailureKind.QUOTA: "exceeded_quota",
    FailureKind.LOST: "lost",
    FailureKind.BUG: "internal_error",
}
"""What `job.error.code` says for each kind of failure."""
