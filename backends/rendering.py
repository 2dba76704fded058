"""The optional protocol of backends that show how they train an example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from backends.contract import TrainingRequest

LOOKED_AT = 100
"""Among how many lines, from the first on, a backend looks for the example to show."""


@dataclass(frozen=True)
class Piece:
    """A part of the text that a model reads, and whether it is trained to write it."""

    text: str
    is_trained: bool


@dataclass(frozen=True)
class RenderedExample:
    """A training example as the model reads it.

    `example` is its number in the training file, from 1. `notes` are sentences about all training
    examples that the user should know, such as what does not fit.
    """

    example: int
    pieces: tuple[Piece, ...]
    notes: tuple[str, ...] = ()


@runtime_checkable
class SupportsRendering(Protocol):
    """A backend that knows the text of an example, or at least its parts."""

    def render(self, request: TrainingRequest) -> RenderedExample:
        """Return an example of the training file: the first one of those with the most answers.

        Backends look at `LOOKED_AT` lines. Sends no request. Raises BackendError for data that
        `check` rejects.
        """
        ...
