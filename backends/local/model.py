"""Base models in memory: loading one quietly, and its forward passes with logits only where they are asked for."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from backends.local.failures import translated
from backends.local.last_layer import LastLayer
from backends.local.model_source import ModelSource
from backends.local.options import Task

_PROBE_LENGTH = 6

_CACHE_VALUES = 2**20
"""Float32 values of the widest activation that a CPU computes at once: about what its caches hold. On an encoder with
1,536 values a token, 2,048 tokens at once took 1.2 times as long a token as 512 (docs/log.md)."""
_MIN_TOKENS = 512


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers and peft (log lines, progress bars, warnings) inside the block, and nothing after it."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@dataclass(eq=False)
class LoadedModel:
    """A model in memory, shared by the runs of this process, which train it one after another.

    `fresh` are the parameters that no checkpoint holds: a new classification head. `split` says that logits are the
    output embedding of the body's hidden states and nothing else, which was tried out, so that they can be computed for
    single positions. `pristine` holds the weights that a run changes, as they were (see `trainee`).
    """

    source: ModelSource
    task: Task
    module: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    fresh: tuple[str, ...]
    last_layer: LastLayer
    split: bool = False
    pristine: dict[str, Tensor] = field(default_factory=dict)
    tree_scoring: bool | None = None

    def arithmetic(self) -> AbstractContextManager[Any]:
        """Return the context of a forward pass: autocast where the arithmetic is not float32."""
        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    @property
    def has_dropout(self) -> bool:
        """Whether the training mode draws random numbers."""
        modules = self.module.modules()
        return any(isinstance(each, nn.Dropout) and each.p > 0 for each in modules) or any(
            float(getattr(self.module.config, name, 0.0) or 0.0) > 0 for name in ("attention_dropout", "attn_pdrop")
        )

    @property
    def vocabulary(self) -> int:
        """How many tokens the model knows."""
        return int(self.module.config.get_text_config().vocab_size)

    @property
    def tokens_in_cache(self) -> int:
        """How many tokens to compute at once, at most, to stay in a CPU's caches; without limit on other devices."""
        if self.device.type != "cpu":
            return sys.maxsize
        layers = [each for each in self.module.modules() if not isinstance(each, nn.Embedding)]
        weights = [each for layer in layers for each in layer.parameters(recurse=False) if each.ndim == 2]
        widest = max((max(each.shape) for each in weights if self.vocabulary not in each.shape), default=1)
        return max(_MIN_TOKENS, _CACHE_VALUES // widest)

    def states(self, ids: Tensor, where: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Return what `logits` takes, (N, ...), for the flat positions `where` (N), each once, of token ids (B, T).

        Without a mask the attention is causal, which needs none for padding on the right.
        """
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "use_cache": False}
        inputs = {name: each for name, each in inputs.items() if each is not None}
        with self.last_layer.only(where, (ids.shape[0], ids.shape[1])):
            whole: Tensor = self.module.base_model(**inputs)[0] if self.split else self.module(**inputs).logits
        return whole.reshape(-1, whole.shape[-1]).index_select(0, where)

    def logits(self, states: Tensor) -> Tensor:
        """Return logits (N, V) in float32."""
        logits: Tensor = self.module.get_output_embeddings()(states) if self.split else states
        return logits.float()

    def class_logits(self, ids: Tensor, mask: Tensor | None, segments: Tensor | None) -> Tensor:
        """Return logits (B, labels) in float32."""
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}
        inputs = {name: each.to(self.device) for name, each in given.items() if each is not None}
        batch, length = ids.shape
        first = torch.arange(batch, device=self.device) * length  # which most heads read alone; it was tried out
        with self.last_layer.only(first, (batch, length)):
            logits: Tensor = self.module(**inputs).logits
        return logits.float()


def load_tokenizer(source: ModelSource) -> Any:
    """Load a tokenizer. Raises BackendError."""
    from transformers import AutoTokenizer

    with quiet(), translated(f"loading the tokenizer of {source.name}"):
        return AutoTokenizer.from_pretrained(str(source.directory), local_files_only=True)


def load_model(
    source: ModelSource,
    task: Task,
    tokenizer: Any,
    device: torch.device,
    dtype: torch.dtype,
    weights_dtype: torch.dtype,
    labels: Sequence[str],
    new_head: bool = True,
) -> LoadedModel:
    """Load a model for a task; `labels` name the classes of a classifier, whose head is new unless told otherwise.

    Raises BackendError where the files are missing, damaged, or of a kind that transformers does not know.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    options: dict[str, Any] = {"dtype": weights_dtype, "local_files_only": True, "output_loading_info": True}
    with quiet(), translated(f"loading the model {source.name}"):
        if task == "causal-lm":
            loaded: Any = AutoModelForCausalLM.from_pretrained(str(source.directory), **options)
        else:
            names = dict(enumerate(labels))
            loaded = AutoModelForSequenceClassification.from_pretrained(
                str(source.directory),
                num_labels=len(labels),
                id2label=names,
                label2id={name: n for n, name in names.items()},
                ignore_mismatched_sizes=True,
                **options,
            )
        module, info = loaded
        module.to(device)
    if task == "sequence-classification" and module.config.pad_token_id is None:
        module.config.pad_token_id = tokenizer.pad_token_id or 0
    fresh = _fresh_parameters(module, info) if task == "sequence-classification" and new_head else ()
    result = LoadedModel(source, task, module, tokenizer, device, dtype, fresh, LastLayer(module.base_model))
    module.eval()
    with quiet():
        result.split = task == "causal-lm" and _is_split(result)
        _try_last_layer(result)
    return result


def _fresh_parameters(module: Any, info: dict[str, Any]) -> tuple[str, ...]:
    """Return the parameters that are not the pre-trained body's: a head from another task says nothing about ours."""
    missing = set(info["missing_keys"]) | {each[0] for each in info["mismatched_keys"]}
    body = f"{module.base_model_prefix}."
    return tuple(sorted(name for name, _ in module.named_parameters() if name in missing or not name.startswith(body)))


@torch.inference_mode()
def _is_split(loaded: LoadedModel) -> bool:
    """Try whether body and output embedding, called one after the other, give the model's own logits."""
    module = loaded.module
    if module.get_output_embeddings() is None or module.base_model is module:
        return False
    ids = _probe(loaded, 1)
    where = torch.arange(_PROBE_LENGTH, device=loaded.device)
    whole = loaded.logits(loaded.states(ids, where))
    loaded.split = True
    try:
        parts = loaded.logits(loaded.states(ids, where))
    except (TypeError, RuntimeError, AttributeError, IndexError):
        return False
    return whole.shape == parts.shape and torch.allclose(whole, parts, atol=1e-4, rtol=1e-4)


def _try_last_layer(loaded: LoadedModel) -> None:
    ids = _probe(loaded, 2)
    where = torch.tensor([1, _PROBE_LENGTH - 1, ids.numel() - 2], device=loaded.device)

    def compute() -> Tensor:
        with loaded.arithmetic():
            if loaded.task == "causal-lm":
                return loaded.logits(loaded.states(ids, where))
            return loaded.class_logits(ids, None, None)

    loaded.last_layer.try_out(compute, loaded.dtype)


def _probe(loaded: LoadedModel, rows: int) -> Tensor:
    """Return token ids (rows, T) that any model takes."""
    size = loaded.module.get_input_embeddings().weight.shape[0]
    return torch.arange(rows * _PROBE_LENGTH, device=loaded.device).remainder(size).reshape(rows, _PROBE_LENGTH)
