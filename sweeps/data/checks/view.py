"""What the checks see of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweeps.data.examples import Example, Recipe


@dataclass(frozen=True)
class DataView:
    """The parts of a data set as the sweep uses them: train, valid and, if there is one, test.

    The examples may lie on disk: iterating costs a pass over a file, and gives new objects each
    time. `labels` are the completions of a classification with their stop sequence; empty
    otherwise. A user cannot change a `published` split.
    """

    parts: Mapping[str, Sequence[Example]]
    recipe: Recipe
    labels: tuple[str, ...]
    published: bool
    seed: int
