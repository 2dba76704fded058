"""The test suites that every backend and every metric passes. Plugin authors subclass one:

    from backends.testing import BackendContract

    class TestMine(BackendContract):
        backend_type = MyBackend

    class TestMyMetric(MetricContract):
        metric_type = MyMetric

The hooks of `ContractFixtures` define how to open the backend, on which model and data, and how
long to wait. They fit both a service that is polled and a trainer in this process. The hooks of
`MetricContract` define its options, and right and wrong answers. The suites need pytest and nothing
else beyond the contracts.

pytest rewrites the assertions of the suites, so that failures show the values. This module contains
no assertion: PYTEST_DONT_REWRITE avoids pytest's warning that a rewrite comes too late, for
projects that register this module themselves.
"""

import pytest

# Register the modules before they are imported: only then does pytest rewrite their assertions.
pytest.register_assert_rewrite(
    "backends.testing.declarations", "backends.testing.metric_suite", "backends.testing.runs", "backends.testing.suite"
)

from backends.testing.fixtures import LABELS, ContractFixtures  # noqa: E402
from backends.testing.metric_suite import MetricContract  # noqa: E402
from backends.testing.runs import (  # noqa: E402
    CompletedRun,
    drain,
    evaluations,
    events_as_text,
    read_until,
    write_jsonl,
)
from backends.testing.suite import BackendContract  # noqa: E402

__all__ = [
    "LABELS",
    "BackendContract",
    "CompletedRun",
    "ContractFixtures",
    "MetricContract",
    "drain",
    "evaluations",
    "events_as_text",
    "read_until",
    "write_jsonl",
]
