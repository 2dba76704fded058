"""The memory of a training step of a transformer, by formulas. Pure.

The counts follow what PyTorch's autograd keeps for the backward pass of the layers of transformers.
The idea of counting a layer's kept tensors is that of Korthikanti et al. 2022, "Reducing Activation
Recomputation in Large Transformer Models", section 4; their numbers are those of GPT in 16 bits.
`benchmarks/memory` compares the forecasts with measured peaks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backends.memory_forecast.adapters import Adapters
from backends.memory_forecast.architecture import Architecture

OptimizerKind = Literal["adamw", "adamw_8bit", "adafactor", "sgd"]

FLOAT32 = 4
_QUANTIZED_BLOCK = 64
_FOUR_BIT = 0.5 + FLOAT32 / _QUANTIZED_BLOCK
"""Bytes of a weight in NF4: half a byte, and a float32 scale for each block of 64 weights (Dettmers
et al. 2023, "QLoRA", section 3). Double quantization would save 0.05 bytes more."""
_EIGHT_BIT_BLOCK = 256
_STATE_BYTES: dict[OptimizerKind, float] = {
    # two moments of each weight (Loshchilov and Hutter 2019, algorithm 2)
    "adamw": 2 * FLOAT32,
    # two moments in 8 bits, each with a float32 scale per block of 256 in bitsandbytes (Dettmers et
    # al. 2022, "8-bit Optimizers via Block-wise Quantization", which describes blocks of 2,048)
    "adamw_8bit": 2 * (1 + FLOAT32 / _EIGHT_BIT_BLOCK),
    # row and column means instead of the second moment (Shazeer and Stern 2018): next to nothing
    "adafactor": 0.0,
    "sgd": 0.0,
}
_GAPS = 0.4
"""The share of the memory freed in a forward pass that the C library cannot use again in that pass.
A freed tensor leaves a gap of its own size, and an aligned allocation of the same size needs a
little more (memalign in glibc before 2.38). The share is measured: benchmarks/memory/RESULTS.md.
"""
_GAPS_WHEN_ACCUMULATING = 0.8
"""The same share where gradients of an earlier micro-batch lie between the gaps. Measured."""
_CHECKPOINTED_BLOCKS, _CHECKPOINTED_SHARE = 0.8, 0.22
"""With checkpointing, a CPU occupies the memory of about one block, and this share of every other
one: the gradients of a block lie between the gaps that it leaves. Measured."""
_PROCESS = 20 * 2**20
"""What a run of a tiny model occupies: threads and library state."""

_LOSS_COPIES = 3
"""Float32 tensors as large as the logits at the start of the backward pass of a cross-entropy: the
log-probabilities, their gradient and the gradient of the logits."""
_LOSS_GAPS = 2
"""The gaps of that size in the C library's memory: that of the logits, and one from the step before
that is a few bytes too small."""


@dataclass(frozen=True)
class TrainingStep:
    """What determines the memory of a training step.

    A micro-batch has `micro_batch_size` rows of `sequence_length` tokens, padding included. The
    loss reads `predicted_tokens` of its positions. `accumulates`: gradients of several
    micro-batches add up. `value_bytes` is the size of a value in the matrix products, 2 with
    bfloat16. A weight takes `weight_bytes`, or about half a byte in the blocks if `four_bit`.
    `copies_weights`: the original values of all trained weights stay in memory. `labels` is the
    number of classes of a classifier, and 0 for a language model. `on_cpu`: the allocator is that
    of the C library, whose gaps count.
    """

    micro_batch_size: int
    sequence_length: int
    predicted_tokens: int
    adapters: Adapters | None = None
    optimizer: OptimizerKind = "adamw"
    gradient_checkpointing: bool = False
    accumulates: bool = False
    value_bytes: int = FLOAT32
    weight_bytes: int = FLOAT32
    four_bit: bool = False
    copies_weights: bool = False
    labels: int = 0
    on_cpu: bool = True

    @property
    def tokens(self) -> int:
        """The positions of a micro-batch."""
        return self.micro_batch_size * self.sequence_length


@dataclass(frozen=True)
class StepMemory:
    """The bytes of a training step, by what they hold.

    `activations` are kept for the backward pass, and `loss` is the logits and their gradients.
    `temporary` is the most that a layer's backward pass needs for itself. Not everything exists at
    the same time: `peak` is the most that does.
    """

    weights: int
    copies: int
    gradients: int
    optimizer: int
    activations: int
    loss: int
    temporary: int
    peak: int


def step_memory(model: Architecture, step: TrainingStep) -> StepMemory:
    """Return the memory of a training step when the optimizer has its state: after the first."""
    trained = _trained_parameters(model, step)
    weights = _weight_bytes(model, step)
    copies = FLOAT32 * trained if step.copies_weights and step.adapters is None else 0
    gradients = FLOAT32 * trained
    optimizer = int(_STATE_BYTES[step.optimizer] * trained)
    block = block_bytes_per_token(model, step) * step.tokens + _attention_bytes(model, step)
    freed = freed_bytes(model, step) if step.on_cpu else 0.0
    process = _PROCESS if step.on_cpu else 0
    loss = _loss_bytes(model, step)
    # In the backward pass of the gated part, each tensor as wide as the MLP has a gradient.
    temporary = step.tokens * step.value_bytes * (3 * model.intermediate + 2 * model.hidden) + _dora_bytes(model, step)
    activations = model.layers * (block + (_GAPS_WHEN_ACCUMULATING if step.accumulates else _GAPS) * freed)
    if step.gradient_checkpointing:
        kept = (model.layers - 1) * model.hidden * step.tokens * step.value_bytes
        activations = min(activations, kept + _computed_again(model, step) * (block + freed))
    around = _around_the_blocks(model, step)
    activations += around
    # Both ends of the backward pass. At its start all activations exist, and with accumulation the
    # gradients of earlier micro-batches; at its end all gradients exist. In between, one grows as
    # the other shrinks. On a CPU the gradients do not fit into the gaps of the activations, and
    # gradients that are added to earlier ones leave gaps themselves.
    constant = weights + copies + optimizer + process
    start = activations + max(loss, temporary) + (step.accumulates + step.on_cpu) * gradients
    end = gradients + temporary + _tied_gradient(model, step)
    return StepMemory(
        weights, copies, gradients, optimizer, int(activations), loss, int(temporary), int(constant + max(start, end))
    )


def _computed_again(model: Architecture, step: TrainingStep) -> float:
    """Return how many blocks' activations exist at the same time with checkpointing.

    It is one, the last block or that which is computed again, and more where gaps count.
    """
    if not step.on_cpu or model.layers == 1:
        return 1.0
    return (1 + step.accumulates) * (_CHECKPOINTED_BLOCKS + _CHECKPOINTED_SHARE * model.layers)


def _trained_parameters(model: Architecture, step: TrainingStep) -> int:
    head = step.labels * (model.hidden + 1)
    if step.adapters is None:
        return model.parameters + head
    return step.adapters.parameters(model) + head


def _weight_bytes(model: Architecture, step: TrainingStep) -> int:
    adapters = 0 if step.adapters is None else FLOAT32 * _trained_parameters(model, step)
    if not step.four_bit:
        return step.weight_bytes * model.parameters + adapters
    return int(_FOUR_BIT * model.block_matrices + 2 * (model.parameters - model.block_matrices)) + adapters


def block_bytes_per_token(model: Architecture, step: TrainingStep) -> float:
    """Return the bytes that a block keeps of each token, without attention matrices.

    A matrix product keeps its input if the matrix is trained, or has an adapter. Everything else
    follows from the derivative of each operation, as the comments say.
    """
    adapters = step.adapters
    adapted = () if adapters is None else adapters.linears(model)
    # An adapter with dropout keeps its own input instead, after the dropout.
    keeps_inputs = adapters is None or not adapters.dropout
    reads = {linear.reads for linear in (model.linears if adapters is None else adapted)} if keeps_inputs else set()
    hidden, middle, wide = model.hidden, model.intermediate, model.query_width + 2 * model.key_width
    trains_norms = adapters is None
    # Attention keeps queries, keys and values, and its output, which is also the input of the
    # output matrix.
    values = float(wide + model.query_width)
    # The residual stream enters the block and its middle; a norm keeps its input.
    values += 2 * hidden
    if model.kind == "gated-decoder":
        # An RMS norm keeps the normalized values for the gradient of its weight.
        values += 2 * hidden if trains_norms else 0
        # silu keeps its input; the product keeps both factors.
        values += 3 * middle
    else:
        # The activation function keeps its input, and what its formula needs; not its output.
        values += (model.activation_copies - 1) * middle
        # Dropout keeps its noise, after the attention and after the MLP.
        values += 2 * hidden if model.hidden_dropout else 0
    # The outputs of the norms, and the middle of the MLP, are kept only as inputs of matrices. The
    # norms of an encoder come last, so that the output of one is the residual stream of the next.
    if model.kind == "encoder":
        values += 2 * hidden
    else:
        values += hidden * (("attention" in reads) + ("mlp" in reads))
    values += middle * ("mlp output" in reads)
    for linear in adapted:
        assert adapters is not None
        values += adapters.rank  # the input of the second small matrix
        values += 2 * linear.inputs if adapters.dropout else 0  # the noise, and the input after it
        # DoRA multiplies both results by a trained magnitude, and keeps them.
        values += 2 * linear.outputs if adapters.dora else 0
    return values * step.value_bytes


def _attention_bytes(model: Architecture, step: TrainingStep) -> float:
    """Return the bytes of the attention matrices of a block.

    Fused attention (torch's scaled_dot_product_attention) keeps a float32 for each head and token
    instead. With dropout on attention, a CPU computes the matrices: scores, noise, and their
    product.
    """
    rows = step.tokens * model.heads
    if model.attention_dropout:
        return 3.0 * rows * step.sequence_length * step.value_bytes
    return float(rows * FLOAT32)


def freed_bytes(model: Architecture, step: TrainingStep) -> float:
    """Return the bytes that a block allocates and frees again in the forward pass.

    They are the results of its operations that no derivative needs.
    """
    hidden, middle = model.hidden, model.intermediate
    # the results of both residual branches, before they are added
    values = 2.0 * hidden
    if model.kind == "gated-decoder":
        values += 2 * hidden  # the squares in the norms
        # Rotary embeddings: queries and keys before them, two products, and the rotated halves.
        values += 4.5 * (model.query_width + model.key_width)
    else:
        values += 2 * hidden if model.hidden_dropout else 0
        values += (model.activation_copies - 1) * middle if model.activation_copies > 2 else 0
    for linear in () if step.adapters is None else step.adapters.linears(model):
        # the results of the matrix and of the adapter, and the scaled one, before they are added
        values += 3 * linear.outputs
    matrices = 2 * model.heads * step.sequence_length if model.attention_dropout else 0
    return (values + matrices) * step.tokens * step.value_bytes


def _dora_bytes(model: Architecture, step: TrainingStep) -> int:
    """Return the bytes that DoRA needs to compute the norm of a layer's weights.

    They are an identity matrix, the product of the adapter, its sum with the weights and the square
    of that (peft.tuners.lora.dora.DoraLinearLayer).
    """
    if step.adapters is None or not step.adapters.dora:
        return 0
    linears = step.adapters.linears(model)
    return FLOAT32 * max((n.inputs * n.inputs + 3 * n.inputs * n.outputs for n in linears), default=0)


def _around_the_blocks(model: Architecture, step: TrainingStep) -> int:
    """Return the bytes kept after the last block: the input of the final norm, and with a trained
    RMS norm the normalized values, too.
    """
    values = 2 if model.kind == "gated-decoder" and step.adapters is None else 1
    return values * model.hidden * step.tokens * step.value_bytes


def _loss_bytes(model: Architecture, step: TrainingStep) -> int:
    if step.labels:
        return _LOSS_COPIES * step.micro_batch_size * step.labels * FLOAT32
    logits = step.predicted_tokens * model.vocabulary
    half = logits * step.value_bytes if step.value_bytes < FLOAT32 else 0  # the logits before their conversion
    return (_LOSS_COPIES + (_LOSS_GAPS if step.on_cpu else 0)) * logits * FLOAT32 + half


def evaluation_bytes(model: Architecture, step: TrainingStep, tokens: int, predicted_tokens: int) -> int:
    """Return the temporary bytes of a forward pass over `tokens` positions without gradients.

    Logits are computed for `predicted_tokens` positions, in float32, with a copy for their
    logarithm.
    """
    layer = tokens * step.value_bytes * (3 * model.intermediate + 4 * model.hidden)
    return max(layer, 2 * FLOAT32 * predicted_tokens * model.vocabulary)


def _tied_gradient(model: Architecture, step: TrainingStep) -> int:
    """Return the bytes of a second gradient of a shared embedding.

    That of the output matrix waits for that of the input embedding until the end of the backward
    pass.
    """
    is_trained = step.adapters is None and step.labels == 0
    return FLOAT32 * model.embedding_parameters if model.tied and is_trained else 0
