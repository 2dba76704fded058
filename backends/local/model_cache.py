"""What the runs of one process share: base models, tokenizers, encoded data, and the one run that is being trained.

All open backends of a process use the same bench, so that the second trial of a worker loads nothing. Models are shared
by being trained one after another: a run that has to make room is written down exactly where it is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch

from backends.contract import Dataset
from backends.local import encoding, model
from backends.local.encoding import Data
from backends.local.model import LoadedModel
from backends.local.model_source import ModelSource
from backends.local.options import Task

MODEL_MEMORY = 2 * 2**30
"""Bytes of base models that are kept besides the one in use."""
_DATA_SETS = 16


class Suspendable(Protocol):
    """The run at the bench."""

    def suspend(self) -> None:
        """Write down where the run is and give the model back."""


class ModelCache:
    """The caches of a process. Not for several threads."""

    def __init__(self) -> None:
        self.active: Suspendable | None = None
        self._users = 0
        self._models: OrderedDict[Hashable, LoadedModel] = OrderedDict()
        self._tokenizers: dict[Hashable, Any] = {}
        self._data: OrderedDict[Hashable, Data] = OrderedDict()
        self.speeds: dict[Hashable, tuple[float, float]] = {}

    # ----------------------------------------------------------------------------------------------------------- users
    def enter(self) -> None:
        """Count an open backend."""
        self._users += 1

    def leave(self) -> None:
        """Free everything when the last backend is closed."""
        self._users -= 1
        if self._users <= 0:
            self._users = 0
            self.clear()

    def clear(self) -> None:
        """Suspend the active run and free everything."""
        self.suspend_active()
        self._models.clear()
        self._tokenizers.clear()
        self._data.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def suspend_active(self) -> None:
        """Make room at the bench."""
        if self.active is not None:
            run, self.active = self.active, None
            run.suspend()

    # ---------------------------------------------------------------------------------------------------------- caches
    def tokenizer(self, source: ModelSource) -> Any:
        """Return the tokenizer of a model."""
        key = str(source.directory.resolve())
        if key not in self._tokenizers:
            self._tokenizers[key] = model.load_tokenizer(source)
        return self._tokenizers[key]

    def model(
        self,
        source: ModelSource,
        task: Task,
        device: torch.device,
        dtype: torch.dtype,
        weights_dtype: torch.dtype,
        labels: Sequence[str],
        new_head: bool,
    ) -> LoadedModel:
        """Return a base model, loaded once; those used least recently make room for it."""
        classes = tuple(labels) if task == "sequence-classification" else ()
        key = (source.stamp, task, device, dtype, weights_dtype, classes, new_head)
        if key not in self._models:
            self._evict(MODEL_MEMORY)
            tokenizer = self.tokenizer(source)
            self._models[key] = model.load_model(
                source, task, tokenizer, device, dtype, weights_dtype, classes, new_head
            )
        self._models.move_to_end(key)
        return self._models[key]

    def _evict(self, limit: int) -> None:
        while self._models and sum(_bytes(each) for each in self._models.values()) > limit:
            self._models.popitem(last=False)

    def data(self, source: ModelSource, task: Task, dataset: Dataset, part: str, max_length: int) -> Data:
        """Return encoded `train` or `valid` data. Raises BackendError (user) where the file or an example is bad."""
        file = dataset.train if part == "train" else dataset.valid
        key = (
            file.sha256, file.path, str(source.directory.resolve()), task, dataset.layout, dataset.labels, dataset.stop,
            max_length,
        )  # fmt: skip
        if key not in self._data:
            lines, tokenizer = encoding.read_lines(file.path), self.tokenizer(source)
            with encoding.readable(file.path):
                if task == "causal-lm":
                    self._data[key] = encoding.encode_causal(tokenizer, lines, dataset, max_length)
                else:
                    typed = source.tells_segments_apart
                    self._data[key] = encoding.encode_classes(tokenizer, lines, dataset, max_length, typed)
            while len(self._data) > _DATA_SETS:
                self._data.popitem(last=False)
        self._data.move_to_end(key)
        return self._data[key]


def _bytes(loaded: LoadedModel) -> int:
    tensors = [*loaded.module.parameters(), *loaded.pristine.values()]
    return sum(each.numel() * each.element_size() for each in tensors)


def fixed_sample(data: Data, size: int) -> Data:
    """Return the training examples that every trial is measured on: the same for each seed, in the file's order."""
    if size >= len(data.ids):
        return data
    chosen = np.random.default_rng(0).choice(len(data.ids), size=max(size, 1), replace=False)
    return data.take(sorted(int(each) for each in chosen))


BENCH = ModelCache()
"""The bench of this process."""


@contextmanager
def empty_bench() -> Iterator[ModelCache]:
    """Use the bench for something else than a run."""
    BENCH.suspend_active()
    yield BENCH
