"""The hooks that say how the suite opens a backend and on which data, and the fixtures."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from backends.contract import Backend, Dataset, EvaluationSettings, Placement, Scalar, TrainingRequest
from backends.testing.runs import CompletedRun, drain, write_jsonl

LABELS = (" red", " green", " blue")
"""The completions of the default data set."""


class ContractFixtures:
    """The hooks, and the fixtures that use them."""

    backend_type: ClassVar[type[Backend]]
    """The class under test."""
    base_model: ClassVar[str] = "contract-model"
    """A small model that the backend can train."""
    hyperparameters: ClassVar[Mapping[str, Scalar]] = {"n_epochs": 2}
    """A valid point that trains quickly. It must contain `n_epochs`."""
    long_epochs: ClassVar[int | None] = 50
    """Enough epochs that a run does not end between its first measurement and a stop. None if a
    run cannot be stopped in between."""
    deterministic: ClassVar[bool] = True
    """Whether the backend promises the same measurements for the same seed."""
    deterministic_texts: ClassVar[bool] = True
    """Whether equal runs of such a backend also generate the same texts."""
    timeout_s: ClassVar[float] = 120.0
    """The longest time that a run of `hyperparameters` may take."""

    _completed_run: ClassVar[CompletedRun]
    _dataset: ClassVar[Dataset]

    # ---------------------------------------------------------------------------------------- hooks
    def options(self) -> Mapping[str, Any]:
        """Return the YAML's `backend:` mapping without `type`; JSON values only."""
        return {}

    def open_backend(self, workspace: Path) -> Backend:
        """Open the backend as a sweep does."""
        options = self.backend_type.options_model.model_validate(self.options())
        return self.backend_type.open(options, workspace, Placement())

    def write_dataset(self, directory: Path) -> Dataset:
        """Write the data set: three labels, 24 training examples and 12 validation examples."""

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

    def training_request(self, key: str, **changes: Any) -> TrainingRequest:
        """Return a small, valid request. `changes` replace its fields."""
        fields: dict[str, Any] = {
            "base_model": self.base_model,
            "dataset": self._dataset,
            "hyperparameters": dict(self.hyperparameters),
            "seed": 7,
            "evaluation": EvaluationSettings(train_examples=8),
        }
        return TrainingRequest(key=key, **{**fields, **changes})

    # ------------------------------------------------------------------------------------- fixtures
    @pytest.fixture(autouse=True)
    def dataset(self, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
        """The data set, written once per class."""
        if "_dataset" not in type(self).__dict__:
            type(self)._dataset = self.write_dataset(tmp_path_factory.mktemp("data"))
        return type(self)._dataset

    @pytest.fixture
    def completed_run(self, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> CompletedRun:
        """One run of the valid request, driven to its end once per class."""
        if "_completed_run" not in type(self).__dict__:
            workspace = tmp_path_factory.mktemp("completed")
            type(self)._completed_run = self.run(workspace, self.training_request(self.key()))
        return type(self)._completed_run

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[Backend]:
        """An open backend with an empty workspace."""
        backend = self.open_backend(tmp_path / "workspace")
        yield backend
        backend.close()

    @pytest.fixture
    def reopened_backend(self, completed_run: CompletedRun) -> Iterator[Backend]:
        """A new instance with the workspace of the completed run."""
        backend = self.open_backend(completed_run.workspace)
        yield backend
        backend.close()

    def key(self) -> str:
        """Return a new key, because a service may remember the keys of earlier test runs."""
        return f"contract-{secrets.token_hex(6)}"

    def run(self, workspace: Path, request: TrainingRequest) -> CompletedRun:
        """Drive a request to its end and close the backend."""
        backend = self.open_backend(workspace)
        try:
            handle = backend.submit(request)
            return CompletedRun(workspace, request, handle, tuple(drain(backend, handle, self.timeout_s)))
        finally:
            backend.close()
