"""Which tests share a process when they run in several: those of a file, which may share fixtures."""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests together, unless the file says that they share nothing."""
    for each in items:
        if each.get_closest_marker("spread") is None:
            each.add_marker(pytest.mark.xdist_group(each.location[0]))
