"""Base models in memory: quiet loading, and forward passes with logits only where needed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from backends.local.failures import library_errors_translated
from backends.local.last_layer import LastLayer
from backends.local.model_source import ModelSource
from backends.local.options import Task
from backends.local.special_tokens import end_ids, padding_id

_PROBE_LENGTH = 6

_CACHE_VALUES = 2**20
"""Float32 values of the widest activation that a CPU computes at once: about as many as its caches
hold. On an encoder with 1,536 values per token, 2,048 tokens at once took 1.2 times as long per
token as 512 (docs/log.md).
"""
_MIN_TOKENS = 512


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers and peft inside the block: log lines, progress bars and warnings."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    verbosity, progress_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if progress_bars:
            logging.enable_progress_bar()


class BatchLimits(Protocol):
    """What limits how many tokens to compute at once. A LoadedModel is one."""

    @property
    def device(self) -> torch.device: ...

    @property
    def vocabulary_size(self) -> int: ...

    @property
    def max_tokens_in_cache(self) -> int: ...


@dataclass(frozen=True)
class ModelSpec:
    """The choice of a model to load: files, task, device and data types.

    `dtype` is the data type of the computations, `weights_dtype` that of the weights in memory.
    `labels` names the classes of a classifier. `new_head` says that its head is to be drawn anew,
    not read from the files.
    """

    source: ModelSource
    task: Task
    device: torch.device
    dtype: torch.dtype
    weights_dtype: torch.dtype
    labels: tuple[str, ...] = ()
    new_head: bool = True


@dataclass(eq=False)
class LoadedModel:
    """A model in memory. The runs of this process share it and train it one after another.

    `new_parameters` names the parameters that no checkpoint holds: those of a new classification
    head. `separate_head` says that a test has shown logits to be the output embedding of the body's
    hidden states and nothing else, so that they can be computed for single positions.
    `original_weights` holds the loaded values of the weights that a run changes (see
    `trainable_weights`). `can_share_prompts` says whether one row can hold several continuations of
    a prompt; None means that this has not been tested yet (see `model_evaluation`).
    """

    source: ModelSource
    task: Task
    module: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    new_parameters: tuple[str, ...]
    last_layer: LastLayer
    separate_head: bool = False
    original_weights: dict[str, Tensor] = field(default_factory=dict)
    can_share_prompts: bool | None = None

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context for a forward pass: autocast to `dtype`, or nothing for float32."""
        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    @property
    def has_dropout(self) -> bool:
        """Whether a forward pass in training mode draws random numbers."""
        return any(isinstance(module, nn.Dropout) and module.p > 0 for module in self.module.modules()) or any(
            float(getattr(self.module.config, name, 0.0) or 0.0) > 0 for name in ("attention_dropout", "attn_pdrop")
        )

    @property
    def pad_id(self) -> int:
        """The token that pads the inputs of a classifier."""
        return int(self.module.config.get_text_config().pad_token_id)

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens in the model's vocabulary."""
        return int(self.module.config.get_text_config().vocab_size)

    @property
    def max_tokens_in_cache(self) -> int:
        """The most tokens to compute at once so that a CPU's caches hold them.

        Unlimited on other devices.
        """
        layers = [module for module in self.module.modules() if not isinstance(module, nn.Embedding)]
        matrices = [weight for layer in layers for weight in layer.parameters(recurse=False) if weight.ndim == 2]
        widest = max((max(matrix.shape) for matrix in matrices if self.vocabulary_size not in matrix.shape), default=1)
        return tokens_in_cache(self.device, widest)

    def states(
        self, ids: Tensor, positions: Tensor, mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Tensor:
        """Return the input of `logits` for some positions of token ids (B, T).

        `positions` (N,) are indices into the flattened B * T positions, each at most once. The
        result is (N, D) hidden states, or (N, V) logits of a model without a separate head. Without
        `mask` the attention is causal, which needs no mask for padding on the right.
        """
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": position_ids, "use_cache": False}
        inputs = {name: value for name, value in inputs.items() if value is not None}
        with self.last_layer.restricted_to(positions, (ids.shape[0], ids.shape[1])):
            whole: Tensor = self.module.base_model(**inputs)[0] if self.separate_head else self.module(**inputs).logits
        return whole.reshape(-1, whole.shape[-1]).index_select(0, positions)

    def logits(self, states: Tensor) -> Tensor:
        """Return the logits (N, V) in float32 of what `states` returned."""
        logits: Tensor = self.module.get_output_embeddings()(states) if self.separate_head else states
        return logits.float()

    def class_logits(self, ids: Tensor, mask: Tensor | None, segment_ids: Tensor | None) -> Tensor:
        """Return the logits (B, labels) in float32 of token ids (B, T); mask and segment ids are
        (B, T) or None.
        """
        candidates = {"input_ids": ids, "attention_mask": mask, "token_type_ids": segment_ids}
        inputs = {name: value.to(self.device) for name, value in candidates.items() if value is not None}
        batch, length = ids.shape
        # Most heads read only the first position. `load_model` has tested whether this head does.
        first_positions = torch.arange(batch, device=self.device) * length
        with self.last_layer.restricted_to(first_positions, (batch, length)):
            logits: Tensor = self.module(**inputs).logits
        return logits.float()


def tokens_in_cache(device: torch.device, widest: int) -> int:
    """Return the most tokens to compute at once whose `widest` activation fits into the caches."""
    return sys.maxsize if device.type != "cpu" else max(_MIN_TOKENS, _CACHE_VALUES // widest)


def load_tokenizer(source: ModelSource) -> Any:
    """Load a tokenizer. Raises BackendError."""
    from transformers import AutoTokenizer

    with quiet(), library_errors_translated(f"loading the tokenizer of {source.name}"):
        return AutoTokenizer.from_pretrained(str(source.directory), local_files_only=True)


def load_model(spec: ModelSpec, tokenizer: Any) -> LoadedModel:
    """Load a model in evaluation mode.

    Raises BackendError if the files are missing or damaged, or if transformers does not know their
    kind.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    source, task = spec.source, spec.task
    options: dict[str, Any] = {"dtype": spec.weights_dtype, "local_files_only": True, "output_loading_info": True}
    with quiet(), library_errors_translated(f"loading the model {source.name}"):
        if task == "causal-lm":
            loaded: Any = AutoModelForCausalLM.from_pretrained(str(source.directory), **options)
        else:
            loaded = AutoModelForSequenceClassification.from_pretrained(
                str(source.directory),
                num_labels=len(spec.labels),
                id2label=dict(enumerate(spec.labels)),
                label2id={name: n for n, name in enumerate(spec.labels)},
                ignore_mismatched_sizes=True,
                **options,
            )
        module, info = loaded
        module.to(spec.device)
    if task == "sequence-classification":
        # A decoder pools at the last token that is not its padding, so both must agree on it.
        module.config.get_text_config().pad_token_id = padding_id(tokenizer, module.config)
    else:
        _extend_end_ids(module, end_ids(tokenizer, module))
    new_parameters = _new_parameters(module, info) if task == "sequence-classification" and spec.new_head else ()
    last_layer = LastLayer(module.base_model)
    result = LoadedModel(source, task, module, tokenizer, spec.device, spec.dtype, new_parameters, last_layer)
    module.eval()
    with quiet():
        result.separate_head = task == "causal-lm" and _has_separate_head(result)
        _verify_last_layer(result)
    return result


def _extend_end_ids(module: Any, ids: frozenset[int]) -> None:
    """Let a saved model's own `generate` stop where the answers of the training data stop."""
    generation = getattr(module, "generation_config", None)
    if generation is None or not ids:
        return
    known = generation.eos_token_id
    if not ids <= set(known if isinstance(known, list) else [known]):
        generation.eos_token_id = sorted(ids) if len(ids) > 1 else min(ids)


def _new_parameters(module: Any, info: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the parameters outside the pre-trained body.

    A head that was trained for another task counts as new, because it tells nothing about this
    task.
    """
    missing = set(info["missing_keys"]) | {entry[0] for entry in info["mismatched_keys"]}
    body = f"{module.base_model_prefix}."
    return tuple(sorted(name for name, _ in module.named_parameters() if name in missing or not name.startswith(body)))


@torch.inference_mode()
def _has_separate_head(loaded: LoadedModel) -> bool:
    """Test whether calling the body and then the output embedding gives the model's own logits."""
    module = loaded.module
    if module.get_output_embeddings() is None or module.base_model is module:
        return False
    ids = _probe(loaded, 1)
    positions = torch.arange(_PROBE_LENGTH, device=loaded.device)
    whole = loaded.logits(loaded.states(ids, positions))
    loaded.separate_head = True
    try:
        composed = loaded.logits(loaded.states(ids, positions))
    except (TypeError, RuntimeError, AttributeError, IndexError):
        return False
    return whole.shape == composed.shape and torch.allclose(whole, composed, atol=1e-4, rtol=1e-4)


def _verify_last_layer(loaded: LoadedModel) -> None:
    ids = _probe(loaded, 2)
    positions = torch.tensor([1, _PROBE_LENGTH - 1, ids.numel() - 2], device=loaded.device)

    def compute() -> Tensor:
        with loaded.autocast():
            if loaded.task == "causal-lm":
                return loaded.logits(loaded.states(ids, positions))
            return loaded.class_logits(ids, None, None)

    loaded.last_layer.verify(compute, loaded.dtype)


def _probe(loaded: LoadedModel, rows: int) -> Tensor:
    """Return token ids (rows, _PROBE_LENGTH) that every model accepts."""
    size = loaded.module.get_input_embeddings().weight.shape[0]
    return torch.arange(rows * _PROBE_LENGTH, device=loaded.device).remainder(size).reshape(rows, _PROBE_LENGTH)
