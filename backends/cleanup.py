"""The optional protocol of backends that can remove what their runs leave behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

ORPHANS = "orphaned processes"
"""The kind of leftover that nobody needs: processes of a run whose program is gone."""


@dataclass(frozen=True)
class Leftover:
    """A thing that the runs of a workspace have left behind.

    `kind` says in a word or two what it is (job, deployment, model, data file, ...). `name` is its
    name at the host, or its path. `key` is the key of its run; None if it belongs to several
    runs. `model` is the model that it is or serves, by the name that events use; None if it has
    nothing to do with a model. `size_bytes` is None if it is unknown. `needed` says who else
    needs it or why it cannot be removed; it is empty if it can go.
    """

    kind: str
    name: str
    key: str | None
    model: str | None = None
    size_bytes: int | None = None
    needed: str = ""


@runtime_checkable
class SupportsCleanup(Protocol):
    """A backend that can list the leftovers of its runs and remove them one by one.

    A backend lists only things that the runs of its own workspace have made. Both methods raise
    BackendError if the host or the disk cannot be reached; a later call continues.
    """

    def leftovers(self, others: Sequence[Path]) -> Sequence[Leftover]:
        """Return the leftovers in an order in which they can be removed. Changes nothing.

        `others` are the workspaces of other sweeps, which may use the same things: these are marked
        as `needed`.
        """
        ...

    def remove(self, leftover: Leftover) -> str:
        """Remove it.

        Return the reason why it still exists, or the empty string once it is gone. Idempotent.

        A leftover that is `needed` stays. If other workspaces need it, this workspace gives it up,
        so that only theirs use it from now on.
        """
        ...
