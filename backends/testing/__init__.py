"""The suite that every backend passes, for plugin authors too: subclass `BackendContract` and name the backend.

    from backends.testing import BackendContract

    class TestMine(BackendContract):
        backend_type = MyBackend

The hooks of `ContractSetting` say how to open it, on which model and data, and how long to wait; a service that is
polled fits as well as a trainer in this process. Needs pytest, and nothing else beyond the contract.

Assertions show their values without being asked to. This module itself holds none: PYTEST_DONT_REWRITE spares whoever
registers it for that nevertheless the warning that it comes too late.
"""

import pytest

# before they are imported: failures then show the values
pytest.register_assert_rewrite("backends.testing.declarations", "backends.testing.runs", "backends.testing.suite")

from backends.testing.runs import CompleteRun, drain, evaluations, read_until, write_jsonl, written  # noqa: E402
from backends.testing.setting import LABELS, ContractSetting  # noqa: E402
from backends.testing.suite import BackendContract  # noqa: E402

__all__ = [
    "LABELS",
    "BackendContract",
    "CompleteRun",
    "ContractSetting",
    "drain",
    "evaluations",
    "read_until",
    "write_jsonl",
    "written",
]
