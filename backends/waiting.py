"""The optional protocol of backends whose runs may have to wait for a long time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from backends.contract import Handle


@dataclass(frozen=True)
class Waiting:
    """A run makes no progress before `until` (seconds since the Unix epoch).

    `reason` says why, in words.
    """

    reason: str
    until: float


@runtime_checkable
class SupportsWaiting(Protocol):
    """A backend that knows when a run has to wait, as for an account limit."""

    def waiting(self, handle: Handle) -> Waiting | None:
        """Return why a run waits now, or None if it does not wait, or only briefly.

        Sends no request.
        """
        ...
