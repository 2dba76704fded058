"""Skips the tests marked `slow`, and reports them as skipped, unless SWEEP_TEST_SLOW is set."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest

SKIPPED = pytest.mark.skip(reason="slow: SWEEP_TEST_SLOW=1 runs it")


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    if "SWEEP_TEST_SLOW" in os.environ:
        return
    for item in items:
        if item.get_closest_marker("slow") is not None:
            item.add_marker(SKIPPED)
