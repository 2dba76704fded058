"""Gradient checkpointing, kinds of LoRA, layers by name, noise and the 8-bit optimizer: laws."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from backends.contract import (
    BackendError,
    Dataset,
    EvaluationSettings,
    Event,
    Failed,
    Failure,
    Finished,
    Measured,
    Scalar,
    Started,
    TrainingRequest,
)
from backends.hyperparameter_checks import check_hyperparameters
from backends.local import hyperparameters, model_source
from backends.local.embedding_noise import embedding_noise
from backends.local.hyperparameters import LoraSettings
from backends.local.model import LoadedModel, ModelSpec, load_model, load_tokenizer
from backends.local.optimizers import optimizer_problem
from backends.local.trainable_weights import TrainableWeights, lora_layers
from backends.testing import drain
from tests.unit.backends.local.conftest import open_backend, run_in_parts

pytestmark = [pytest.mark.integration, pytest.mark.trains]

POINT: dict[str, Scalar] = {"n_epochs": 2, "batch_size": 4, "learning_rate": 1e-3}
LORA: dict[str, Scalar] = {**POINT, "method": "lora", "lora_rank": 4, "lora_alpha": 8.0}


def request_for(dataset: Dataset, point: Mapping[str, Scalar], key: str = "run") -> TrainingRequest:
    return TrainingRequest(key, "", dataset, point, 7, EvaluationSettings(train_examples=8))


def events_of(
    workspace: Path, model: Path, dataset: Dataset, point: Mapping[str, Scalar], **options: Any
) -> list[Event]:
    backend = open_backend(workspace, model, **options)
    events = drain(backend, backend.submit(request_for(dataset, point)), timeout_s=120)
    backend.close()
    assert isinstance(events[-1], Finished), events[-1]
    return events


def measured_values(events: Sequence[Event]) -> list[float]:
    measurements = [event for event in events if isinstance(event, Measured)]
    return [value for measurement in measurements for _, value in sorted(measurement.values.items())]


def resolved(events: Sequence[Event]) -> Mapping[str, Scalar]:
    (started,) = (event for event in events if isinstance(event, Started))
    return started.resolved


def failures(model: Path, dataset: Dataset, workspace: Path, point: Mapping[str, Scalar]) -> Sequence[Failure]:
    backend = open_backend(workspace, model)
    found = backend.check(request_for(dataset, point))
    backend.close()
    return found


@pytest.fixture
def loaded(llama: Path) -> LoadedModel:
    source = model_source.find(str(llama))
    spec = ModelSpec(source, "causal-lm", torch.device("cpu"), torch.float32, torch.float32)
    return load_model(spec, load_tokenizer(source))


# --------------------------------------------------------------------------- gradient checkpointing
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])  # gpt2 and bert have dropout
def test_checkpointing_changes_no_result(
    name: str, method: str, dataset: Dataset, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model, point = request.getfixturevalue(name), {**POINT, "method": method}
    without = events_of(tmp_path / "without", model, dataset, point)
    with_it = events_of(tmp_path / "with", model, dataset, point, gradient_checkpointing=True)
    assert measured_values(with_it) == pytest.approx(measured_values(without), rel=1e-5, abs=1e-6)


def bytes_kept_for_backward(model: LoadedModel) -> int:
    """Return the bytes that the forward pass of a batch keeps beyond the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.arange(4 * 32).remainder(40).reshape(4, 32)
    model.module.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.logits(model.states(ids, torch.arange(ids.numel()))).sum().backward()  # type: ignore[no-untyped-call]
    return sum(kept.values())


def test_checkpointing_keeps_less_and_ends_with_the_run(loaded: LoadedModel) -> None:
    plain = TrainableWeights(loaded, None, 0)
    whole = bytes_kept_for_backward(loaded)
    plain.release()
    checkpointed = TrainableWeights(loaded, None, 0, gradient_checkpointing=True)
    # One of the two layers, the last, still keeps everything.
    assert bytes_kept_for_backward(loaded) < 0.75 * whole
    checkpointed.release()
    again = TrainableWeights(loaded, None, 0)
    assert bytes_kept_for_backward(loaded) == whole
    again.release()


# ---------------------------------------------------------------------------------- kinds of LoRA
def test_rank_stabilized_lora_scales_by_alpha_over_the_root_of_the_rank(
    llama: Path, dataset: Dataset, tmp_path: Path
) -> None:
    stabilized = events_of(tmp_path / "rslora", llama, dataset, {**LORA, "use_rslora": True})
    # rank 4: alpha / sqrt(4) is 2 alpha / 4
    doubled = events_of(tmp_path / "doubled", llama, dataset, {**LORA, "lora_alpha": 16.0})
    plain = events_of(tmp_path / "plain", llama, dataset, LORA)
    assert measured_values(stabilized) == pytest.approx(measured_values(doubled), rel=1e-5, abs=1e-6)
    assert measured_values(stabilized) != pytest.approx(measured_values(plain), rel=1e-5, abs=1e-6)
    assert resolved(stabilized)["use_rslora"] is True
    assert resolved(plain)["use_rslora"] is False


