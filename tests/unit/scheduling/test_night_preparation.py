"""A night waits for a backend that is out of reach, and for nothing else."""

from __future__ import annotations

import pytest
from plans_by_hand import plan

from sweeps.errors import SweepError
from sweeps.planning.gathering import BackendOutOfReachError
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.scheduling.night_preparation import PATIENCE_S, with_patience

pytestmark = pytest.mark.unit


class Outage:
    """A virtual clock, and a planner that fails until `ends_at`."""

    def __init__(self, ends_at: float, error: SweepError) -> None:
        self.now = 0.0
        self.ends_at = ends_at
        self.error = error
        self.said: list[str] = []

    def make_plan(self) -> SweepPlan:
        if self.now < self.ends_at:
            raise self.error
        return plan()

    def sleep(self, duration_s: float) -> None:
        self.now += duration_s

    def planned(self) -> SweepPlan:
        return with_patience(self.make_plan, self.said.append, lambda: self.now, self.sleep)


def test_a_night_outlasts_an_outage_and_says_so() -> None:
    outage = Outage(600, BackendOutOfReachError("the host gives no answer"))
    assert outage.planned().spec.name == "pairs"
    assert 600 <= outage.now < 700
    assert set(outage.said) == {"the host gives no answer; trying again in 60 s"}


def test_its_patience_ends() -> None:
    outage = Outage(1e9, BackendOutOfReachError("the host gives no answer"))
    with pytest.raises(BackendOutOfReachError):
        outage.planned()
    assert PATIENCE_S <= outage.now <= PATIENCE_S + 120


def test_another_error_is_raised_at_once() -> None:
    outage = Outage(600, SweepError("no such file"))
    with pytest.raises(SweepError, match="no such file"):
        outage.planned()
    assert outage.now == 0
