"""The optional protocol of backends whose runs are programs that print something."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable


@runtime_checkable
class SupportsProgramOutput(Protocol):
    """A backend that keeps what the program of each run prints."""

    @classmethod
    def output_file(cls, workspace: Path, key: str) -> Path:
        """Return the file with the output of the run of this key.

        The file grows while the program runs. It does not exist before the program starts. Neither
        reads nor writes anything.
        """
        ...
