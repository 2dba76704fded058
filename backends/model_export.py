"""The optional protocol of backends that hand out their models for use without this software."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

ExportFormat = Literal["adapter", "merged", "gguf"]
"""`adapter`: a PEFT adapter. `merged`: a complete model in the transformers layout, with an adapter
merged into its weights. `gguf`: a file for llama.cpp."""

FORMATS: tuple[ExportFormat, ...] = ("adapter", "merged", "gguf")


@runtime_checkable
class SupportsExport(Protocol):
    """A backend whose models are files that other programs can load."""

    def export(self, model: str, file_format: ExportFormat, folder: Path) -> None:
        """Write a kept model into the existing, empty `folder`.

        Raises BackendError if the model does not exist, or not in this format.
        """
        ...
