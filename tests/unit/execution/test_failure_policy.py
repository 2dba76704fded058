"""When like failures end a sweep."""

from __future__ import annotations

import pytest

from backends.contract import Failure, FailureKind
from sweeps.execution import failure_policy

pytestmark = pytest.mark.unit


def lost(job: str, hours: float) -> Failure:
    return Failure(FailureKind.LOST, f"job {job} has shown no sign of life for {hours:.1f} h (running)")


def test_failures_that_differ_in_names_and_numbers_only_are_alike() -> None:
    assert failure_policy.trips([lost("ftjob-a1", 2.0), lost("ftjob-b2", 2.1), lost("ftjob-c3", 2.0)])


def test_too_few_or_different_ones_are_not() -> None:
    first, second = lost("ftjob-a1", 2.0), lost("ftjob-b2", 2.1)
    assert not failure_policy.trips([first, second])
    assert not failure_policy.trips([first, Failure(FailureKind.LOST, "the job was deleted"), second])
    assert not failure_policy.trips([first, Failure(FailureKind.BUG, first.message), second])


def test_only_the_last_ones_count() -> None:
    other = Failure(FailureKind.OUT_OF_MEMORY, "too large")
    assert failure_policy.trips([other, *[lost(f"ftjob-{n}", 2.0) for n in range(3)]])
    assert not failure_policy.trips([*[lost(f"ftjob-{n}", 2.0) for n in range(3)], other])
