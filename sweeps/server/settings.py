"""What a server is started with, and the backend behind it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.contract import Backend, Capabilities, Placement
from sweeps.server.datasets import MIN_EXAMPLES

DEFAULT_MODELS: Mapping[str, Mapping[str, str]] = {
    "local": {"tiny-lm": "builtin:tiny-lm"},
    "fake": {"fake-small": "fake-small", "fake-large": "fake-large"},
}
"""The base models that are offered where nobody names any: public name -> what the backend calls it."""

MIB = 2**20


@dataclass(frozen=True)
class ServerSettings:
    """What a server is started with. `models`: public name -> what the backend calls it.

    `local_only`: it listens where only this machine reaches it.
    """

    root: Path
    backend: str
    models: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    max_jobs: int | None = None
    keys: tuple[str, ...] = field(default=(), repr=False)
    webhook: str | None = None
    webhook_secret: str | None = field(default=None, repr=False)
    faults: str = ""
    min_examples: int = MIN_EXAMPLES
    kept_checkpoints: int = 3
    max_file_bytes: int = 512 * MIB
    max_body_bytes: int = 16 * MIB
    organization: str = "org-local"
    local_only: bool = False


class Trainer:
    """The backend of a server: how to open it, and what it can do with each base model."""

    def __init__(self, settings: ServerSettings, type_: type[Backend]) -> None:
        self._type = type_
        self._settings = settings
        self.workspace = settings.root / "backend"
        first = next(iter(settings.models.values()), None)
        self._options = self._validated(first)
        self.capabilities = type_.describe(self._options)
        self._by_model = {name: type_.describe(self._validated(target)) for name, target in settings.models.items()}
        limit = self.capabilities.max_concurrent
        default = 1 if self.capabilities.in_process else min(limit or 8, 8)
        self.max_jobs = settings.max_jobs or default

    def _validated(self, model: str | None) -> Any:
        fields = self._type.options_model.model_fields
        values = dict(self._settings.options)
        if model is not None and "model" in fields:
            values["model"] = model
        return self._type.options_model.model_validate(values)

    def capabilities_for(self, model: str) -> Capabilities:
        """Return what can be done with a base model, by its public name."""
        return self._by_model.get(model, self.capabilities)

    @property
    def placement(self) -> Placement:
        """What one job may occupy: the machine's cores, divided by the jobs that run at once."""
        return Placement(cpus=max(1.0, _cores() // self.max_jobs))

    def open(self) -> Backend:
        """Connect to the backend. Every job has a connection of its own."""
        self.workspace.mkdir(parents=True, exist_ok=True)
        return self._type.open(self._options, self.workspace, self.placement)

    def place(self) -> dict[str, Any]:
        """Return the first line for a worker process, by which it opens the same backend."""
        placement = self.placement
        return {
            "backend": self._settings.backend,
            "options": self._options.model_dump(mode="json"),
            "workspace": str(self.workspace),
            "placement": {"cpus": placement.cpus, "gpus": placement.gpus},
        }


def _cores() -> int:
    """Return how many cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
