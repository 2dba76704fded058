"""The shape of a transformer, read from its config.json. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["gated-decoder", "plain-decoder", "encoder"]
InputOf = Literal["attention", "attention output", "mlp", "mlp output"]
"""What a linear layer reads. Layers that read the same tensor share its memory."""

_PLAIN_DECODERS = frozenset(
    {"bloom", "codegen", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "opt", "phi", "starcoder2"}
)
_ENCODERS = frozenset(
    {
        *("albert", "bert", "camembert", "convbert", "deberta", "deberta-v2", "distilbert", "electra", "ernie"),
        *("mpnet", "nystromformer", "rembert", "roberta", "roberta-prelayernorm", "xlm-roberta"),
    }
)
_OWN_KINDS = ("num_experts", "num_local_experts", "n_routed_experts", "ssm_cfg", "state_size", "linear_num_value_heads")
"""Keys of mixtures of experts and of state-space models, whose memory follows other formulas."""


@dataclass(frozen=True)
class Linear:
    """A linear layer of each block: its name, its widths, and what it reads."""

    name: str
    inputs: int
    outputs: int
    reads: InputOf


@dataclass(frozen=True)
class Architecture:
    """The widths of a transformer that all of its blocks share.

    `query_width` and `key_width` are those of all heads together. `parameters` counts all weights,
    and `embedding_parameters` those of the input embedding, which the output shares if `tied`.
    `activation_copies` is how many tensors as wide as the MLP its activation function keeps for the
    backward pass, its input and its output included.
    """

    kind: Kind
    hidden: int
    layers: int
    heads: int
    query_width: int
    key_width: int
    intermediate: int
    vocabulary: int
    tied: bool
    parameters: int
    hidden_dropout: bool = False
    attention_dropout: bool = False
    activation_copies: int = 2

    @property
    def embedding_parameters(self) -> int:
        """The weights of the input embedding."""
        return self.vocabulary * self.hidden

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The linear layers of a block."""
        hidden, middle = self.hidden, self.intermediate
        query, key = self.query_width, self.key_width
        if self.kind == "gated-decoder":
            return (
                Linear("self_attn.q_proj", hidden, query, "attention"),
                Linear("self_attn.k_proj", hidden, key, "attention"),
                Linear("self_attn.v_proj", hidden, key, "attention"),
                Linear("self_attn.o_proj", query, hidden, "attention output"),
                Linear("mlp.gate_proj", hidden, middle, "mlp"),
                Linear("mlp.up_proj", hidden, middle, "mlp"),
                Linear("mlp.down_proj", middle, hidden, "mlp output"),
            )
        if self.kind == "encoder":
            return (
                Linear("attention.self.query", hidden, query, "attention"),
                Linear("attention.self.key", hidden, key, "attention"),
                Linear("attention.self.value", hidden, key, "attention"),
                Linear("attention.output.dense", query, hidden, "attention output"),
                Linear("intermediate.dense", hidden, middle, "mlp"),
                Linear("output.dense", middle, hidden, "mlp output"),
            )
        return (
            Linear("attn.c_attn", hidden, query + 2 * key, "attention"),
            Linear("attn.c_proj", query, hidden, "attention output"),
            Linear("mlp.c_fc", hidden, middle, "mlp"),
            Linear("mlp.c_proj", middle, hidden, "mlp output"),
        )

    @property
    def block_matrices(self) -> int:
        """The weights of all linear layers of all blocks, which 4-bit quantization compresses."""
        return self.layers * sum(linear.inputs * linear.outputs for linear in self.linears)

    @classmethod
    def of(cls, config: Mapping[str, Any], parameters: int | None = None) -> Architecture | None:
        """Return the architecture of a config.json; None if its memory follows other formulas.

        `parameters` is the number of weights if it is known; without it, the widths determine it.
        """
        text: Mapping[str, Any] = {**config, **(config.get("text_config") or {})}
        kind = _kind(text)
        widths = {
            "hidden": _number(text, "hidden_size", "n_embd", "d_model", "dim"),
            "layers": _number(text, "num_hidden_layers", "n_layer", "n_layers"),
            "heads": _number(text, "num_attention_heads", "n_head", "n_heads"),
            "vocabulary": _number(text, "vocab_size"),
        }
        if kind is None or any(width is None for width in widths.values()):
            return None
        hidden, layers, heads, vocabulary = (int(width or 0) for width in widths.values())
        key_heads = _number(text, "num_key_value_heads") or heads
        head_width = _number(text, "head_dim") or hidden // heads
        activation = str(text.get("hidden_act") or text.get("activation_function") or text.get("activation") or "gelu")
        dropouts = ("hidden_dropout_prob", "hidden_dropout", "resid_pdrop", "dropout")
        attention_dropouts = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
        found = cls(
            kind=kind,
            hidden=hidden,
            layers=layers,
            heads=heads,
            query_width=heads * head_width,
            key_width=key_heads * head_width,
            intermediate=_number(text, "intermediate_size", "n_inner", "ffn_dim", "hidden_dim") or 4 * hidden,
            vocabulary=vocabulary,
            tied=bool(text.get("tie_word_embeddings", kind != "gated-decoder")),
            parameters=0,
            hidden_dropout=_positive(text, dropouts, kind),
            attention_dropout=_positive(text, attention_dropouts, kind),
            activation_copies=_ACTIVATION_COPIES.get(activation, 2),
        )
        return replace(found, parameters=found.counted_parameters(text) if parameters is None else parameters)

    def counted_parameters(self, config: Mapping[str, Any]) -> int:
        """Return the number of weights that the widths and the config imply."""
        positions = 0 if self.kind == "gated-decoder" else _number(config, "max_position_embeddings", "n_positions")
        # Two norms a block and one at the end. Outside gated decoders everything has biases.
        has_biases = self.kind != "gated-decoder"
        norms = (2 * self.layers + 1) * self.hidden * (2 if has_biases else 1)
        biases = self.layers * sum(linear.outputs for linear in self.linears) if has_biases else 0
        embeddings = (self.vocabulary + (positions or 0)) * self.hidden
        if self.kind == "encoder":  # segment embeddings and the pooler
            embeddings += (_number(config, "type_vocab_size") or 0) * self.hidden + self.hidden * (self.hidden + 1)
        head = 0 if self.tied or self.kind == "encoder" else self.embedding_parameters
        return self.block_matrices + norms + biases + embeddings + head


