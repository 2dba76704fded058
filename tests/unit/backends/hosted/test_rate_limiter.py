"""Rate limiting and retries of calls to a host."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.contract import Failure, FailureKind
from backends.hosted import rate_limiter
from backends.hosted.failures import HostError
from backends.hosted.rate_limiter import RateLimiter

pytestmark = pytest.mark.unit


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def failing(*errors: HostError | None) -> Callable[[], str]:
    """A call that raises these errors one after the other, and then returns."""
    remaining = list(errors)

    def call() -> str:
        error = remaining.pop(0) if remaining else None
        if error is not None:
            raise error
        return "answer"

    return call


def error(kind: FailureKind, wait_s: float | None = None) -> HostError:
    return HostError(Failure(kind, "m"), ambiguous=False, wait_s=wait_s, status=None)


@given(st.integers(1, 60), st.one_of(st.none(), st.floats(0, 1e6)))
def test_a_backoff_is_never_shorter_than_the_host_requests(failures: int, requested_s: float | None) -> None:
    backoff_s = rate_limiter.backoff_s(failures, requested_s)
    assert backoff_s >= (requested_s or 0.0)
    assert backoff_s >= rate_limiter.FIRST_BACKOFF_S
    assert backoff_s <= max(rate_limiter.MAX_BACKOFF_S, requested_s or 0.0)


def test_a_long_wait_that_the_host_requests_does_not_count_against_the_patience() -> None:
    clock = Clock()
    limiter = RateLimiter(10.0, None, clock, clock.sleep)
    assert limiter.with_retries(failing(error(FailureKind.QUOTA, 3600.0))) == "answer"
    assert clock.now >= 4600.0


def test_retries_end_when_the_patience_is_used_up() -> None:
    clock = Clock()
    limiter = RateLimiter(30.0, None, clock, clock.sleep)
    with pytest.raises(HostError):
        limiter.with_retries(failing(*[error(FailureKind.TRANSIENT)] * 50))
    assert clock.now < 1000.0 + 60


def test_an_error_that_is_not_retryable_is_raised_at_once() -> None:
    clock = Clock()
    with pytest.raises(HostError):
        RateLimiter(30.0, None, clock, clock.sleep).with_retries(failing(error(FailureKind.USER)))
    assert clock.now == 1000.0


def test_calls_keep_the_rate() -> None:
    clock = Clock()
    limiter = RateLimiter(30.0, 30.0, clock, clock.sleep)
    for _ in range(10):
        limiter.with_retries(failing())
    assert clock.now == pytest.approx(1000.0 + 9 * 2.0)
