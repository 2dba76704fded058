"""The shape of a data set for its report: lengths, unseen words, and its strangest examples.

The sums are over all examples; the strangest examples are those of a sample.
"""

from __future__ import annotations

import math
import re
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweeps.data.baselines.sampling import sample
from sweeps.data.baselines.text_features import vectors
from sweeps.data.checks.view import DataView
from sweeps.data.examples import Example

BINS = 24
"""The most bars of a histogram of lengths."""

STRANGEST = 10
"""How many of the strangest examples are listed."""

NEIGHBOURS = 5
"""An example is as strange as its nearest few are different from it: one twin does not make a text
that was pasted in twice a usual one."""

COMPARED = 2_000
"""Training examples that are compared with each other; of more, a sample."""

SHOWN_CHARACTERS = 400
"""The part of a text that the profile keeps."""

VOCABULARY_EXAMPLES = 20_000
"""Examples of a part whose words are counted; of more, a sample."""

_WORD = re.compile(r"\w+")
_ROWS = 256


@dataclass(frozen=True)
class Histogram:
    """Counts by length in characters. Bar n covers `edges[n]` up to, without, `edges[n + 1]`."""

    edges: tuple[int, ...]
    counts: Mapping[str, tuple[int, ...]]
    """By part."""


@dataclass(frozen=True)
class StrangeExample:
    """A training example that resembles no other.

    `similarity` is the mean cosine of its TF-IDF vector with those of its nearest neighbours.
    """

    place: str
    prompt: str
    completion: str
    similarity: float


@dataclass(frozen=True)
class DataProfile:
    """The shape of a data set.

    `unseen_words` is, by part, the share of its words that no training example has. `strangest`
    lists the examples that are farthest from the others, of `compared` training examples.
    """

    prompts: Histogram
    completions: Histogram
    unseen_words: Mapping[str, float]
    strangest: tuple[StrangeExample, ...]
    compared: int


def profile(view: DataView) -> DataProfile:
    """Return the shape of a data set. Deterministic."""
    prompts: dict[str, array[int]] = {}
    completions: dict[str, array[int]] = {}
    for part, examples in view.parts.items():
        prompts[part], completions[part] = array("Q"), array("Q")
        for example in examples:
            prompts[part].append(sum(map(len, example.segments)))
            completions[part].append(len(example.completion.removesuffix(view.recipe.stop).strip()))
    compared = sample(view.parts["train"], COMPARED, view.seed)
    return DataProfile(
        _histogram(prompts), _histogram(completions), _unseen_words(view), _strangest(compared, view), len(compared)
    )


def _histogram(lengths: Mapping[str, Sequence[int]]) -> Histogram:
    """Count lengths in bars of equal width; of equal ratio if the longest is far above the mean."""
    known = [length for values in lengths.values() for length in (min(values, default=0), max(values, default=0))]
    low, high = min(known, default=0), max(known, default=0)
    total, count = sum(map(sum, lengths.values())), sum(map(len, lengths.values()))
    if high > 5 * total / max(count, 1):
        ratio = math.log((high + 1) / max(low, 1)) / BINS
        edges = sorted({low, *(round(max(low, 1) * math.exp(ratio * number)) for number in range(1, BINS)), high + 1})
    else:
        width = max(1, math.ceil((high + 1 - low) / BINS))
        edges = [*range(low, high + 1, width), high + 1]
    counts: dict[str, tuple[int, ...]] = {}
    for part, values in lengths.items():
        bars = [0] * (len(edges) - 1)
        for value in values:
            bars[bisect_right(edges, value) - 1] += 1
        counts[part] = tuple(bars)
    return Histogram(tuple(edges), counts)


def _unseen_words(view: DataView) -> dict[str, float]:
    known: set[str] = set()
    shares: dict[str, float] = {}
    for part, examples in view.parts.items():
        words = unseen = 0
        for example in sample(examples, VOCABULARY_EXAMPLES, view.seed):
            found = _WORD.findall(" ".join(example.segments).casefold())
            if part == "train":
                known.update(found)
            words += len(found)
            unseen += sum(word not in known for word in found)
        if part != "train" and words:
            shares[part] = unseen / words
    return shares


def _strangest(examples: Sequence[Example], view: DataView) -> tuple[StrangeExample, ...]:
    """Return the examples with the least similar neighbours, the strangest first."""
    import numpy

    vectorized = vectors(["\n".join(example.segments) for example in examples], {})
    if vectorized is None or len(examples) <= NEIGHBOURS:
        return ()
    known, columns = vectorized[0], vectorized[0].T.tocsr()
    means: list[float] = []
    for start in range(0, len(examples), _ROWS):
        similarity = (known[start : start + _ROWS] @ columns).toarray()
        rows = numpy.arange(similarity.shape[0])
        similarity[rows, start + rows] = 0.0
        nearest = numpy.partition(similarity, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:]
        means += nearest.mean(axis=1).round(6).tolist()
    order = sorted(range(len(examples)), key=lambda index: (means[index], index))[:STRANGEST]
    return tuple(
        StrangeExample(
            examples[index].place,
            _cut("\n".join(examples[index].segments)),
            _cut(examples[index].completion.removesuffix(view.recipe.stop)),
            means[index],
        )
        for index in order
    )


def _cut(text: str) -> str:
    text = text.strip()
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"
