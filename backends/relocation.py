"""The optional protocol of in-process backends whose runs can continue on another machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from backends.contract import Handle


@dataclass(frozen=True)
class ResumePoint:
    """Where a run can continue.

    `files` are the files that this takes, as absolute paths below the workspace. `stamp` changes
    whenever there is a later point.
    """

    stamp: str
    files: tuple[Path, ...]


@runtime_checkable
class SupportsRelocation(Protocol):
    """A backend that can continue a run in another workspace, from a copy of a few files.

    The files are copied to the same relative paths of the other workspace before `submit` is called
    there. The events of the run then continue after those up to the copied point, which stay the
    same except for the path of the workspace in the names of models.
    """

    def run_of(self, key: str) -> Handle:
        """Return the handle that `submit` returns for a request with this key. Changes nothing."""
        ...

    def resume_point(self, handle: Handle) -> ResumePoint | None:
        """Return the last point from which the run can continue, or None if it must start anew.

        The caller is the process that trains the run, between two calls of `events`, so that the
        files do not change while it copies them. For a run that has ended, they are what `events`
        needs.
        """
        ...

    def forget(self, handle: Handle) -> None:
        """Delete everything that this workspace has of the run. Idempotent.

        The run must not be training here. Other copies stay.
        """
        ...
