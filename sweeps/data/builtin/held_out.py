"""Draws of generated examples, such that no part shares a combination of words with another."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple
from zlib import crc32

from sweeps.data.builtin.nli_words import SPLITS, Split

_PARTS_OF_TEN: tuple[Split, ...] = ("train",) * 6 + ("valid",) * 2 + ("test",) * 2

_MAX_ATTEMPTS = 10_000
"""Draws for one new example before `draw_records` gives up."""


class Drawn(NamedTuple):
    """A drawn record, and the combination of its content that decides its part."""

    combination: str
    record: dict[str, str]


def part_of(combination: str) -> Split:
    """Return the only part in which a combination may occur: six tenths train, two tenths test."""
    return _PARTS_OF_TEN[crc32(combination.encode()) % len(_PARTS_OF_TEN)]


def draw_records(draw: Callable[[Random], Drawn], part: Split, examples: int, seed: int) -> list[dict[str, str]]:
    """Return `examples` different records of a part.

    The same arguments give the same records, and fewer examples give the beginning of the larger
    set. No combination occurs in two parts, whatever the seeds. Every word may occur in all of
    them. Raises ValueError if there are not so many records.
    """
    if examples < 0:
        raise ValueError(f"examples must not be negative: {examples}")
    assert part in SPLITS
    rng = Random(f"{part} {seed}")
    records: dict[tuple[str, ...], dict[str, str]] = {}
    attempts = 0
    while len(records) < examples:
        combination, record = draw(rng)
        content = tuple(record.values())
        attempts += 1
        if part_of(combination) == part and content not in records:
            records[content] = record
            attempts = 0
        elif attempts == _MAX_ATTEMPTS:
            raise ValueError(f"only about {len(records)} different examples exist; request fewer")
    return list(records.values())
