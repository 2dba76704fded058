"""The backend behind a server: its options, its capabilities by base model, how to open it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from backends.contract import Backend, Capabilities, Placement
from sweeps.server.settings import ServerSettings
from sweeps.server.worker_messages import WorkerSetup


class TrainingBackend:
    """The backend of a server, with validated options. Nothing is opened before `open`.

    Raises pydantic.ValidationError if the options do not fit the backend.
    """

    def __init__(self, settings: ServerSettings, backend_class: type[Backend], workspace: Path) -> None:
        self._class, self._settings, self._workspace = backend_class, settings, workspace
        first_model = next(iter(settings.models.values()), None)
        self._options = self._options_for(first_model)
        self.capabilities = backend_class.describe(self._options)
        self._capabilities_by_model = {
            name: backend_class.describe(self._options_for(target)) for name, target in settings.models.items()
        }
        limit = self.capabilities.max_concurrent
        self.max_jobs = settings.max_jobs or (1 if self.capabilities.in_process else min(limit or 8, 8))

    def _options_for(self, model: str | None) -> Any:
        values = dict(self._settings.options)
        if model is not None and "model" in self._class.options_model.model_fields:
            values["model"] = model
        return self._class.options_model.model_validate(values)

    def capabilities_for(self, base_model: str) -> Capabilities:
        """Return what the backend can do with a base model, given its public name."""
        return self._capabilities_by_model.get(base_model, self.capabilities)

    @property
    def placement(self) -> Placement:
        """What one job may occupy: this machine's cores, divided by the concurrent jobs."""
        return Placement(cpus=max(1.0, _usable_cores() // self.max_jobs))

    def open(self) -> Backend:
        """Connect to the backend. Every job uses its own connection; the caller closes it."""
        self._workspace.mkdir(parents=True, exist_ok=True)
        return self._class.open(self._options, self._workspace, self.placement)

    def worker_setup(self) -> WorkerSetup:
        """Return the message by which a worker process opens the same backend."""
        return WorkerSetup(
            backend=self._settings.backend,
            options=self._options.model_dump(mode="json"),
            workspace=str(self._workspace),
            placement=self.placement,
        )


def _usable_cores() -> int:
    """Return how many cores this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