_ACTIVATION_COPIES = {
    # the input, and the output, which the next matrix reads
    "gelu": 2, "relu": 2, "silu": 2, "swish": 2, "gelu_pytorch_tanh": 2, "quick_gelu": 4,
    # 0.5 x (1 + tanh(c (x + 0.044715 x^3))), transformers.activations.NewGELUActivation: also the
    # tanh and both factors
    "gelu_new": 5, "gelu_fast": 5,
}  # fmt: skip


def _kind(config: Mapping[str, Any]) -> Kind | None:
    if config.get("is_encoder_decoder") or any(config.get(key) for key in _OWN_KINDS):
        return None
    model_type = str(config.get("model_type", ""))
    if model_type in _ENCODERS:
        return "encoder"
    if model_type in _PLAIN_DECODERS:
        return "plain-decoder"
    # Since Llama, language models have RMS norms and a gated MLP.
    return "gated-decoder" if "rms_norm_eps" in config and "intermediate_size" in config else None


def _number(config: Mapping[str, Any], *names: str) -> int | None:
    values = (config.get(name) for name in names)
    found = next((value for value in values if isinstance(value, int) and not isinstance(value, bool)), None)
    return found if found is not None and found > 0 else None


def _positive(config: Mapping[str, Any], names: tuple[str, ...], kind: Kind) -> bool:
    """Whether a dropout rate is above 0. Without the key, gated decoders have none, and the others
    the rate 0.1 of their transformers config.
    """
    written = [float(config[name]) for name in names if isinstance(config.get(name), int | float)]
    return any(rate > 0 for rate in written) if written else kind != "gated-decoder"
