"""What a repair is: a pure function over the rows that says what it changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal, NamedTuple, TypeAlias

from sweeps.data.checks.texts import LONG_EXAMPLE_CHARACTERS
from sweeps.data.examples import Example
from sweeps.data.repairs.rows import Parts, Row, Texts

_OPERATIONS = re.compile(r"(?<=\d) *[-+*/<>=^%] *(?=\d)")
"""Signs that make another task of the same words: `2 + 3` and `2 - 3`."""

_LARGEST_CLUSTER = 50
_LARGEST_SHARE = 0.1
"""A cluster larger than both is a template that many texts are made from, not a copied text."""


class Change(NamedTuple):
    """One change: the text before and after it; `after` is None if the row is left out.

    `reason` says why, unless the two texts show it. `rows` is above one only for lines that the
    reader counts together, of which `place` is the first.
    """

    place: str
    before: str
    after: str | None
    reason: str = ""
    rows: int = 1


@dataclass(frozen=True)
class Facts:
    """What the repairs know of a data set beside its rows.

    `max_characters` is the limit of prompt and answer together. `known_clusters` remembers the
    clusters of the last rows, by their digest: several repairs and the split ask for the same.
    """

    texts: Texts
    is_classification: bool
    max_characters: int = LONG_EXAMPLE_CHARACTERS
    known_clusters: dict[bytes, list[list[int]]] = field(default_factory=dict, compare=False)

    def near_clusters(self, rows: Sequence[Row]) -> list[list[int]]:
        """Return the clusters of rows that are nearly the same, by their ascending indices.

        Rows of different labels are not. The order of the rows does not matter: which rows are near
        depends on what most of them have in common, which is taken from a sample.
        """
        digest = blake2b(bytes([self.is_classification]))
        for row in rows:
            digest.update(f"{self.texts.prompt(row)}\0{self.texts.answer(row)}\0".encode(errors="surrogatepass"))
        if digest.digest() not in self.known_clusters:
            self.known_clusters.clear()
            self.known_clusters[digest.digest()] = self._near_clusters(rows)
        return self.known_clusters[digest.digest()]

    def _near_clusters(self, rows: Sequence[Row]) -> list[list[int]]:
        from sweeps.data.near_duplicates import NearDuplicates, near_duplicates

        examples = [
            Example(prompt := self.texts.prompt(row), self.texts.answer(row), (prompt,), row.file, row.line)
            for row in rows
        ]
        order = sorted(range(len(rows)), key=lambda index: examples[index][:2])
        found = near_duplicates([examples[index] for index in order], self.is_classification)
        operations = [_OPERATIONS.findall(examples[index].prompt) for index in order]
        pairs = tuple(
            pair for pair in found.pairs if pair.similarity < 1 or operations[pair.earlier] == operations[pair.later]
        )
        clusters = [[order[index] for index in members] for members in NearDuplicates(pairs).clusters()]
        limit = max(_LARGEST_CLUSTER, _LARGEST_SHARE * len(rows))
        return sorted(sorted(members) for members in clusters if len(members) <= limit)


@dataclass(frozen=True)
class Repaired:
    """The rows after a repair, and what it changed; nothing changed if there are no `changes`."""

    parts: Parts
    changes: Sequence[Change]


Mode: TypeAlias = Literal["required", "usual", "on request"]


@dataclass(frozen=True)
class Repair:
    """A repair. Its `code` never changes once published; `mends` are the codes of findings.

    No sweep can use the data without a `required` repair. One `on request` may remove examples that
    the user wants, so a script has to name it.
    """

    code: str
    title: str
    why: str
    mends: tuple[str, ...]
    apply: Callable[[Parts, Facts], Repaired]
    mode: Mode = "usual"
