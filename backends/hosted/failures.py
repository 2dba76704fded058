"""What goes wrong at a host, as kinds of failure: one table for the package's exceptions and codes, one for jobs.

Whether a request may have been carried out although it failed (`ambiguous`) is part of the table: it decides whether a
job is looked up and waited for before it is created again.
"""

from __future__ import annotations

import email.utils
import math
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

DAILY_WAIT_S = 3600.0
"""After a daily limit it is asked again so often; nobody says when the host's day begins."""


@dataclass(frozen=True)
class Rule:
    """What an exception or a code means: the kind, whether the request may have been carried out, what to do."""

    kind: FailureKind
    ambiguous: bool = False
    remedy: str = ""
    wait_s: float | None = None


BY_EXCEPTION: Mapping[type[Exception], Rule] = {
    openai.BadRequestError: Rule(USER),
    openai.AuthenticationError: Rule(USER, remedy="check the API key, and that it belongs to this host"),
    openai.OAuthError: Rule(USER, remedy="check the API key, and that it belongs to this host"),
    openai.PermissionDeniedError: Rule(USER, remedy="this key may not do that: ask the account's owner"),
    openai.NotFoundError: Rule(USER, remedy="check the model's name and the address"),
    openai.ConflictError: Rule(TRANSIENT, ambiguous=True),
    openai.UnprocessableEntityError: Rule(USER),
    openai.RateLimitError: Rule(QUOTA),
    openai.InternalServerError: Rule(TRANSIENT, ambiguous=True),
    openai.APITimeoutError: Rule(TRANSIENT, ambiguous=True),
    openai.APIConnectionError: Rule(TRANSIENT, ambiguous=True),
    # a proxy's page instead of an answer, or half an answer
    openai.APIResponseValidationError: Rule(TRANSIENT, ambiguous=True),
    openai.APIStatusError: Rule(TRANSIENT, ambiguous=True),  # 408 and what else has no class of its own
    openai.APIError: Rule(TRANSIENT, ambiguous=True),
    openai.ContentFilterFinishReasonError: Rule(USER, remedy="the host's content filter refused an example"),
    openai.LengthFinishReasonError: Rule(BUG),
    openai.InvalidWebhookSignatureError: Rule(BUG),
    openai.WebSocketQueueFullError: Rule(BUG),
    openai.WebSocketConnectionClosedError: Rule(BUG),
    openai.OpenAIError: Rule(USER, remedy="check the host, the address and the API key"),
}
"""The package's exceptions; a subclass without a line of its own has that of its nearest ancestor."""

BY_CODE: Mapping[str, Rule] = {
    "training_not_available": Rule(
        USER,
        remedy="this organization may not train here any more: use Azure, another host, or your own `sweep serve`",
    ),
    "daily_rate_limit_exceeded": Rule(QUOTA, wait_s=DAILY_WAIT_S),
    "rate_limit_exceeded": Rule(QUOTA),
    "exceeded_quota": Rule(QUOTA, wait_s=DAILY_WAIT_S),
    "insufficient_quota": Rule(USER, remedy="the account has no money left: waiting does not help"),
    "billing_hard_limit_reached": Rule(USER, remedy="the account's spending limit is reached"),
    "invalid_api_key": Rule(USER, remedy="check the API key, and that it belongs to this host"),
    "model_not_found": Rule(USER, remedy="check the model's name, and that this account may train it"),
    "DeploymentNotReady": Rule(TRANSIENT),
    "lost": Rule(LOST),
}
"""Codes of an error body; they say more than the status that they come with."""

JOB_CODES: Mapping[str, Rule] = {
    "invalid_training_file": Rule(USER, remedy="the host refused the training file"),
    "invalid_validation_file": Rule(USER, remedy="the host refused the validation file"),
    "invalid_n_examples": Rule(USER, remedy="give more examples"),
    "invalid_file_format": Rule(USER, remedy="the host refused the data"),
    "invalid_request": Rule(USER),
    "unsafe_file": Rule(USER, remedy="the host's moderation refused the data"),
    "moderation": Rule(USER, remedy="the host's moderation refused the data or the model"),
    "model_not_found": Rule(USER, remedy="check the model's name"),
    "training_not_available": BY_CODE["training_not_available"],
    "exceeded_quota": Rule(QUOTA),
    "insufficient_quota": BY_CODE["insufficient_quota"],
    "out_of_memory": Rule(FailureKind.OUT_OF_MEMORY),
    "diverged": Rule(FailureKind.DIVERGED),
    "server_error": Rule(TRANSIENT),
    "internal_server_error": Rule(TRANSIENT),
    "lost": Rule(LOST),
    "internal_error": Rule(BUG),
}
"""`job.error.code` of a failed job. The set is open: an unknown code is nobody's known mistake, and is not retried."""


