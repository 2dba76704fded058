"""NEFTune: noise on the input embeddings of a model while it trains."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def embedding_noise(model: Any, alpha: float) -> Iterator[None]:
    """Inside the block, add noise to the input embeddings of a transformers model in training mode.

    The noise of a batch of embeddings (B, T, D) is uniform in [-a, a], with a = alpha / sqrt(T D),
    where T counts the padding too (Jain et al. 2023, "NEFTune: Noisy Embeddings Improve
    Instruction Finetuning", algorithm 1, as transformers implements it). It comes from torch's
    random state. An alpha of 0 adds nothing and draws nothing.
    """
    if alpha == 0:
        yield
        return

    def add_noise(module: nn.Module, inputs: tuple[Any, ...], embeddings: Tensor) -> Tensor | None:
        if not module.training:
            return None
        largest = alpha / math.sqrt(embeddings.shape[-2] * embeddings.shape[-1])
        return embeddings + embeddings.new_empty(embeddings.shape).uniform_(-largest, largest)

    hook = model.get_input_embeddings().register_forward_hook(add_noise)
    try:
        yield
    finally:
        hook.remove()
