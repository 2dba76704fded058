"""The local backend: fine-tuning with PyTorch, transformers and peft on this machine.

Training runs in the calling process, on a CPU or a GPU.

Importing this package loads no heavy library. `LocalBackend` loads on first access, and torch loads
with the first run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backends.local.backend import LocalBackend

__all__ = ["LocalBackend"]


def __getattr__(name: str) -> object:
    if name == "LocalBackend":
        from backends.local.backend import LocalBackend

        return LocalBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
