"""Skips the tests marked `slow`, and reports them as skipped, unless SWEEP_TEST_SLOW is set.

Puts back the loggers that a sweep in the process of a test has redirected into its own log.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator

import pytest

from sweeps.execution.library_logs import REDIRECTED_LOGGERS

# Ray runs its workers at a low priority, so tests in other processes would starve them.
os.environ.setdefault("RAY_worker_niceness", "0")

SKIPPED = pytest.mark.skip(reason="slow: SWEEP_TEST_SLOW=1 runs it")


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    if "SWEEP_TEST_SLOW" in os.environ:
        return
    for item in items:
        if item.get_closest_marker("slow") is not None:
            item.add_marker(SKIPPED)


@pytest.fixture(autouse=True)
def _restored_loggers() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in REDIRECTED_LOGGERS]
    before = [(logger, logger.handlers[:], logger.propagate) for logger in loggers]
    yield
    for logger, handlers, propagates in before:
        for handler in set(logger.handlers) - set(handlers):
            handler.close()
        logger.handlers[:], logger.propagate = handlers, propagates
