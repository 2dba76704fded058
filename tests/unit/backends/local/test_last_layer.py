"""The partial last layer against the whole one: equal results and gradients, fewer operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from backends.local import encoded_data, loss, model_evaluation
from backends.local.hyperparameters import LoraSettings
from backends.local.last_layer import LastLayer
from backends.local.model import LoadedModel, ModelSpec, load_model, load_tokenizer
from backends.local.model_source import find
from backends.local.options import Task
from backends.local.trainable_weights import TrainableWeights
from backends.local.truncation import Truncation

pytestmark = [pytest.mark.unit, pytest.mark.trains]

CPU = torch.device("cpu")
SIZES = {"vocab_size": 46, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SHORT = {"max_position_embeddings": 64, "initializer_range": 0.2, "pad_token_id": 0}
LANGUAGE_MODELS: dict[str, dict[str, Any]] = {
    "llama": SIZES | SHORT,
    "mistral": SIZES | SHORT | {"num_key_value_heads": 2},
    "qwen2": SIZES | SHORT | {"num_key_value_heads": 2},
    "qwen3": SIZES | SHORT | {"num_key_value_heads": 2, "head_dim": 8},
    "gemma2": SIZES | SHORT | {"num_key_value_heads": 2, "head_dim": 8},
    "phi": SIZES | SHORT,
    "gpt_neox": SIZES | SHORT,
    "gpt2": {"vocab_size": 46, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.2},
    "opt": SHORT
    | {"vocab_size": 46, "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "num_hidden_layers": 2}
    | {"num_attention_heads": 4},
}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": SIZES | SHORT,
    "roberta": SIZES | SHORT,
    "electra": SIZES | SHORT | {"embedding_size": 32},
    "distilbert": {"vocab_size": 46, "dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, **SHORT},
    "deberta-v2": SIZES | SHORT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0},
    "modernbert": SIZES | SHORT | {"classifier_pooling": "cls", "reference_compile": False},
}
DROPOUTS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "resid_pdrop"),
    *("embd_pdrop", "attn_pdrop", "seq_classif_dropout", "activation_dropout", "resid_dropout", "embd_dropout"),
)


@pytest.fixture
def load(tmp_path: Any, llama: Any) -> Callable[..., LoadedModel]:
    """Return a function that creates a small random model of an architecture and loads it as the
    product does.
    """

    def make(kind: str, task: Task, dtype: torch.dtype = torch.float32, **settings: Any) -> LoadedModel:
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(
            kind, **{**dict.fromkeys(DROPOUTS, 0.0), "eos_token_id": 3, "bos_token_id": 2, **settings}
        )
        auto: Any = transformers.AutoModelForCausalLM if task == "causal-lm" else transformers.AutoModel
        auto.from_config(config).save_pretrained(tmp_path)
        labels = () if task == "causal-lm" else ("a", "b", "c")
        spec = ModelSpec(find(str(tmp_path)), task, CPU, dtype, torch.float32, labels)
        return load_model(spec, load_tokenizer(find(str(llama))))

    return make


def causal_data() -> encoded_data.CausalData:
    random = np.random.default_rng(3)
    ids = tuple(random.integers(4, 40, int(length)) for length in random.integers(8, 14, 6))
    targets = tuple(np.arange(len(example)) >= len(example) - 2 for example in ids)
    return encoded_data.CausalData(ids, targets, None, None, Truncation(6), encoded_data.AnswerCounts(6))


def class_data() -> encoded_data.ClassData:
    random = np.random.default_rng(3)
    ids = tuple(random.integers(4, 40, int(length)) for length in random.integers(4, 14, 6))
    return encoded_data.ClassData(ids, None, random.integers(0, 3, 6), Truncation(6))


def loss_and_gradients(
    model: LoadedModel, data: encoded_data.EncodedData, weight: float = 0.0
) -> tuple[float, dict[str, Tensor], int]:
    """Return the loss, its gradients, and the floating-point operations of both passes."""
    model.module.zero_grad()
    with FlopCounterMode(display=False) as counted, model.autocast():
        value = loss.summed_loss(model, data, np.arange(6), weight)
    with counted:
        value.backward()  # type: ignore[no-untyped-call]
    gradients = {
        name: parameter.grad.clone()
        for name, parameter in model.module.named_parameters()
        if parameter.grad is not None
    }
    return value.item(), gradients, counted.get_total_flops()


def use_whole_layer(model: LoadedModel) -> None:
    """Switch the restriction off for good: a failed verification does that."""
    results = iter((torch.zeros(1), torch.ones(1)))
    assert not model.last_layer.verify(lambda: next(results), torch.float32)


def compare_with_whole_layer(model: LoadedModel, data: encoded_data.EncodedData, tolerance: float = 1e-4) -> float:
    """Assert the results of the whole layer; return the share of its operations that the partial
    layer needs.
    """
    model.module.eval()
    partial = loss_and_gradients(model, data)
    use_whole_layer(model)
    full = loss_and_gradients(model, data)
    assert partial[0] == pytest.approx(full[0], rel=tolerance)
    assert partial[1].keys() == full[1].keys()
    scale = max(float(gradient.abs().max()) for gradient in full[1].values())
    for name, gradient in full[1].items():
        assert torch.allclose(partial[1][name], gradient, atol=tolerance * scale), name
    return partial[2] / full[2]


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_a_language_model_computes_less_with_equal_results(kind: str, load: Callable[..., LoadedModel]) -> None:
    assert compare_with_whole_layer(load(kind, "causal-lm", **LANGUAGE_MODELS[kind]), causal_data()) < 0.9


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_computes_less_with_equal_results(kind: str, load: Callable[..., LoadedModel]) -> None:
    assert compare_with_whole_layer(load(kind, "sequence-classification", **ENCODERS[kind]), class_data()) < 0.9


@pytest.mark.parametrize("kind", ["llama", "bert"])
@pytest.mark.parametrize("target", ["query-value", "all-linear"])
def test_adapters_attached_after_loading_work_too(kind: str, target: str, load: Callable[..., LoadedModel]) -> None:
    task: Task = "causal-lm" if kind == "llama" else "sequence-classification"
    model = load(kind, task, **(LANGUAGE_MODELS | ENCODERS)[kind])
    trainable = TrainableWeights(model, LoraSettings(rank=2, alpha=4.0, dropout=0.0, target=target), 1)
    with torch.no_grad():
        for parameter in trainable.parameters.values():
            parameter.normal_(0.0, 0.2)
    assert compare_with_whole_layer(model, causal_data() if kind == "llama" else class_data()) < 1.0


def test_bfloat16_works_too(load: Callable[..., LoadedModel]) -> None:
    model = load("bert", "sequence-classification", torch.bfloat16, **ENCODERS["bert"])
    assert compare_with_whole_layer(model, class_data(), tolerance=0.05) < 0.8


def test_a_head_that_reads_every_position_gets_the_whole_layer(load: Callable[..., LoadedModel]) -> None:
    model = load("modernbert", "sequence-classification", **ENCODERS["modernbert"] | {"classifier_pooling": "mean"})
    assert compare_with_whole_layer(model, class_data()) == 1.0


def test_a_model_that_classifies_by_its_last_token_gets_the_whole_layer(load: Callable[..., LoadedModel]) -> None:
    assert (
        compare_with_whole_layer(load("llama", "sequence-classification", **LANGUAGE_MODELS["llama"]), class_data())
        == 1.0
    )


def test_prompts_with_a_loss_get_the_whole_layer(load: Callable[..., LoadedModel]) -> None:
    model = load("llama", "causal-lm", **LANGUAGE_MODELS["llama"])
    with_prompts = loss_and_gradients(model, causal_data(), 0.5)
    use_whole_layer(model)
    assert with_prompts[2] == loss_and_gradients(model, causal_data(), 0.5)[2]


def test_labels_that_share_a_row_get_the_scores_of_the_whole_layer(load: Callable[..., LoadedModel]) -> None:
    model = load("llama", "causal-lm", **LANGUAGE_MODELS["llama"])
    random = np.random.default_rng(1)
    prompts = [random.integers(4, 40, int(length)) for length in (5, 9, 12)]
    labels = [tuple(random.integers(4, 40, length) for length in (1, 2, 3))] * 3
    partial = model_evaluation.score_continuations(model, prompts, labels)
    use_whole_layer(model)
    assert partial.logprobs == pytest.approx(
        model_evaluation.score_continuations(model, prompts, labels).logprobs, abs=1e-4
    )


def test_a_model_without_a_stack_of_layers_is_unchanged() -> None:
    class Body(torch.nn.Linear):
        config = transformers.LlamaConfig(num_hidden_layers=2)

    body = Body(3, 3)
    last = LastLayer(body)
    with last.restricted_to(torch.tensor([1]), (2, 3)):
        assert body(torch.ones(2, 3, 3)).shape == (2, 3, 3)
