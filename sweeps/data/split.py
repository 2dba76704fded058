"""Split and select examples: seeded, stratified, and independent of their order in the file.

A hash of seed and text orders the examples, and a part takes the first ones of each stratum.
Therefore an added example moves few others, and with the same seed a larger selection contains
nearly all of a smaller one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b


def apportion_seats(counts: Mapping[str, int], total: int, at_least_one: bool = False) -> dict[str, int]:
    """Divide `total` seats in proportion to the counts by the largest-remainder method.

    No name gets more seats than its count. Without `at_least_one` each number of seats is within
    one of the exact proportion. With it, every name gets one seat first if there are enough seats.
    If `total` exceeds the sum of the counts, every name gets its count. Names break ties.
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
                seats[max(sorted(seats), key=lambda candidate: seats[candidate])] -= 1
                seats[name] = 1
    return seats


def split(
    prompts: Sequence[str], labels: Sequence[str], fractions: Mapping[str, float], seed: int
) -> dict[str, list[int]]:
    """Split examples into `train` and one part per fraction; return ascending indices by part.

    The parts partition the set. Identical prompts stay in one part. Each label is divided in
    proportion, within one example if no prompt repeats, and `train` has every label. With one label
    for all examples it is a plain split. A part whose fraction amounts to less than one example
    still gets one if some label has enough examples; in very small sets it may be empty.
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
        for label, quota in apportion_seats(divisible, min(wanted, sum(divisible.values()))).items():
            open_seats = quota
            unassigned = [prompt for prompt in strata[label] if prompt not in part_of]
            for prompt in unassigned[:-1]:  # the last one stays in train
                if len(groups[prompt]) <= open_seats:
                    part_of[prompt] = part
                    open_seats -= len(groups[prompt])
    _return_missing_labels(groups, labels, part_of, seed)
    parts: dict[str, list[int]] = {"train": [], **{part: [] for part in fractions}}
    for index, prompt in enumerate(prompts):
        parts[part_of.get(prompt, "train")].append(index)
    return parts


def stratified_sample(prompts: Sequence[str], labels: Sequence[str], count: int, seed: int) -> list[int]:
    """Select `count` examples in proportion to their labels; return ascending indices.

    Every label occurs at least once if `count` allows.
    """
    if count >= len(prompts):
        return list(range(len(prompts)))
    strata: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        strata.setdefault(label, []).append(index)
    seats = apportion_seats({label: len(members) for label, members in strata.items()}, count, at_least_one=True)
    chosen: list[int] = []
    for label, members in strata.items():
        members.sort(key=lambda index: _rank(seed, prompts[index]))
        chosen += members[: seats[label]]
    return sorted(chosen)


def _return_missing_labels(
    groups: Mapping[str, list[int]], labels: Sequence[str], part_of: dict[str, str], seed: int
) -> None:
    """Return groups to train until it has every label.

    A prompt may have several labels; the rarest one decided its stratum.
    """
    train_labels = {labels[index] for prompt, members in groups.items() if prompt not in part_of for index in members}
    if len(train_labels) == len(set(labels)):
        return
    for prompt in sorted(part_of, key=lambda prompt: _rank(seed, prompt)):
        group_labels = {labels[index] for index in groups[prompt]}
        if not group_labels <= train_labels:
            del part_of[prompt]
            train_labels |= group_labels


def _rank(seed: int, text: str) -> bytes:
    return blake2b(text.encode(errors="surrogatepass"), digest_size=16, salt=seed.to_bytes(16, "big")).digest()
