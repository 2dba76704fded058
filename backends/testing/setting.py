"""How the suite opens a backend, and on which data: the hooks that a subclass overrides."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from backends.contract import Backend, Dataset, EvaluationSettings, Placement, Scalar, TrainingRequest
from backends.testing.runs import CompleteRun, drain, write_jsonl

LABELS = (" red", " green", " blue")
"""The completions of the default data set."""


class ContractSetting:
    """The hooks, and the fixtures that follow from them."""

    backend_type: ClassVar[type[Backend]]
    """The class under test."""
    base_model: ClassVar[str] = "contract-model"
    """A small model that the backend can train."""
    hyperparameters: ClassVar[Mapping[str, Scalar]] = {"n_epochs": 2}
    """A good, quick point. `n_epochs` must be in it."""
    long_epochs: ClassVar[int | None] = 50
    """Epochs enough for a run not to end between its first measurement and a stop; None where there is no between."""
    deterministic: ClassVar[bool] = True
    """Whether the same seed promises the same measurements."""
    timeout_s: ClassVar[float] = 120.0
    """How long a run of the small point may take."""

    _complete: ClassVar[CompleteRun]
    _dataset: ClassVar[Dataset]

    # ------------------------------------------------------------------------------------------------------------ hooks
    def options(self) -> Mapping[str, Any]:
        """Return the YAML's `backend:` mapping without `type`; JSON values only."""
        return {}

    def open_backend(self, workspace: Path) -> Backend:
        """Open the backend as a sweep does."""
        options = self.backend_type.options_model.model_validate(self.options())
        return self.backend_type.open(options, workspace, Placement())

    def write_dataset(self, directory: Path) -> Dataset:
        """Write the data set: three labels, 24 examples to train on and 12 to validate."""

        def lines(count: int, offset: int) -> list[dict[str, Any]]:
            labels = [LABELS[n % len(LABELS)] for n in range(count)]
            texts = [f"thing {n + offset} looks{label}" for n, label in enumerate(labels)]
            return [
                {"prompt": f"{text}\n\n###\n\n", "completion": label, "segments": [text]}
                for text, label in zip(texts, labels, strict=True)
            ]

        train, valid = lines(24, 0), lines(12, 100)
        return Dataset(
            train=write_jsonl(directory / "train.jsonl", train),
            valid=write_jsonl(directory / "valid.jsonl", valid),
            layout="completion",
            labels=LABELS,
        )

    def request_(self, key: str, **changes: Any) -> TrainingRequest:
        """Return a small, good request; `changes` replace its fields."""
        fields: dict[str, Any] = {
            "base_model": self.base_model,
            "dataset": self._dataset,
            "hyperparameters": dict(self.hyperparameters),
            "seed": 7,
            "evaluation": EvaluationSettings(train_examples=8),
        }
        return TrainingRequest(key=key, **{**fields, **changes})

    # --------------------------------------------------------------------------------------------------------- fixtures
    @pytest.fixture(autouse=True)
    def dataset(self, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
        """The data set, written once a class."""
        if "_dataset" not in type(self).__dict__:
            type(self)._dataset = self.write_dataset(tmp_path_factory.mktemp("data"))
        return type(self)._dataset

    @pytest.fixture
    def complete(self, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> CompleteRun:
        """One run of the good request, driven to its end once a class."""
        if "_complete" not in type(self).__dict__:
            type(self)._complete = self.run(tmp_path_factory.mktemp("complete"), self.request_(self.key()))
        return type(self)._complete

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[Backend]:
        """An open backend on an empty workspace."""
        backend = self.open_backend(tmp_path / "workspace")
        yield backend
        backend.close()

    @pytest.fixture
    def reopened(self, complete: CompleteRun) -> Iterator[Backend]:
        """A fresh instance on the workspace of the complete run."""
        backend = self.open_backend(complete.workspace)
        yield backend
        backend.close()

    def key(self) -> str:
        """Return a new key: a service may remember the keys of earlier test runs."""
        return f"contract-{secrets.token_hex(6)}"

    def run(self, workspace: Path, request: TrainingRequest) -> CompleteRun:
        """Drive a request to its end and close the instance."""
        backend = self.open_backend(workspace)
        try:
            handle = backend.submit(request)
            return CompleteRun(workspace, request, handle, tuple(drain(backend, handle, self.timeout_s)))
        finally:
            backend.close()
