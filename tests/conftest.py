"""What holds for all tests: those marked `slow` are skipped, and reported so, unless SWEEP_TEST_SLOW is set."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest

SKIPPED = pytest.mark.skip(reason="slow: SWEEP_TEST_SLOW=1 runs it")


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    if "SWEEP_TEST_SLOW" in os.environ:
        return
    for each in items:
        if each.get_closest_marker("slow") is not None:
            each.add_marker(SKIPPED)
