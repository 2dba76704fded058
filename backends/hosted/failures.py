"""Translate errors of a host into failures: tables for exceptions, error codes and jobs.

The tables also say whether the host may have carried out a failed request (`ambiguous`). After an
ambiguous creation, the backend looks for the job, and waits, before it creates the job again.
"""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2
import openai

from backends.contract import BackendError, Failure, FailureKind

USER, TRANSIENT, QUOTA, LOST, BUG = (
    FailureKind.USER,
    FailureKind.TRANSIENT,
    FailureKind.QUOTA,
    FailureKind.LOST,
    FailureKind.BUG,
)

DAILY_LIMIT_RETRY_S = 3600.0
"""How long to wait between attempts after a daily limit. No host says when its day begins."""

SHOWN_CHARACTERS = 500
"""The length to which a host's error message is cut."""


@dataclass(frozen=True)
class FailureRule:
    """The meaning of an exception or a code.

    `ambiguous`: the host may have carried out the request. `wait_s`: the shortest wait before the
    next attempt.
    """

    kind: FailureKind
    ambiguous: bool = False
    remedy: str = ""
    wait_s: float | None = None


_CHECK_KEY = "Check the API key, and that it belongs to this host."

RULES_BY_EXCEPTION: Mapping[type[Exception], FailureRule] = {
    openai.BadRequestError: FailureRule(USER),
    openai.AuthenticationError: FailureRule(USER, remedy=_CHECK_KEY),
    openai.OAuthError: FailureRule(USER, remedy=_CHECK_KEY),
    openai.PermissionDeniedError: FailureRule(
        USER, remedy="Ask the account's owner for the permission that this key lacks."
    ),
    openai.NotFoundError: FailureRule(USER, remedy="Check the model's name and the address."),
    openai.ConflictError: FailureRule(TRANSIENT, ambiguous=True),
    openai.UnprocessableEntityError: FailureRule(USER),
    openai.RateLimitError: FailureRule(QUOTA),
    openai.InternalServerError: FailureRule(TRANSIENT, ambiguous=True),
    openai.APITimeoutError: FailureRule(TRANSIENT, ambiguous=True),
    openai.APIConnectionError: FailureRule(TRANSIENT, ambiguous=True),
    # a proxy's page instead of an answer, or half an answer
    openai.APIResponseValidationError: FailureRule(TRANSIENT, ambiguous=True),
    openai.APIStatusError: FailureRule(TRANSIENT, ambiguous=True),  # 408, and every status without its own class
    openai.APIError: FailureRule(TRANSIENT, ambiguous=True),
    openai.ContentFilterFinishReasonError: FailureRule(
        USER, remedy="Remove the example that the host's content filter rejected."
    ),
    openai.LengthFinishReasonError: FailureRule(BUG),
    openai.InvalidWebhookSignatureError: FailureRule(BUG),
    openai.WebSocketQueueFullError: FailureRule(BUG),
    openai.WebSocketConnectionClosedError: FailureRule(BUG),
    openai.OpenAIError: FailureRule(USER, remedy="Check the host, the address and the API key."),
}
"""The package's exceptions. A subclass without its own entry has that of its nearest ancestor."""

RULES_BY_ERROR_CODE: Mapping[str, FailureRule] = {
    "training_not_available": FailureRule(
        USER,
        remedy="This organization can no longer train here: use Azure, another host, or your own `sweep serve`.",
    ),
    "daily_rate_limit_exceeded": FailureRule(QUOTA, wait_s=DAILY_LIMIT_RETRY_S),
    "rate_limit_exceeded": FailureRule(QUOTA),
    "exceeded_quota": FailureRule(QUOTA, wait_s=DAILY_LIMIT_RETRY_S),
    "insufficient_quota": FailureRule(USER, remedy="The account has no credit left: waiting does not help."),
    "billing_hard_limit_reached": FailureRule(USER, remedy="The account has reached its spending limit: raise it."),
    "invalid_api_key": FailureRule(USER, remedy=_CHECK_KEY),
    "model_not_found": FailureRule(USER, remedy="Check the model's name, and that this account may train it."),
    "DeploymentNotReady": FailureRule(TRANSIENT),
    "lost": FailureRule(LOST),
}
"""Codes in an error body. They are more specific than the HTTP status."""

