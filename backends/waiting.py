"""What a run is waiting for: something that a backend may offer beside the contract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from backends.contract import Handle


@dataclass(frozen=True)
class Waiting:
    """A run goes no further before `until` (seconds since the Unix epoch), for a reason in words."""

    reason: str
    until: float


@runtime_checkable
class Waiter(Protocol):
    """A backend whose runs may have to wait for long: for a limit of an account, for a host that is out of reach."""

    def waiting(self, handle: Handle) -> Waiting | None:
        """Return what a run waits for now, None where it does not, or not for long. Asks nobody."""
        ...
