"""Thorough checks of prompts that are nearly the same: in train, and in two parts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, chain

from sweeps.data.checks.cases import Cases, beside
from sweeps.data.checks.view import DataView
from sweeps.data.example_store import ExampleSequence
from sweeps.data.examples import Example
from sweeps.data.findings import Finding
from sweeps.data.near_duplicates import NearDuplicates, NearPair, near_duplicates

REPORTED_SHARE = 0.005
"""Share of the examples of a part with a near duplicate from which it is reported (our choice).

Less moves a score by at most half a point.
"""

PUBLISHED_SHARE = 0.05
"""The same for a published or generated set, which the user cannot change."""


def check_near_duplicates(view: DataView) -> Iterator[Finding]:
    """Report near duplicates in train, and those of validation and test in an earlier part.

    Examples with identical prompts have findings of their own, and do not count here.
    """
    examples = JoinedParts(view.parts)
    found = near_duplicates(examples, bool(view.labels))
    pairs = _pairs_by_part(found, examples)
    share = PUBLISHED_SHARE if view.published else REPORTED_SHARE
    note = f"; {found.estimated:,} pairs by their signatures only" if found.estimated else ""
    for (later, earlier), partners in pairs.items():
        total = len(view.parts[later])
        if len(partners) < share * total:
            continue
        indices = sorted(partners)
        cases = Cases.of(examples, indices)
        like = f"the first is like {beside(examples[indices[0]], examples[partners[indices[0]]])}{note}"
        are = "is" if cases.count == 1 else "are"
        if later == earlier:
            message = f"{cases.count:,} of {total:,} {later} examples {are} nearly the same as an earlier one; {like}"
            hint = "they add little, and weigh more than others in training; drop: [near-duplicate] leaves them out"
            yield cases.warning("near-duplicate", message, hint)
        else:
            message = f"{cases.count:,} of {total:,} {later} examples {are} nearly the same as one of {earlier}; {like}"
            hint = "the score would be too high; drop: [near-overlap] leaves them out"
            yield cases.warning("near-overlap", message, hint)


def _pairs_by_part(found: NearDuplicates, examples: JoinedParts) -> dict[tuple[str, str], dict[int, int]]:
    """Return, by later and earlier part, which example resembles which earlier one.

    An example that equals another one but for case and punctuation shares what that one resembles.
    Only the repetitions in train are of interest, not those in another part.
    """
    equal: dict[int, int] = {}
    similar: dict[int, list[int]] = {}
    for pair in found.pairs:
        if pair.similarity == 1:
            equal[pair.later] = pair.earlier
        else:
            similar.setdefault(pair.later, []).append(pair.earlier)
    pairs: dict[tuple[str, str], dict[int, int]] = {}
    for later in sorted({*equal, *similar}):
        twin = equal.get(later)
        others = [] if twin is None or _is_identical(NearPair(twin, later, 1), examples) else [twin]
        for other in chain(others, similar.get(later, ()), similar.get(twin, ()) if twin is not None else ()):
            key = (examples.part_of(later), examples.part_of(other))
            if key[0] != key[1] or key[0] == "train":
                pairs.setdefault(key, {}).setdefault(later, other)
    return pairs


def _is_identical(pair: NearPair, examples: Sequence[Example]) -> bool:
    return examples[pair.earlier].prompt == examples[pair.later].prompt


class JoinedParts(ExampleSequence):
    """The examples of all parts, one after the other."""

    def __init__(self, parts: Mapping[str, Sequence[Example]]) -> None:
        self._names = list(parts)
        self._parts = list(parts.values())
        self._ends = list(accumulate(map(len, self._parts)))

    def part_of(self, index: int) -> str:
        """Return the name of the part that holds this example."""
        return self._names[bisect_right(self._ends, index)]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Example]:
        return chain.from_iterable(self._parts)

    def _at(self, index: int) -> Example:
        part = bisect_right(self._ends, index)
        return self._parts[part][index - (self._ends[part - 1] if part else 0)]
