"""A seeded sample of a part that may be larger than memory, the same on every machine."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from hashlib import blake2b

from sweeps.data.examples import Example


def sample(examples: Sequence[Example], limit: int, seed: int) -> list[Example]:
    """Return at most `limit` examples in their order: those with the smallest hashes of the prompt.

    One pass, and no more than `limit` examples in memory.
    """
    if len(examples) <= limit:
        return list(examples)
    ranked = ((_rank(seed, example.prompt), index, example) for index, example in enumerate(examples))
    chosen = heapq.nsmallest(limit, ranked, key=lambda entry: entry[:2])
    return [example for _, _, example in sorted(chosen, key=lambda entry: entry[1])]


def _rank(seed: int, text: str) -> bytes:
    return blake2b(text.encode(errors="surrogatepass"), digest_size=8, salt=seed.to_bytes(16, "big")).digest()
