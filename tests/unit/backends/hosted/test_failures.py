"""The failure tables: every exception of the package, every code, every `retry-after`."""

from __future__ import annotations

import email.utils
import inspect
import pickle
import time
from typing import Any

import httpx2
import openai
import pytest

from backends.contract import BackendError, FailureKind
from backends.hosted import failures

pytestmark = pytest.mark.unit


def exceptions() -> list[type[Exception]]:
    """All exceptions of the `openai` package."""
    types = {
        value
        for module in (openai, openai._exceptions)
        for value in list(vars(module).values())  # a copy: the package adds some names on first access
        if inspect.isclass(value)
        and issubclass(value, Exception)
        and value.__module__.startswith("openai")
        and not value.__name__.startswith("_")  # those of the package's module-level client, which is not used here
    }
    return sorted(types, key=lambda type_: type_.__name__)


@pytest.mark.parametrize("exception_type", exceptions(), ids=lambda type_: type_.__name__)
def test_every_exception_of_the_package_is_in_the_table(exception_type: type[Exception]) -> None:
    """A developer has to decide about a new exception.

    Only those listed here may inherit their ancestor's rule.
    """
    inherits = {"SubjectTokenProviderError", "WorkloadIdentityError"}
    assert exception_type in failures.RULES_BY_EXCEPTION or exception_type.__name__ in inherits


def test_the_table_names_no_exception_that_does_not_exist() -> None:
    assert set(failures.RULES_BY_EXCEPTION) <= set(exceptions())


def status_error(status: int, body: Any = None, **headers: str) -> openai.APIStatusError:
    request = httpx2.Request("POST", "http://host/v1/fine_tuning/jobs")
    response = httpx2.Response(status, headers=headers, json={"error": body or {}}, request=request)
    client = openai.OpenAI(api_key="k", base_url="http://host/v1")
    return client._make_status_error_from_response(response)


@pytest.mark.parametrize(
    ("status", "code", "kind", "ambiguous"),
    [
        (400, None, FailureKind.USER, False),
        (401, "invalid_api_key", FailureKind.USER, False),
        (403, None, FailureKind.USER, False),
        (403, "training_not_available", FailureKind.USER, False),
        (404, "model_not_found", FailureKind.USER, False),
        (408, None, FailureKind.TRANSIENT, True),
        (409, None, FailureKind.TRANSIENT, True),
        (422, None, FailureKind.USER, False),
        (429, None, FailureKind.QUOTA, False),
        (429, "rate_limit_exceeded", FailureKind.QUOTA, False),
        (429, "daily_rate_limit_exceeded", FailureKind.QUOTA, False),
        (429, "insufficient_quota", FailureKind.USER, False),
        (500, None, FailureKind.TRANSIENT, True),
        (502, None, FailureKind.TRANSIENT, True),
        (503, None, FailureKind.TRANSIENT, True),
        (418, None, FailureKind.TRANSIENT, True),
    ],
)
def test_each_status_and_code_has_its_kind_of_failure(
    status: int, code: str | None, kind: FailureKind, ambiguous: bool
) -> None:
    rule = failures.rule_for(status_error(status, {"message": "m", "code": code}))
    assert (rule.kind, rule.ambiguous) == (kind, ambiguous)


def test_training_not_available_has_a_remedy() -> None:
    rule = failures.rule_for(status_error(403, {"message": "winding down", "code": "training_not_available"}))
    assert "sweep serve" in rule.remedy
    assert not rule.kind.retryable


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "3600"}, 3600.0),
        ({"retry-after": "1e400"}, None),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "-4"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after_in_seconds_and_milliseconds(headers: dict[str, str], seconds: float | None) -> None:
    assert failures.retry_after_s(headers) == seconds


def test_retry_after_as_a_date() -> None:
    now = time.time()
    wait_s = failures.retry_after_s({"retry-after": email.utils.formatdate(now + 500, usegmt=True)}, lambda: now)
    assert wait_s == pytest.approx(500, abs=1)


def test_a_daily_limit_asks_for_a_wait_of_at_least_an_hour() -> None:
    error = status_error(429, {"message": "daily", "code": "daily_rate_limit_exceeded"}, **{"retry-after": "2"})
    with pytest.raises(failures.HostError) as raised, failures.translated_errors(str, "creating"):
        raise error
    assert raised.value.wait_s == failures.DAILY_LIMIT_RETRY_S


def test_no_error_contains_the_key() -> None:
    key = "sk-0123456789"
    with pytest.raises(BackendError) as raised, failures.translated_errors(lambda t: t.replace(key, "<key>"), "asking"):
        raise status_error(401, {"message": f"Incorrect API key provided: {key}", "code": "invalid_api_key"})
    assert key not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__
    copy = pickle.loads(pickle.dumps(raised.value))
    assert copy.failure == raised.value.failure


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("invalid_training_file", FailureKind.USER),
        ("invalid_n_examples", FailureKind.USER),
        ("exceeded_quota", FailureKind.QUOTA),
        ("server_error", FailureKind.TRANSIENT),
        ("diverged", FailureKind.DIVERGED),
        ("out_of_memory", FailureKind.OUT_OF_MEMORY),
        ("something_new", FailureKind.BUG),
        (None, FailureKind.BUG),
    ],
)
def test_each_job_code_has_its_kind_of_failure(code: str | None, kind: FailureKind) -> None:
    failure = failures.job_failure(code, "the reason", "")
    assert failure.kind is kind
    assert "the reason" in failure.message
    assert code is None or code in failure.detail or failure.detail


def test_the_log_explains_a_job_that_fails_without_an_error() -> None:
    assert "moderation" in failures.job_failure(None, None, "moderation refused the file").message


@pytest.mark.parametrize(
    ("cause", "unsent"),
    [
        (httpx2.ConnectError("refused"), True),
        (httpx2.ConnectTimeout("no connection"), True),
        (httpx2.ReadTimeout("no answer"), False),
        (httpx2.RemoteProtocolError("cut"), False),
    ],
)
def test_a_call_without_a_connection_was_never_sent(cause: Exception, unsent: bool) -> None:
    error = openai.APIConnectionError(request=httpx2.Request("POST", "http://host/v1/chat/completions"))
    error.__cause__ = cause
    with pytest.raises(failures.HostError) as raised, failures.translated_errors(str, "asking"):
        raise error
    assert raised.value.unsent == unsent


def test_the_code_of_an_error_is_kept() -> None:
    with pytest.raises(failures.HostError) as raised, failures.translated_errors(str, "asking"):
        raise status_error(400, {"message": "m", "code": "content_filter"})
    assert raised.value.code == "content_filter"
