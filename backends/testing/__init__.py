"""The test suite that every backend passes. Plugin authors subclass `BackendContract`:

    from backends.testing import BackendContract

    class TestMine(BackendContract):
        backend_type = MyBackend

The hooks of `ContractFixtures` define how to open the backend, on which model and data, and how
long to wait. They fit both a service that is polled and a trainer in this process. The suite needs
pytest and nothing else beyond the contract.

pytest rewrites the assertions of the suite, so that failures show the values. This module contains
no assertion: PYTEST_DONT_REWRITE avoids pytest's warning that a rewrite comes too late, for
projects that register this module themselves.
"""

import pytest

# Register the modules before they are imported: only then does pytest rewrite their assertions.
pytest.register_assert_rewrite("backends.testing.declarations", "backends.testing.runs", "backends.testing.suite")

from backends.testing.fixtures import LABELS, ContractFixtures  # noqa: E402
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
    "drain",
    "evaluations",
    "events_as_text",
    "read_until",
    "write_jsonl",
]
