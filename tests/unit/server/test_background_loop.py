"""A background thread survives every error of its work."""

from __future__ import annotations

import threading

import pytest

from sweeps.server.background_loop import BackgroundLoop

pytestmark = pytest.mark.unit


def test_no_error_ends_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    errors: list[Exception] = [
        KeyError("a"),
        OSError(28, "No space left on device"),
        RuntimeError("b"),
        ValueError("c"),
    ]
    done = threading.Event()

    first_errors = [TypeError("first")]

    def first() -> None:
        if first_errors:
            raise first_errors.pop()

    def work() -> None:
        if errors:
            raise errors.pop()
        done.set()

    loop = BackgroundLoop("worker", work, pause_s=0.001, first=first)
    loop.start()
    assert done.wait(60)
    loop.close()
    assert [record.exc_info is not None for record in caplog.records] == [True, True, True, False, True]
    assert "No space left on device" in caplog.text


def test_close_does_not_wait_for_the_pause_after_an_error() -> None:
    failed = threading.Event()

    def work() -> None:
        failed.set()
        raise ValueError("always")

    loop = BackgroundLoop("worker", work, pause_s=10_000.0)
    loop.start()
    assert failed.wait(60)
    loop.close()
