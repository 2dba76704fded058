"""The fake backend passes the contract suite: at once, event by event, and in real time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from backends.fake import FakeBackend
from backends.testing import BackendContract

pytestmark = pytest.mark.contract


class TestFakeAtOnce(BackendContract):
    backend_type = FakeBackend
    base_model = "fake-small"
    timeout_s = 10
    long_epochs = None  # the first call of `events` returns the end


class TestFakeEventByEvent(BackendContract):
    backend_type = FakeBackend
    base_model = "fake-small"
    timeout_s = 10

    def options(self) -> Mapping[str, Any]:
        return {"events_per_poll": 1, "price_usd_per_token": 1e-5}


class TestFakeInRealTime(BackendContract):
    backend_type = FakeBackend
    base_model = "fake-large"
    timeout_s = 10

    def options(self) -> Mapping[str, Any]:
        return {"seconds_per_epoch": 0.02}
