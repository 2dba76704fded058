"""A scripted host and hosted backends for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hosted_world import HostedWorld


@pytest.fixture
def world(tmp_path: Path) -> Iterator[HostedWorld]:
    world = HostedWorld(tmp_path)
    yield world
    world.close()
