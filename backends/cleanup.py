"""What runs have left behind, and removing it: something that a backend may offer beside the contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Remnant:
    """Something that the runs of a workspace have left.

    `kind` says in a word or two what it is (job, deployment, model, data file, ...) and `name` what it is called where
    it is. `key` is that of the run that it belongs to, None where it belongs to several. `model` is the model that it
    is or serves, as events name it; None where it has to do with none. `size_bytes` is None where nobody says.
    `needed` says who else needs it, or why it cannot be removed; it is empty where nothing speaks against that.
    """

    kind: str
    name: str
    key: str | None
    model: str | None = None
    size_bytes: int | None = None
    needed: str = ""


@runtime_checkable
class Cleaner(Protocol):
    """A backend whose runs leave things behind that can be listed and removed one by one. Not every backend is one.

    Only what the workspace's own runs have made is ever listed. Both methods raise BackendError where the place cannot
    be reached; calling them again then goes on.
    """

    def remnants(self, others: Sequence[Path]) -> Sequence[Remnant]:
        """Return what is left, in an order in which it can be removed. Changes nothing.

        `others` are the workspaces of other sweeps, which may use the same things: what they do use is `needed`.
        """
        ...

    def remove(self, remnant: Remnant) -> str:
        """Remove it. Returns why it is still there, the empty string where it is gone. Idempotent.

        What is `needed` stays; but where other workspaces need it, this one lets go of it, so that it is theirs alone.
        """
        ...
