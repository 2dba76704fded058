"""The formulas of the memory forecast: what autograd really keeps, known sizes, and monotony."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.memory_forecast.adapters import Adapters
from backends.memory_forecast.architecture import Architecture
from backends.memory_forecast.forecast import MemoryForecast
from backends.memory_forecast.training_memory import (
    TrainingStep,
    _attention_bytes,
    block_bytes_per_token,
    step_memory,
)

pytestmark = pytest.mark.unit

ROWS, TOKENS = 3, 40
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def model_of(kind: str, layers: int, dropout: float = 0.0, key_heads: int = 2) -> Any:
    import transformers as t

    torch.manual_seed(0)
    common = {"vocab_size": 100}
    if kind == "llama":
        shape = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": layers, "num_attention_heads": 4}
        return t.LlamaModel(t.LlamaConfig(**common, **shape, num_key_value_heads=key_heads))
    if kind == "bert":
        shape = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": layers, "num_attention_heads": 4}
        rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        return t.BertModel(t.BertConfig(**common, **shape, **rates), add_pooling_layer=False)
    shape = {"n_embd": 64, "n_inner": 176, "n_layer": layers, "n_head": 4, "n_positions": 128}
    rates = {"resid_pdrop": dropout, "attn_pdrop": dropout, "embd_pdrop": dropout}
    return t.GPT2Model(t.GPT2Config(**common, **shape, **rates, bos_token_id=1, eos_token_id=1))


class Kept:
    """A tensor that a node of the graph keeps; it dies with the node."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def kept_bytes(model: Any) -> int:
    """Return the bytes that autograd keeps for the backward pass, beyond the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: weakref.WeakSet[Kept] = weakref.WeakSet()

    def pack(tensor: torch.Tensor) -> Kept:
        kept.add(packed := Kept(tensor))
        return packed

    model.train()
    ids = torch.arange(ROWS * TOKENS).remainder(100).reshape(ROWS, TOKENS)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed.tensor):
        output = model(input_ids=ids, use_cache=False)[0]
    assert output.requires_grad
    storages = {packed.tensor.untyped_storage().data_ptr(): packed.tensor.untyped_storage().nbytes() for packed in kept}
    return sum(size for address, size in storages.items() if address not in weights)


def measured_block(kind: str, adapters: Adapters | None = None, **shape: Any) -> tuple[int, Architecture]:
    """Return what one more block keeps, and the architecture of the model."""
    sizes = []
    for layers in (2, 3):
        model = model_of(kind, layers, **shape)
        config = model.config.to_dict()
        if adapters is not None:
            from peft import LoraConfig, get_peft_model

            targets = LINEARS if adapters.target == "all-linear" else ["q_proj", "v_proj"]
            model = get_peft_model(
                model,
                LoraConfig(
                    r=adapters.rank,
                    target_modules=targets,
                    lora_dropout=0.1 if adapters.dropout else 0.0,
                    use_dora=adapters.dora,
                ),
            )
        sizes.append(kept_bytes(model))
    architecture = Architecture.of(config)
    assert architecture is not None
    return sizes[1] - sizes[0], architecture


def forecast_block(architecture: Architecture, adapters: Adapters | None = None) -> float:
    step = TrainingStep(ROWS, TOKENS, ROWS * TOKENS, adapters)
    return block_bytes_per_token(architecture, step) * step.tokens + _attention_bytes(architecture, step)


@pytest.mark.trains
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("llama", {"key_heads": 2}),
        ("llama", {"key_heads": 4}),
        ("bert", {"dropout": 0.0}),
        ("bert", {"dropout": 0.1}),
        ("gpt2", {"dropout": 0.0}),
        ("gpt2", {"dropout": 0.1}),
    ],
)
def test_a_block_keeps_what_the_formula_counts(kind: str, shape: dict[str, Any]) -> None:
    measured, architecture = measured_block(kind, **shape)
    assert forecast_block(architecture) == pytest.approx(measured, rel=0.01)


@pytest.mark.trains
@pytest.mark.filterwarnings("ignore")  # peft warns about a model without a name
@pytest.mark.parametrize(
    ("adapters", "tolerance"),
    [
        (Adapters(4), 0.01),
        (Adapters(4, "query-value"), 0.01),
        (Adapters(4, dropout=True), 0.01),
        (Adapters(4, dora=True), 0.04),
    ],
)
def test_a_block_with_adapters_keeps_what_the_formula_counts(adapters: Adapters, tolerance: float) -> None:
    measured, architecture = measured_block("llama", adapters)
    assert forecast_block(architecture, adapters) == pytest.approx(measured, rel=tolerance)


# ------------------------------------------------------------------------------------ architecture
SMOLLM2_135M = {
    "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}  # fmt: skip
LLAMA_3_8B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}  # fmt: skip


@pytest.mark.parametrize(("config", "parameters"), [(SMOLLM2_135M, 134_515_008), (LLAMA_3_8B, 8_030_261_248)])
def test_the_config_determines_the_number_of_parameters(config: dict[str, Any], parameters: int) -> None:
    """The expected numbers are the published ones."""
    architecture = Architecture.of(config)
    assert architecture is not None
    assert architecture.parameters == parameters


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "llama"},
        {**LLAMA_3_8B, "num_hidden_layers": "many"},
        {**LLAMA_3_8B, "num_local_experts": 8},
        {**LLAMA_3_8B, "is_encoder_decoder": True},
        {**LLAMA_3_8B, "hidden_size": True},
        {**LLAMA_3_8B, "vocab_size": 0},
    ],
)
def test_an_unknown_kind_of_model_has_no_forecast(config: dict[str, Any]) -> None:
    assert Architecture.of(config) is None


def test_adapters_have_the_parameters_that_the_paper_counts() -> None:
    architecture = Architecture.of(SMOLLM2_135M)
    assert architecture is not None
    # 30 layers, queries 576 -> 576 and values 576 -> 192, rank 8
    assert Adapters(8, "query-value").parameters(architecture) == 30 * 8 * (576 + 576 + 576 + 192)
    assert Adapters(8, "q_proj, v_proj").parameters(architecture) == Adapters(8, "query-value").parameters(architecture)
    assert Adapters(8, "q_proj", dora=True).parameters(architecture) == 30 * (8 * (576 + 576) + 576)


# ------------------------------------------------------------------------------------------- laws
def peak(**changes: Any) -> int:
    architecture = Architecture.of(LLAMA_3_8B)
    assert architecture is not None
    step = TrainingStep(**{"micro_batch_size": 2, "sequence_length": 512, "predicted_tokens": 1024, **changes})
    return step_memory(architecture, step).peak


def test_known_sizes_of_a_model_with_8_billion_weights() -> None:
    gib = 2**30
    architecture = Architecture.of(LLAMA_3_8B)
    assert architecture is not None
    full = step_memory(architecture, TrainingStep(1, 1, 1))
    # float32 weights, gradients and two moments: 16 bytes a weight
    assert full.weights + full.gradients + full.optimizer == 16 * architecture.parameters
    four_bit = step_memory(architecture, TrainingStep(1, 1, 1, Adapters(16), four_bit=True))
    # about 5.5 to 6 GiB in NF4 with 16-bit embeddings
    assert 5.4 * gib < four_bit.weights < 6.2 * gib
    half = step_memory(architecture, TrainingStep(1, 1, 1, Adapters(16), weight_bytes=2, value_bytes=2))
    assert 14.9 * gib < half.weights < 15.3 * gib


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 16), st.integers(1, 2048), st.integers(1, 64), st.booleans(), st.booleans())
def test_more_work_at_once_needs_more_memory(
    rows: int, length: int, rank: int, checkpointing: bool, accumulates: bool
) -> None:
    shape: dict[str, Any] = {
        "micro_batch_size": rows,
        "sequence_length": length,
        "predicted_tokens": rows * length,
        "gradient_checkpointing": checkpointing,
        "accumulates": accumulates,
    }
    base = peak(**shape)
    assert peak(**{**shape, "micro_batch_size": rows + 1}) > base
    assert peak(**{**shape, "sequence_length": length + 1}) > base
    assert peak(**{**shape, "predicted_tokens": 0}) <= base
    assert peak(**{**shape, "optimizer": "adamw_8bit"}) < base
    adapted = peak(**shape, adapters=Adapters(rank))
    assert peak(**shape, adapters=Adapters(rank + 1)) > adapted
    assert peak(**shape, adapters=Adapters(rank), four_bit=True, weight_bytes=2) < adapted


def test_checkpointing_saves_memory_where_activations_are_most_of_it() -> None:
    shape: dict[str, Any] = {"micro_batch_size": 8, "sequence_length": 2048, "predicted_tokens": 100}
    adapters = Adapters(16)
    assert peak(**shape, adapters=adapters, gradient_checkpointing=True) < 0.5 * peak(**shape, adapters=adapters)


# --------------------------------------------------------------------------------------- the answer
def test_a_run_is_refused_only_if_it_exceeds_the_memory_clearly() -> None:
    forecast = MemoryForecast(10 * 2**30, "this machine", 9 * 2**30, 1, 128)
    assert forecast.problem is None
    assert forecast.failure is None
    assert replace(forecast, available_bytes=None).problem is None
    refused = replace(forecast, available_bytes=7 * 2**30)
    assert refused.failure is not None
    assert refused.failure.message == "a run needs about 10.0 GiB of memory, but this machine has 7.0 GiB"
    unmeasured = replace(refused, is_measured=False)
    assert unmeasured.problem == refused.problem
    assert unmeasured.failure is None