class ServiceError(BackendError):
    """A call to the host failed. `ambiguous`: it may have been carried out. `wait_s`: when to ask again, if said."""

    def __init__(self, failure: Failure, *, ambiguous: bool, wait_s: float | None, status: int | None) -> None:
        super().__init__(failure)
        self.ambiguous = ambiguous
        self.wait_s = wait_s
        self.status = status

    def __reduce__(self) -> tuple[type[BackendError], tuple[Failure]]:
        return BackendError, (self.failure,)


class NotTheProtocol(httpx2.RemoteProtocolError):
    """A success whose body is no JSON object. The package sees a connection error in it."""


def rule_for(error: Exception) -> Rule:
    """Return the line of the table: that of its code, else of its class or the nearest ancestor's."""
    code = getattr(error, "code", None)
    if isinstance(code, str) and code in BY_CODE:
        return BY_CODE[code]
    for ancestor in type(error).__mro__:
        if ancestor in BY_EXCEPTION:
            return BY_EXCEPTION[ancestor]
    return Rule(BUG)


@contextmanager
def translated(redact: Callable[[str], str], what: str) -> Iterator[None]:
    """Turn the package's exceptions into ServiceError; `what` is what was being done, for the message."""
    try:
        yield
    except (openai.OpenAIError, openai.InvalidWebhookSignatureError) as error:
        rule = rule_for(error)
        # chained, a library's exception would carry the request with its headers into every log
        raise ServiceError(
            Failure(rule.kind, f"{what}: {_text(error, redact)}", rule.remedy),
            ambiguous=rule.ambiguous,
            wait_s=_largest(rule.wait_s, retry_after_s(_headers(error))),
            status=error.status_code if isinstance(error, openai.APIStatusError) else None,
        ) from None


def retry_after_s(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """Return how many seconds an answer's headers ask to wait, however many; None where they do not say."""
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        if (value := headers.get(name)) is None:
            continue
        try:
            seconds = float(value) / divisor
        except ValueError:
            parsed = email.utils.parsedate_tz(value)
            if parsed is None:
                continue
            seconds = email.utils.mktime_tz(parsed) - now()
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None


def of_job(code: str | None, message: str | None, last_words: str) -> Failure:
    """Return why a job failed; `last_words` is its last error event, for jobs without an error of their own."""
    text = message or last_words or "the host gave no reason"
    if code is None:
        return Failure(BUG, f"the job failed: {text}", "the host gave no code")
    rule = JOB_CODES.get(code)
    if rule is None:
        return Failure(BUG, f"the job failed: {text}", f"the host's code is {code}, which this version does not know")
    return Failure(rule.kind, f"the job failed: {text}", rule.remedy or f"code {code}")


def _text(error: Exception, redact: Callable[[str], str]) -> str:
    if isinstance(error, openai.APITimeoutError):
        return "the host did not answer in time"
    if isinstance(error.__cause__, NotTheProtocol):
        return f"{error.__cause__}: is there a proxy in between, or is the address wrong?"
    if isinstance(error, openai.APIConnectionError):
        return f"the host cannot be reached ({type(error.__cause__ or error).__name__})"
    body = getattr(error, "body", None)
    message = body.get("message") if isinstance(body, Mapping) else None
    # what is cut off first could end in half a key
    text = redact(message if isinstance(message, str) and message else str(error))[:500]
    status = getattr(error, "status_code", None)
    return f"{text} (HTTP {status})" if status else text


def _headers(error: Exception) -> Mapping[str, str]:
    headers = getattr(getattr(error, "response", None), "headers", None)
    return headers if headers is not None else {}


def _largest(*values: float | None) -> float | None:
    return max((each for each in values if each is not None), default=None)
