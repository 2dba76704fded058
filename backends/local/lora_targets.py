"""The layers that `lora_target` names one by one. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from backends.contract import BackendError
from backends.local.hyperparameters import LORA_TARGETS
from backends.local.model_source import ModelSource, user_error

_MAX_SHOWN = 20


def target_names(target: str) -> list[str]:
    """Return the module names of a comma-separated list."""
    return [name for part in target.split(",") if (name := part.strip())]


def is_named(layer: str, name: str) -> bool:
    """Whether the full name of a layer ends with `name`, which may have several components."""
    return layer == name or layer.endswith(f".{name}")


def unknown_target(unknown: Sequence[str], layers: Iterable[str], model_name: str) -> BackendError:
    """Return the error for names that match no layer; it lists the names that would."""
    last_names = sorted({layer.rpartition(".")[2] for layer in layers if not layer.rpartition(".")[2].isdigit()})
    shown = ", ".join([*last_names[:_MAX_SHOWN], *(["..."] if len(last_names) > _MAX_SHOWN else [])])
    message = f"lora_target names {', '.join(unknown)}, which {model_name} does not have"
    if not unknown:
        message = "lora_target is empty"
    return user_error(message, f"use {', '.join(LORA_TARGETS)}, or some of: {shown}")


def check_target(target: str, base: ModelSource) -> None:
    """Raise BackendError (user) if a name in `target` matches no matrix in the weight files.

    Files of another kind than safetensors are not read: then only the loaded model can tell.
    """
    if target in LORA_TARGETS:
        return
    matrices = base.matrices()
    if matrices is None:
        return
    names = target_names(target)
    unknown = [name for name in names if not any(is_named(matrix, name) for matrix in matrices)]
    if unknown or not names:
        raise unknown_target(unknown, matrices, base.name)
