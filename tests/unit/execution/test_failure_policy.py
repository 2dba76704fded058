"""When similar failures end a sweep."""

from __future__ import annotations

import pytest

from backends.contract import Failure, FailureKind
from sweeps.execution.failure_policy import ends_sweep

pytestmark = pytest.mark.unit


def lost(job: str, hours: float) -> Failure:
    return Failure(FailureKind.LOST, f"job {job} has shown no sign of life for {hours:.1f} h (running)")


def test_failures_that_differ_only_in_names_and_numbers_are_similar() -> None:
    assert ends_sweep([lost("ftjob-a1", 2.0), lost("ftjob-b2", 2.1), lost("ftjob-c3", 2.0)])


def test_too_few_or_different_failures_do_not_end_the_sweep() -> None:
    first, second = lost("ftjob-a1", 2.0), lost("ftjob-b2", 2.1)
    assert not ends_sweep([first, second])
    assert not ends_sweep([first, Failure(FailureKind.LOST, "the job was deleted"), second])
    assert not ends_sweep([first, Failure(FailureKind.BUG, first.message), second])


def test_only_the_last_failures_count() -> None:
    other = Failure(FailureKind.OUT_OF_MEMORY, "too large")
    assert ends_sweep([other, *[lost(f"ftjob-{index}", 2.0) for index in range(3)]])
    assert not ends_sweep([*[lost(f"ftjob-{index}", 2.0) for index in range(3)], other])
