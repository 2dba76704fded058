"""Gradient checkpointing: layers that keep only their input, and compute the rest again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from backends.local.model import LoadedModel, quiet
from backends.local.model_source import user_error


@contextmanager
def checkpointed_layers(model: LoadedModel, enabled: bool) -> Iterator[None]:
    """Inside the block, every layer but the last keeps only its input for the backward pass.

    Gradients stay the same: dropout draws the same numbers again (Chen et al. 2016, "Training Deep
    Nets with Sublinear Memory Cost"). The last layer keeps its activations. The backward pass needs
    them first, and the layer may compute only some positions (see `last_layer`).

    Raises BackendError (user) for an architecture that has no checkpointing.
    """
    if not enabled:
        yield
        return
    module = model.module
    if not getattr(module, "supports_gradient_checkpointing", False):
        raise user_error(
            f"{model.source.name} does not support gradient checkpointing", "leave out backend.gradient_checkpointing"
        )
    # transformers 5.23 renamed the method and keeps the old name with a warning.
    prefix = "activation" if hasattr(module, "activation_checkpointing_enable") else "gradient"
    enable = getattr(module, f"{prefix}_checkpointing_enable")
    with quiet():
        enable(**{f"{prefix}_checkpointing_kwargs": {"use_reentrant": False}})
    last_layer = model.last_layer.layer
    parts: Iterable[Any] = () if last_layer is None else last_layer.modules()
    for part in parts:
        if hasattr(part, "gradient_checkpointing"):
            part.gradient_checkpointing = False
    try:
        yield
    finally:
        with quiet():
            getattr(module, f"{prefix}_checkpointing_disable")()
