"""What the checks see of the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from sweeps.data.examples import ChatRecipe, Example, Recipe


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

    @cached_property
    def label_counts(self) -> Mapping[str, Mapping[str, int]]:
        """The number of examples of each label by part, with zeros; empty without labels."""
        counts: dict[str, dict[str, int]] = {}
        for part, examples in self.parts.items() if self.labels else ():
            found = Counter(example.completion for example in examples)
            counts[part] = {label: found[label] for label in self.labels}
        return counts

    def answer(self, example: Example) -> str:
        """Return the completion without the template's first words and the stop sequence."""
        return example.completion.removesuffix(self.recipe.stop).removeprefix(self._first_words)

    @cached_property
    def _first_words(self) -> str:
        if isinstance(self.recipe, ChatRecipe):
            return ""
        return self.recipe.completion.fill([""] * len(self.recipe.completion.fields)).removesuffix(
            self.recipe.completion.tail
        )

    def later_parts(self) -> Iterator[tuple[str, Sequence[Example]]]:
        """Yield the parts other than train that have examples, with their names."""
        for part, examples in self.parts.items():
            if part != "train" and examples:
                yield part, examples
