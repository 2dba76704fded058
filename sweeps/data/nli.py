"""`builtin:nli`: generated pairs of sentences, shaped as SNLI's but of our own writing. They are never SNLI results."""

from __future__ import annotations

from random import Random
from zlib import crc32

from sweeps.data.nli_scenes import LABELS, Label, Pair, World
from sweeps.data.nli_words import Split, words_of

_ATTEMPTS = 10_000
"""Draws in search of one new pair before the world counts as told."""


def reserved(premise: str) -> bool:
    """Say whether labelled pairs may use this premise; text for pre-training joins sentences to the others only."""
    return crc32(premise.encode()) % 2 == 0


def generate(split: Split, examples: int, seed: int, label_noise: float = 0.0) -> list[dict[str, str]]:
    """Return `examples` records `{"premise", "hypothesis", "label"}`, label entailment, neutral or contradiction.

    The same arguments give the same records, and a smaller number of examples gives the beginning of the larger set.
    The labels' counts differ by at most 1 before noise. No pair occurs twice in a split, and none in two splits,
    whatever the seeds: each split has its own names, words and sentence patterns. `label_noise` (0 to 1) is the share
    of records whose label is replaced by another one; the sentences stay. Raises ValueError for an unusable number.
    """
    if examples < 0:
        raise ValueError(f"examples must not be negative: {examples}")
    if not 0.0 <= label_noise <= 1.0:
        raise ValueError(f"label_noise must lie between 0 and 1: {label_noise}")
    world, rng = World(words_of(split)), Random(f"{split} {seed}")
    pairs: dict[tuple[str, str], Label] = {}
    while len(pairs) < examples:
        for label in rng.sample(LABELS, len(LABELS)):
            pair = _new_pair(rng, world, label, pairs)
            pairs[pair.premise, pair.hypothesis] = label
    records = [
        {"premise": premise, "hypothesis": hypothesis, "label": label}
        for (premise, hypothesis), label in list(pairs.items())[:examples]
    ]
    noise = Random(f"noise {split} {seed}")
    for record in noise.sample(records, round(label_noise * examples)):
        record["label"] = noise.choice([each for each in LABELS if each != record["label"]])
    return records


def _new_pair(rng: Random, world: World, label: Label, known: dict[tuple[str, str], Label]) -> Pair:
    for _ in range(_ATTEMPTS):
        pair = world.pair(rng, label)
        new = pair.premise != pair.hypothesis and (pair.premise, pair.hypothesis) not in known
        if new and reserved(pair.premise):
            return pair
    raise ValueError(f"there are no more than about {len(known)} different pairs; ask for fewer examples")