def test_dora_starts_as_the_base_model_and_trains_magnitudes(llama: Path, dataset: Dataset, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    dora = events_of(tmp_path / "dora", llama, dataset, {**LORA, "use_dora": True})
    plain = events_of(tmp_path / "plain", llama, dataset, LORA)
    first = [next(event for event in events if isinstance(event, Measured)) for events in (dora, plain)]
    assert dict(first[0].values) == pytest.approx(dict(first[1].values), rel=1e-5)
    assert measured_values(dora) != pytest.approx(measured_values(plain), rel=1e-5, abs=1e-6)
    end = dora[-1]
    assert isinstance(end, Finished)
    weights = load_file(Path(end.model) / "adapter_model.safetensors")
    magnitudes = [name for name in weights if "magnitude" in name]
    assert len(magnitudes) == 2 * 7  # two layers with seven linear layers each
    assert json.loads((Path(end.model) / "adapter_config.json").read_text(encoding="utf-8"))["use_dora"] is True


@pytest.mark.parametrize("changes", [{"use_dora": True, "use_rslora": True}, {"use_dora": True, "lora_dropout": 0.2}])
def test_an_interrupted_run_continues_exactly(
    changes: dict[str, Scalar], llama: Path, dataset: Dataset, tmp_path: Path
) -> None:
    point = {**LORA, **changes, "neftune_noise_alpha": 5.0}
    whole = events_of(tmp_path / "whole", llama, dataset, point)
    parts = run_in_parts(tmp_path / "parts", llama, request_for(dataset, point), most_events=60)
    assert measured_values(parts) == measured_values(whole)


def test_an_adapter_without_magnitudes_is_no_dora_adapter(llama: Path, dataset: Dataset, tmp_path: Path) -> None:
    backend = open_backend(tmp_path, llama)
    first = drain(backend, backend.submit(request_for(dataset, LORA, "first")), timeout_s=120)[-1]
    assert isinstance(first, Finished)
    second = TrainingRequest(
        "second", "", dataset, {**LORA, "use_dora": True}, 7, EvaluationSettings(), resume_from=first.model
    )
    end = drain(backend, backend.submit(second), timeout_s=120)[-1]
    assert isinstance(end, Failed)
    assert "use_dora" in end.failure.detail
    third = drain(backend, backend.submit(request_for(dataset, LORA, "third")), timeout_s=120)
    backend.close()
    assert isinstance(third[-1], Finished)  # the failed run has left no adapters on the shared model


# ---------------------------------------------------------------------------------- layers by name
def test_layers_by_name(loaded: LoadedModel) -> None:
    chosen = lora_layers(loaded, "q_proj, mlp.up_proj")
    assert sorted(chosen) == [
        f"model.layers.{layer}.{name}" for layer in (0, 1) for name in ("mlp.up_proj", "self_attn.q_proj")
    ]
    assert lora_layers(loaded, "layers.1.self_attn.v_proj") == ["model.layers.1.self_attn.v_proj"]


@pytest.mark.parametrize("target", ["q_proj,q_porj", "proj", "embed_tokens", "lm_head", "", " , "])
def test_a_name_that_matches_no_layer_is_an_error(target: str, loaded: LoadedModel) -> None:
    with pytest.raises(BackendError) as raised:
        lora_layers(loaded, target)
    assert "lora_target" in raised.value.failure.message
    assert "all-linear" in raised.value.failure.detail
    assert "q_proj" in raised.value.failure.detail


@pytest.mark.parametrize(
    ("target", "valid"), [("q_proj,v_proj", True), ("q_proj,q_porj", False), ("all-linear", True), ("all-liner", False)]
)
def test_names_are_checked_before_anything_is_loaded(
    target: str, valid: bool, llama: Path, dataset: Dataset, tmp_path: Path
) -> None:
    found = failures(llama, dataset, tmp_path, {**LORA, "lora_target": target})
    assert [failure.message.split()[0] for failure in found] == ([] if valid else ["lora_target"])
    if valid:
        events_of(tmp_path / "run", llama, dataset, {**LORA, "lora_target": target})


# -------------------------------------------------------------------------------------------- noise
def test_noise_is_uniform_and_only_in_training(loaded: LoadedModel) -> None:
    embeddings, ids = loaded.module.get_input_embeddings(), torch.zeros(4, 100, dtype=torch.int64)
    clean = embeddings(ids)
    with embedding_noise(loaded.module, 5.0):
        loaded.module.eval()
        assert torch.equal(embeddings(ids), clean)
        loaded.module.train()
        noise = (embeddings(ids) - clean).detach()
    assert torch.equal(embeddings(ids), clean)
    largest = 5.0 / math.sqrt(100 * 32)
    assert float(noise.abs().max()) <= largest * (1 + 1e-4)
    # 12,800 draws: the standard error of the mean is largest / 196, and that of the deviation less
    assert abs(float(noise.mean())) < largest / 30
    assert float(noise.std()) == pytest.approx(largest / math.sqrt(3), rel=0.05)


def test_noise_changes_training_and_no_measurement(llama: Path, dataset: Dataset, tmp_path: Path) -> None:
    clean = events_of(tmp_path / "clean", llama, dataset, POINT)
    zero = events_of(tmp_path / "zero", llama, dataset, {**POINT, "neftune_noise_alpha": 0.0})
    noisy = events_of(tmp_path / "noisy", llama, dataset, {**POINT, "neftune_noise_alpha": 10.0})
    assert measured_values(zero) == measured_values(clean)
    assert measured_values(noisy) != measured_values(clean)
    first = [next(event for event in events if isinstance(event, Measured)) for events in (clean, noisy)]
    assert first[0] == first[1]


def test_runs_on_one_model_do_not_inherit_noise(llama: Path, dataset: Dataset, tmp_path: Path) -> None:
    backend = open_backend(tmp_path, llama, gradient_checkpointing=True)
    before = drain(backend, backend.submit(request_for(dataset, POINT, "before")), timeout_s=120)
    drain(backend, backend.submit(request_for(dataset, {**POINT, "neftune_noise_alpha": 10.0}, "noisy")), timeout_s=120)
    after = drain(backend, backend.submit(request_for(dataset, POINT, "after")), timeout_s=120)
    backend.close()
    assert measured_values(after) == measured_values(before)


# ---------------------------------------------------------------------------------------- optimizer
@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_the_8_bit_optimizer_is_refused_without_its_library(llama: Path, dataset: Dataset, tmp_path: Path) -> None:
    found = failures(llama, dataset, tmp_path, {**POINT, "optimizer": "adamw_8bit"})
    assert [failure.message for failure in found] == ["optimizer adamw_8bit needs bitsandbytes"]
    assert "pip install bitsandbytes" in found[0].detail
    backend = open_backend(tmp_path, llama)
    run = request_for(dataset, {**POINT, "optimizer": "adamw_8bit"})
    end = drain(backend, backend.submit(run), timeout_s=120)[-1]
    backend.close()
    assert isinstance(end, Failed)
    assert end.failure == found[0]


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.filterwarnings("ignore")  # bitsandbytes warns about what a CPU lacks
def test_the_8_bit_optimizer_trains_and_continues_exactly(llama: Path, dataset: Dataset, tmp_path: Path) -> None:
    point = {**POINT, "optimizer": "adamw_8bit"}
    whole = events_of(tmp_path / "whole", llama, dataset, point)
    parts = run_in_parts(tmp_path / "parts", llama, request_for(dataset, point), most_events=60)
    assert measured_values(parts) == measured_values(whole)
    exact = events_of(tmp_path / "exact", llama, dataset, POINT)
    # 8 bits of state change the steps a little, and the result hardly
    assert measured_values(whole) == pytest.approx(measured_values(exact), rel=0.2, abs=0.05)


def test_the_default_optimizer_runs_everywhere() -> None:
    assert optimizer_problem(hyperparameters.DEFAULT_OPTIMIZER, "mps") is None
    assert optimizer_problem("adamw_8bit", "mps") is not None


# ---------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    "point",
    [
        {"use_dora": 1},
        {"use_rslora": "yes"},
        {"neftune_noise_alpha": -1.0},
        {"neftune_noise_alpha": math.inf},
        {"optimizer": "adam"},
        {"lora_target": 3},
    ],
)
def test_wrong_values_are_refused(point: dict[str, Scalar]) -> None:
    found = check_hyperparameters(point, hyperparameters.capabilities("causal-lm"))
    assert [failure.message.split(":")[0] for failure in found] == list(point)


def test_new_settings_have_their_old_defaults() -> None:
    settings = hyperparameters.settings({"method": "lora", "lora_rank": 4})
    assert settings.lora == LoraSettings(4, 8.0, 0.0, "all-linear", use_rslora=False, use_dora=False)
    assert (settings.optimizer, settings.neftune_noise_alpha) == ("adamw", 0.0)
