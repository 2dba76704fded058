"""The suite that every backend passes, for plugin authors too: subclass `BackendContract` and name the backend.

    import pytest
    pytest.register_assert_rewrite("backends.testing")  # before the import: failures then show the values
    from backends.testing import BackendContract

    class TestMine(BackendContract):
        backend_type = MyBackend

The hooks of `ContractSetting` say how to open it, on which model and data, and how long to wait; a service that is
polled fits as well as a trainer in this process. Needs pytest, and nothing else beyond the contract.
"""

from backends.testing.runs import CompleteRun, drain, evaluations, read_until, write_jsonl, written
from backends.testing.setting import LABELS, ContractSetting
from backends.testing.suite import BackendContract

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
