"""The forecast of a run: micro-batches that fit, runs that are refused, and the plan's numbers."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from backends.contract import (
    BackendError,
    Dataset,
    EvaluationSettings,
    Event,
    Failed,
    FailureKind,
    Finished,
    Measured,
    Placement,
    Scalar,
    Started,
    TrainingRequest,
)
from backends.guarded_backend import open_guarded
from backends.local import LocalBackend
from backends.local.memory import memory_of_a_run
from backends.local.options import LocalOptions
from backends.memory_forecast.forecast import SupportsMemoryForecast
from backends.memory_forecast.machine import machine_bytes
from backends.testing import drain

pytestmark = [pytest.mark.integration, pytest.mark.trains]

POINT: dict[str, Scalar] = {"n_epochs": 1, "batch_size": 4, "learning_rate": 1e-3}
NEXT_TO_NOTHING = Placement(cpus=1e-9)
"""A run that owns so small a share of the machine that nothing fits into its memory."""


def request_for(dataset: Dataset, **point: Scalar) -> TrainingRequest:
    return TrainingRequest("run", "", dataset, {**POINT, **point}, 7, EvaluationSettings(train_examples=8))


def opened(workspace: Path, model: Path, placement: Placement) -> LocalBackend:
    return LocalBackend.open(LocalOptions(model=str(model), device="cpu"), workspace, placement)


def run(workspace: Path, model: Path, dataset: Dataset, placement: Placement) -> list[Event]:
    backend = opened(workspace, model, placement)
    events = drain(backend, backend.submit(request_for(dataset)), timeout_s=120)
    backend.close()
    return events


def micro_batch_size(events: Sequence[Event]) -> Scalar:
    return next(event for event in events if isinstance(event, Started)).resolved["micro_batch_size"]


def values(events: Sequence[Event]) -> list[float]:
    measurements = [event for event in events if isinstance(event, Measured) and event.scope == "evaluation"]
    return [value for measurement in measurements for _, value in sorted(measurement.values.items())]


def test_a_run_with_little_memory_accumulates_and_has_the_same_result(
    llama: Path, dataset: Dataset, tmp_path: Path
) -> None:
    plenty = run(tmp_path / "plenty", llama, dataset, Placement())
    little = run(tmp_path / "little", llama, dataset, NEXT_TO_NOTHING)
    assert (micro_batch_size(plenty), micro_batch_size(little)) == (4, 1)
    assert isinstance(little[-1], Finished)
    assert values(little) == pytest.approx(values(plenty), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("placement", [Placement(), NEXT_TO_NOTHING], ids=["plenty", "little"])
def test_the_forecast_is_that_of_the_run(
    name: str, placement: Placement, dataset: Dataset, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(name)
    backend = opened(tmp_path, model, placement)
    forecast = backend.memory_forecast(request_for(dataset))
    backend.close()
    assert forecast is not None
    assert forecast.available_bytes == machine_bytes()
    assert forecast.micro_batch_size == micro_batch_size(run(tmp_path, model, dataset, placement))
    assert forecast.peak_bytes > forecast.parts["weights"] > 0


def without_data(folder: Path, model: Path, shape: Sequence[int]) -> Path:
    """Copy a model and replace its weights by a file that only announces a tensor."""
    shutil.copytree(model, folder)
    header = json.dumps({"weight": {"dtype": "F32", "shape": list(shape), "data_offsets": [0, 0]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return folder


def test_a_run_that_cannot_fit_fails_before_its_model_is_loaded(llama: Path, dataset: Dataset, tmp_path: Path) -> None:
    # 20 terabytes of weights, which no machine has; adapters keep the disk space small
    model = without_data(tmp_path / "huge", llama, (1_000_000, 5_000_000))
    backend = opened(tmp_path / "workspace", model, Placement())
    request = request_for(dataset, method="lora", lora_rank=1)
    forecast = backend.memory_forecast(request)
    assert forecast is not None
    assert forecast.failure is not None
    events = drain(backend, backend.submit(request), timeout_s=120)
    assert not any(isinstance(event, Started) for event in events)
    assert events[-1] == Failed(forecast.failure)
    assert forecast.failure.kind is FailureKind.OUT_OF_MEMORY
    with pytest.raises(BackendError) as raised:
        backend.estimate(request)
    assert raised.value.failure == forecast.failure
    backend.close()


def test_a_model_of_an_unknown_kind_has_no_forecast_and_trains(llama: Path, dataset: Dataset, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(llama, model)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps({**config, "num_local_experts": 2}), encoding="utf-8")
    backend = opened(tmp_path / "workspace", model, Placement())
    assert backend.memory_forecast(request_for(dataset)) is None
    backend.close()
    assert isinstance(run(tmp_path / "workspace", model, dataset, Placement())[-1], Finished)


def test_a_request_that_check_rejects_has_no_forecast(llama: Path, dataset: Dataset, tmp_path: Path) -> None:
    backend = open_guarded(LocalBackend, LocalOptions(model=str(llama), device="cpu"), tmp_path, Placement())
    assert isinstance(backend, SupportsMemoryForecast)
    with pytest.raises(BackendError, match="lora_rank"):
        backend.memory_forecast(request_for(dataset, lora_rank=0))
    backend.close()


def test_a_run_owns_its_share_of_the_machine() -> None:
    whole = machine_bytes()
    assert whole is not None
    assert memory_of_a_run(torch.device("cpu"), Placement(cpus=10_000)) == whole
    assert memory_of_a_run(torch.device("cpu"), NEXT_TO_NOTHING) < 1000  # type: ignore[operator]
    assert memory_of_a_run(torch.device("meta"), Placement()) is None