RULES_BY_JOB_CODE: Mapping[str, FailureRule] = {
    "invalid_training_file": FailureRule(USER, remedy="Correct the training file, which the host rejected."),
    "invalid_validation_file": FailureRule(USER, remedy="Correct the validation file, which the host rejected."),
    "invalid_n_examples": FailureRule(USER, remedy="Provide more examples."),
    "invalid_file_format": FailureRule(USER, remedy="Correct the format of the data, which the host rejected."),
    "invalid_request": FailureRule(USER),
    "unsafe_file": FailureRule(USER, remedy="Remove the examples that the host's moderation rejected."),
    "moderation": FailureRule(USER, remedy="Check the data: the host's moderation rejected it, or the trained model."),
    "model_not_found": FailureRule(USER, remedy="Check the model's name."),
    "training_not_available": RULES_BY_ERROR_CODE["training_not_available"],
    "exceeded_quota": FailureRule(QUOTA),
    "insufficient_quota": RULES_BY_ERROR_CODE["insufficient_quota"],
    "out_of_memory": FailureRule(FailureKind.OUT_OF_MEMORY),
    "diverged": FailureRule(FailureKind.DIVERGED),
    "server_error": FailureRule(TRANSIENT),
    "internal_server_error": FailureRule(TRANSIENT),
    "lost": FailureRule(LOST),
    "internal_error": FailureRule(BUG),
}
"""`job.error.code` of a failed job.

Hosts may add codes; an unknown code counts as a bug: no retry.
"""


class HostError(BackendError):
    """A call to the host failed.

    `ambiguous`: the host may have carried it out. `wait_s`: how long the host, or the rule, asks to
    wait. `status`: the HTTP status. Each is None where unknown. `permanent`: there is no safe
    connection to this address, so that asking again within seconds cannot help. `unsent`: there was
    no connection, so that the host knows nothing of the call. `code`: the host's code of the error.
    """

    def __init__(
        self,
        failure: Failure,
        *,
        ambiguous: bool,
        wait_s: float | None,
        status: int | None,
        permanent: bool = False,
        unsent: bool = False,
        code: str | None = None,
    ) -> None:
        super().__init__(failure)
        self.code = code
        self.unsent = unsent
        self.permanent = permanent
        self.ambiguous = ambiguous
        self.wait_s = wait_s
        self.status = status

    def __reduce__(self) -> tuple[type[BackendError], tuple[Failure]]:
        return BackendError, (self.failure,)


class NotJsonObjectError(httpx2.RemoteProtocolError):
    """A successful response whose body is not a JSON object.

    The package reports it as a connection error.
    """


def rule_for(error: Exception) -> FailureRule:
    """Return the rule for an error: by its code, or else by its class or the nearest ancestor."""
    code = getattr(error, "code", None)
    if isinstance(code, str) and code in RULES_BY_ERROR_CODE:
        return RULES_BY_ERROR_CODE[code]
    for ancestor in type(error).__mro__:
        if ancestor in RULES_BY_EXCEPTION:
            return RULES_BY_EXCEPTION[ancestor]
    return FailureRule(BUG)


