"""The driver's backend of a sweep with a store: fetches a trained model on its first use."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from backends.contract import (
    Backend,
    BackendError,
    Capabilities,
    Dataset,
    Estimate,
    Event,
    Failure,
    FailureKind,
    Handle,
    Placement,
    Prediction,
    PredictOptions,
    TrainingRequest,
)
from backends.model_packages import ModelPackage, SupportsPackaging
from backends.relocation import SupportsRelocation
from sweeps.errors import SweepError
from sweeps.file_store.run_archive import RunArchive
from sweeps.file_store.store import FileStore

KeptModels = Callable[[], Iterable[tuple[str, Handle]]]
"""The models that the record of the sweep names, each with the handle of its run."""


def with_stored_models(backend: Backend, store: FileStore, folder: Path, kept_models: KeptModels) -> StoredModels:
    """Return a backend that finds in the store what `backend` lacks in `folder`, its workspace."""
    if isinstance(backend, SupportsPackaging):
        return PackagedStoredModels(backend, store, folder, kept_models)
    return StoredModels(backend, store, folder, kept_models)


class StoredModels:
    """A backend whose runs train on other machines, and whose models lie in a store.

    A model is fetched on its first use, to the path by which the events name it.
    """

    options_model: ClassVar[type[BaseModel]] = BaseModel

    def __init__(self, backend: Backend, store: FileStore, folder: Path, kept_models: KeptModels) -> None:
        self.capabilities: Capabilities = backend.capabilities
        self._backend, self._store, self._folder = backend, store, folder
        self._kept_models = kept_models

    @classmethod
    def describe(cls, options: BaseModel) -> Capabilities:
        """Not supported: the class of the wrapped backend describes itself."""
        raise NotImplementedError

    @classmethod
    def open(cls, options: BaseModel, workspace: Path, placement: Placement) -> Backend:
        """Not supported: see `with_stored_models`."""
        raise NotImplementedError

    def check(self, request: TrainingRequest) -> Sequence[Failure]:
        return self._backend.check(request)

    def estimate(self, request: TrainingRequest) -> Estimate:
        return self._backend.estimate(request)

    def submit(self, request: TrainingRequest) -> Handle:
        return self._backend.submit(request)

    def events(self, handle: Handle, after: int) -> Sequence[Event]:
        return self._backend.events(handle, after)

    def stop(self, handle: Handle) -> None:
        """Do nothing: the worker that trained the run has stopped it."""

    def predict(
        self, model: str, prompts: Sequence[Mapping[str, Any]], options: PredictOptions
    ) -> Sequence[Prediction]:
        """Fetch the model if it is in the store, and answer the prompts."""
        self.fetch(model)
        return self._backend.predict(model, prompts, options)

    def discard(self, handle: Handle) -> None:
        """Delete the checkpoint and the model of a run in the store, and the copy here."""
        with as_backend_errors():
            RunArchive(self._store, handle.id).discard()
        if isinstance(self._backend, SupportsRelocation):
            self._backend.forget(handle)

    def fetch(self, model: str) -> None:
        """Fetch a trained model unless it is here.

        Other names, such as those of base models, are left alone. Raises BackendError (lost) if the
        store does not have it.
        """
        path = Path(model)
        if path.exists() or not path.is_absolute() or not path.is_relative_to(self._folder):
            return
        handle = next((handle for kept, handle in self._kept_models() if kept == model), None)
        with as_backend_errors():
            if handle is None or not RunArchive(self._store, handle.id).fetch_model(path, self._folder):
                message = f"the store {self._store.url} has no model {path.relative_to(self._folder)}"
                raise BackendError(Failure(FailureKind.LOST, message, "run the sweep again with --fresh"))

    def close(self) -> None:
        self._backend.close()


class PackagedStoredModels(StoredModels):
    """The same for a backend that can package its models."""

    def package(self, model: str, dataset: Dataset, folder: Path) -> ModelPackage:
        """Fetch the model if it is in the store, and package it."""
        self.fetch(model)
        assert isinstance(self._backend, SupportsPackaging)
        return self._backend.package(model, dataset, folder)


@contextlib.contextmanager
def as_backend_errors() -> Iterator[None]:
    """Let errors of the store leave as those of a backend."""
    try:
        yield
    except SweepError as error:
        raise BackendError(Failure(FailureKind.TRANSIENT, error.message, error.hint)) from error
