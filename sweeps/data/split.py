"""Dividing and selecting examples: seeded, stratified, and independent of the order in which they stand in the file.

Examples are ordered by a hash of seed and text; a part takes the first ones of each stratum. So an example that is
added moves few others, and a larger selection with the same seed holds nearly all of a smaller one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b


def apportion(counts: Mapping[str, int], total: int, at_least_one: bool = False) -> dict[str, int]:
    """Divide `total` seats in proportion to the counts (largest remainder); nobody gets more than its count.

    Without `at_least_one` each share is within one of the exact proportion. With it, everybody gets a seat first where
    there are enough of them. A total above the sum of the counts gives everybody its count. Ties go by name.
    """
    available = sum(counts.values())
    if total >= available:
        return dict(counts)
    seats = {name: count * total // available for name, count in counts.items()}
    order = sorted(counts, key=lambda name: (-(counts[name] * total % available), name))
    for name in order[: total - sum(seats.values())]:
        seats[name] += 1
    if at_least_one and total >= len(counts):
        for name in sorted(counts):
            if not seats[name] and counts[name]:
                seats[max(sorted(seats), key=lambda each: seats[each])] -= 1
                seats[name] = 1
    return seats


def split(
    prompts: Sequence[str], labels: Sequence[str], fractions: Mapping[str, float], seed: int
) -> dict[str, list[int]]:
    """Divide examples into `train` and one part per fraction; return ascending indices that partition the set.

    Identical prompts stay together. Each label is divided in proportion (within one example where no prompt is there
    twice; give the same label to all for a plain split), and every label is in `train`. A part that gets less than one
    example gets one where there is a label with enough of them; it may be empty in very small sets.
    """
    groups: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(index)
    frequency = Counter(labels)
    strata: dict[str, list[str]] = {}
    for prompt, members in groups.items():
        rarest = min({labels[index] for index in members}, key=lambda label: (frequency[label], label))
        strata.setdefault(rarest, []).append(prompt)
    sizes = {label: sum(len(groups[prompt]) for prompt in members) for label, members in strata.items()}
    for stratum in strata.values():
        stratum.sort(key=lambda prompt: _rank(seed, prompt))

    part_of: dict[str, str] = {}
    for part, fraction in fractions.items():
        wanted = max(1, round(fraction * len(prompts))) if fraction > 0 else 0
        divisible = {label: sizes[label] for label, members in strata.items() if len(members) > 1}
        for label, quota in apportion(divisible, min(wanted, sum(divisible.values()))).items():
            open_seats = quota
            left = [prompt for prompt in strata[label] if prompt not in part_of]
            for prompt in left[:-1]:  # the last one stays in train
                if len(groups[prompt]) <= open_seats:
                    part_of[prompt] = part
                    open_seats -= len(groups[prompt])
    _give_back(groups, labels, part_of, seed)
    parts: dict[str, list[int]] = {"train": [], **{part: [] for part in fractions}}
    for index, prompt in enumerate(prompts):
        parts[part_of.get(prompt, "train")].append(index)
    return parts


def take(prompts: Sequence[str], labels: Sequence[str], count: int, seed: int) -> list[int]:
    """Select `count` examples in proportion to their labels (every label at least once); return ascending indices."""
    if count >= len(prompts):
        return list(range(len(prompts)))
    strata: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        strata.setdefault(label, []).append(index)
    seats = apportion({label: len(members) for label, members in strata.items()}, count, at_least_one=True)
    chosen: list[int] = []
    for label, members in strata.items():
        members.sort(key=lambda index: _rank(seed, prompts[index]))
        chosen += members[: seats[label]]
    return sorted(chosen)


def _give_back(groups: Mapping[str, list[int]], labels: Sequence[str], part_of: dict[str, str], seed: int) -> None:
    """Return groups to train until every label is there: one prompt may have several labels, the rarest decided."""
    trained = {labels[index] for prompt, members in groups.items() if prompt not in part_of for index in members}
    if len(trained) == len(set(labels)):
        return
    for prompt in sorted(part_of, key=lambda prompt: _rank(seed, prompt)):
        own = {labels[index] for index in groups[prompt]}
        if not own <= trained:
            del part_of[prompt]
            trained |= own


def _rank(seed: int, text: str) -> bytes:
    return blake2b(text.encode(errors="surrogatepass"), digest_size=16, salt=seed.to_bytes(16, "big")).digest()
