"""The optional protocol of backends whose runs can pause while no sweep runs."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class SupportsPausing(Protocol):
    """A backend whose runs occupy the machine, and can give it back without coming to an end."""

    def pause(self, key: str) -> None:
        """Let the run of this key stop training soon, and give back what it occupies.

        Its events stay, and none is added. The next `submit` of the key continues the run: from its
        last checkpoint, or else from the beginning. Does nothing if the run has ended, or if there
        is none. Idempotent.
        """
        ...
