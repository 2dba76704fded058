"""The caches that all runs of a process share: models, tokenizers, data, speeds, active run.

All open backends of a process use the same cache, so that a worker's second trial loads nothing.
Runs share a model by training it one after another: a run that makes room for another first saves
its exact position.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Protocol

import numpy as np
import torch

from backends.contract import Dataset
from backends.local import encoding, model
from backends.local.encoded_data import CausalData, EncodedData
from backends.local.estimation import Speed
from backends.local.model import LoadedModel, ModelSpec
from backends.local.model_source import ModelSource
from backends.local.options import Task
from backends.local.special_tokens import check_token_ids
from backends.local.truncation import LengthRule

MAX_IDLE_MODEL_BYTES = 2 * 2**30
"""Bytes of base models that the cache keeps in addition to the model in use."""
_MAX_DATA_FILES = 16


class Suspendable(Protocol):
    """The run that currently trains with a cached model."""

    def suspend(self) -> None:
        """Save the run's exact position and give the model back."""


class ModelCache:
    """The caches of one process. Not thread-safe."""

    def __init__(self) -> None:
        self.active_run: Suspendable | None = None
        self.speeds: dict[Hashable, Speed] = {}
        self._open_backends = 0
        self._models: OrderedDict[Hashable, LoadedModel] = OrderedDict()
        self._tokenizers: dict[Hashable, Any] = {}
        self._data: OrderedDict[Hashable, EncodedData] = OrderedDict()

    # ------------------------------------------------------------------------------------- backends
    def add_backend(self) -> None:
        """Count an open backend."""
        self._open_backends += 1

    def remove_backend(self) -> None:
        """Uncount a closed backend. Free everything after the last one."""
        self._open_backends -= 1
        if self._open_backends <= 0:
            self._open_backends = 0
            self.clear()

    def clear(self) -> None:
        """Suspend the active run and free everything."""
        self.suspend_active_run()
        self._models.clear()
        self._tokenizers.clear()
        self._data.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def suspend_active_run(self) -> None:
        """Suspend the active run, if there is one, so that another run can use its model."""
        if self.active_run is not None:
            run, self.active_run = self.active_run, None
            run.suspend()

    # --------------------------------------------------------------------------------------- caches
    def tokenizer(self, source: ModelSource) -> Any:
        """Return the tokenizer of a model, loaded once."""
        key = str(source.directory.resolve())
        if key not in self._tokenizers:
            self._tokenizers[key] = model.load_tokenizer(source)
        return self._tokenizers[key]

    def model(self, spec: ModelSpec) -> LoadedModel:
        """Return a base model, loaded once. The least recently used models make room for it."""
        key = (
            spec.source.stamp, spec.task, spec.device, spec.dtype, spec.weights_dtype, spec.labels, spec.new_head,
        )  # fmt: skip
        if key not in self._models:
            self._evict(MAX_IDLE_MODEL_BYTES)
            self._models[key] = model.load_model(spec, self.tokenizer(spec.source))
        self._models.move_to_end(key)
        return self._models[key]

    def _evict(self, max_bytes: int) -> None:
        while self._models and sum(_bytes(loaded) for loaded in self._models.values()) > max_bytes:
            self._models.popitem(last=False)

    def encoded_data(
        self, source: ModelSource, task: Task, dataset: Dataset, part: str, rule: LengthRule
    ) -> EncodedData:
        """Return the encoded `train` or `valid` part, encoded once.

        Raises BackendError (user) if the file or one of its examples is unusable.
        """
        file = dataset.train if part == "train" else dataset.valid
        key = (
            file.sha256, file.path, str(source.directory.resolve()), task, dataset.layout, dataset.labels, dataset.stop,
            dataset.train_on, rule,
        )  # fmt: skip
        if key not in self._data:
            lines, tokenizer = encoding.read_lines(file.path), self.tokenizer(source)
            with encoding.missing_fields_reported(file.path):
                data: EncodedData
                if task == "causal-lm":
                    data = encoding.encode_causal(tokenizer, lines, dataset, rule, file.path)
                else:
                    with_segment_ids = source.uses_segment_ids
                    data = encoding.encode_classes(tokenizer, lines, dataset, rule, with_segment_ids, file.path)
            _check_tokens(data, source, tokenizer)
            self._data[key] = data
            while len(self._data) > _MAX_DATA_FILES:
                self._data.popitem(last=False)
        self._data.move_to_end(key)
        return self._data[key]


def _bytes(loaded: LoadedModel) -> int:
    tensors = [*loaded.module.parameters(), *loaded.original_weights.values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _check_tokens(data: EncodedData, source: ModelSource, tokenizer: Any) -> None:
    if source.vocabulary_size is not None:
        labels = data.label_ids if isinstance(data, CausalData) else None
        check_token_ids([*data.ids, *(labels or ())], source.vocabulary_size, tokenizer, source.name)


def fixed_sample(data: EncodedData, size: int) -> EncodedData:
    """Return `size` training examples on which every trial is measured: the same for each seed, in
    file order.
    """
    if size >= len(data.ids):
        return data
    chosen = np.random.default_rng(0).choice(len(data.ids), size=max(size, 1), replace=False)
    return data.take(sorted(int(index) for index in chosen))


MODEL_CACHE = ModelCache()
