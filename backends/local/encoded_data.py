"""Examples as arrays of token ids: what a run trains and measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from backends.local.truncation import Truncation

Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class AnswerCounts:
    """How many answers the sequences train, how many they do not, and why.

    `lost` answers are in exchanges that a conversation lost because it is too long, or after
    messages that the chat template rejects. `split` counts the conversations whose answers needed
    several sequences.
    """

    trained: int
    lost: int = 0
    split: int = 0


@dataclass(frozen=True)
class CausalData:
    """Encoded sequences of a language model, one per example unless a conversation needs several.

    `targets[i]` says of each token of `ids[i]` whether it is trained and measured. The first token
    of a sequence never is, because no token precedes it; the last one always is.

    `label_ids` holds the tokens of each allowed completion and `labels[i]` the index of the correct
    one. Both are None if the data set has no labels. With labels, all targets of a sequence are at
    its end. `truncation` says what the limit of tokens took from the examples.
    """

    ids: tuple[Ids, ...]
    targets: tuple[Flags, ...]
    labels: Ids | None
    label_ids: tuple[Ids, ...] | None
    truncation: Truncation
    answers: AnswerCounts

    @property
    def lengths(self) -> Ids:
        """The number of tokens of each sequence, (N,)."""
        return np.array([len(sequence) for sequence in self.ids], dtype=np.int64)

    @cached_property
    def completion_starts(self) -> Ids:
        """The index of the first target of each sequence, at least 1, (N,)."""
        return np.array([int(flags.argmax()) for flags in self.targets], dtype=np.int64)

    @cached_property
    def target_counts(self) -> Ids:
        """The number of targets of each sequence, at least 1, (N,)."""
        return np.array([int(flags.sum()) for flags in self.targets], dtype=np.int64)

    def take(self, indices: Sequence[int]) -> CausalData:
        """Return the sequences at `indices`, in that order. The counts stay those of all data."""
        labels = None if self.labels is None else self.labels[list(indices)]
        ids, targets = tuple(self.ids[i] for i in indices), tuple(self.targets[i] for i in indices)
        return CausalData(ids, targets, labels, self.label_ids, self.truncation, self.answers)


@dataclass(frozen=True)
class ClassData:
    """Encoded examples of an encoder: token ids, segment ids (None if the model has none), and
    label indices.
    """

    ids: tuple[Ids, ...]
    segments: tuple[Ids, ...] | None
    labels: Ids
    truncation: Truncation

    @property
    def lengths(self) -> Ids:
        """The number of tokens of each example, (N,)."""
        return np.array([len(example) for example in self.ids], dtype=np.int64)

    def take(self, indices: Sequence[int]) -> ClassData:
        """Return the examples at `indices`, in that order."""
        segments = None if self.segments is None else tuple(self.segments[i] for i in indices)
        return ClassData(tuple(self.ids[i] for i in indices), segments, self.labels[list(indices)], self.truncation)


EncodedData = CausalData | ClassData