@contextmanager
def translated_errors(redact: Callable[[str], str], action: str) -> Iterator[None]:
    """Turn the package's exceptions into HostError.

    `action` begins the message: "creating a job".
    """
    try:
        yield
    except (openai.OpenAIError, openai.InvalidWebhookSignatureError) as error:
        rule = rule_for(error)
        # A chained exception of the package would carry the request's headers into every log.
        raise HostError(
            Failure(rule.kind, f"{action}: {_message(error, redact)}", rule.remedy or _remedy(error, rule.kind)),
            ambiguous=rule.ambiguous,
            permanent=_is_tls_failure(error),
            code=getattr(error, "code", None),
            unsent=isinstance(error.__cause__, (httpx2.ConnectError, httpx2.ConnectTimeout)),
            wait_s=_largest(rule.wait_s, retry_after_s(_headers(error))),
            status=error.status_code if isinstance(error, openai.APIStatusError) else None,
        ) from None


def retry_after_s(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """Return the wait that a response's headers ask for, however long; None if they do not."""
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        if (value := headers.get(name)) is None:
            continue
        try:
            wait_s = float(value) / divisor
        except ValueError:
            date = email.utils.parsedate_tz(value)
            if date is None:
                continue
            wait_s = email.utils.mktime_tz(date) - now()
        if math.isfinite(wait_s):
            return max(0.0, wait_s)
    return None


def job_failure(code: str | None, message: str | None, last_log_error: str) -> Failure:
    """Return why a job failed.

    `last_log_error` explains a job that has no error message of its own.
    """
    reason = message or last_log_error or "the host gave no reason"
    if code is None:
        return Failure(BUG, f"the job failed: {reason}", "The host gave no error code.")
    rule = RULES_BY_JOB_CODE.get(code)
    if rule is None:
        detail = f"The host's error code is {code}, which this version does not know."
        return Failure(BUG, f"the job failed: {reason}", detail)
    return Failure(rule.kind, f"the job failed: {reason}", rule.remedy or f"The host's error code is {code}.")


def _message(error: Exception, redact: Callable[[str], str]) -> str:
    if isinstance(error, openai.APITimeoutError):
        if isinstance(error.__cause__, httpx2.ConnectTimeout):
            return "the host cannot be reached (no connection in time)"
        return "the host did not answer in time"
    if isinstance(error.__cause__, NotJsonObjectError):
        return f"{error.__cause__}; check the address, and whether a proxy stands in between"
    if isinstance(error, openai.APIConnectionError):
        return f"the host cannot be reached ({redact(_reason(error))})"
    body = getattr(error, "body", None)
    message = body.get("message") if isinstance(body, Mapping) else None
    # Redact first: a message that is cut first could end in half a key.
    text = redact(message if isinstance(message, str) and message else str(error))[:SHOWN_CHARACTERS]
    status = getattr(error, "status_code", None)
    return f"{text} (HTTP {status})" if status else text


def _reason(error: openai.APIConnectionError) -> str:
    """Return why there is no connection, without numbers that only programs know."""
    text = str(error.__cause__ or "")
    text = re.sub(r"\[Errno -?\d+\] |\s*\(_ssl\.c:\d+\)", "", text).strip()
    return text[:SHOWN_CHARACTERS] or type(error.__cause__ or error).__name__


def _is_tls_failure(error: Exception) -> bool:
    return isinstance(error.__cause__, httpx2.ConnectError) and "SSL" in str(error.__cause__)


def _remedy(error: Exception, kind: FailureKind) -> str:
    """Return the remedy for an error whose rule has none."""
    if not kind.retryable:
        return ""
    if _is_tls_failure(error):
        return "Check whether the address is https or http, and the certificate; SSL_CERT_FILE names trusted ones."
    if isinstance(error, openai.APIConnectionError):
        return "Check the address (`base_url`), the network and HTTPS_PROXY."
    wait_s = retry_after_s(_headers(error))
    return f"The host asks to wait {wait_s:.0f} s." if wait_s else "Try again later, or look at the host's status."


def _headers(error: Exception) -> Mapping[str, str]:
    headers = getattr(getattr(error, "response", None), "headers", None)
    return headers if headers is not None else {}


def _largest(*values: float | None) -> float | None:
    return max((value for value in values if value is not None), default=None)
