"""A judge at a chat endpoint of this machine, and what it is asked to measure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_host import LINES, PREDICTIONS, PRICE, Judged, JudgeHost, Measure
from scripted_host import serving

from backends.contract import MetricRequest
from backends.metrics.measurement import Measurement, MetricSet
from backends.metrics.requested_metric import prepared


@pytest.fixture
def host() -> JudgeHost:
    """The endpoint."""
    return JudgeHost()


@pytest.fixture
def address(host: JudgeHost) -> Iterator[str]:
    """Its address."""
    with serving(host) as address:  # type: ignore[arg-type]
        yield address


@pytest.fixture
def judged(address: str, tmp_path: Path) -> Judged:
    """Return the request for the judge, with other options on demand."""

    def request(**changes: Any) -> MetricRequest:
        options = {
            "host": address,
            "model": "judge-1",
            "rubric": "Is it right?",
            "price_per_million_tokens": PRICE,
            "timeout_s": 20,
            "patience_s": 0,
            **changes,
        }
        return prepared(MetricRequest("judge", "judge", options), tmp_path)

    return request


@pytest.fixture
def measure(judged: Judged, tmp_path: Path) -> Measure:
    """Measure twelve answers, or fewer."""

    def call(workspace: str = "workspace", count: int = 12, **changes: Any) -> Measurement:
        with MetricSet.open([judged(**changes)], tmp_path / workspace) as metrics:
            return metrics.measure(PREDICTIONS[:count], LINES[:count])

    return call
