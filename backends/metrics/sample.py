"""Chooses the validation examples for which the evaluations generate texts."""

from __future__ import annotations

import random


def sampled_examples(examples: int, count: int, digest: str) -> tuple[int, ...]:
    """Return the indices of `count` of `examples` examples, in ascending order; all if there are
    fewer.

    `digest` is that of the data file. All trials of a sweep therefore use the same examples, so
    that their metrics can be compared example by example.
    """
    if count >= examples:
        return tuple(range(examples))
    return tuple(sorted(random.Random(f"{digest}:{count}").sample(range(examples), count)))
