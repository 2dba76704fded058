"""Split and select examples: seeded, stratified, and independent of their order in the file.

A hash of seed and text orders the examples, and a part takes the first ones of each stratum.
Therefore an added example moves few others, and with the same seed a larger selection contains
nearly all of a smaller one. Examples that belong together, such as those of one user or those with
nearly the same text, are placed as one unit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


RANK_BYTES = 16


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
    prompts: Iterable[str],
    labels: Sequence[str],
    fractions: Mapping[str, float],
    seed: int,
    *,
    groups: Sequence[str | None] | None = None,
    clusters: Sequence[Sequence[int]] = (),
) -> dict[str, list[int]]:
    """Split examples into `train` and one part per fraction; return ascending indices by part.

    The parts partition the set. Identical prompts stay in one part. Each label is divided in
    proportion, within one example if no prompt repeats, and `train` has every label. With one label
    for all examples it is a plain split. A part whose fraction amounts to less than one example
    still gets one if some label has enough examples; in very small sets it may be empty.

    Examples of one group (None means none) and the examples of one cluster, given by their indices,
    stay in one part, too. Then the proportions are as near as these units allow. Groups and
    clusters that join no different prompts change nothing.
    """
    import numpy as np

    ranks = _ranks(prompts, seed)
    if units := _joined_units(ranks, labels, groups, clusters):
        return _split_units(units, len(labels), fractions)
    unit_of, sizes = _prompt_units(ranks)
    frequency = Counter(labels)
    rarest_first = sorted(frequency, key=lambda label: (frequency[label], label))
    code_of = {label: code for code, label in enumerate(rarest_first)}
    codes = np.fromiter((code_of[label] for label in labels), np.int32, len(labels))
    stratum_of = np.full(len(sizes), len(rarest_first), np.int32)
    np.minimum.at(stratum_of, unit_of, codes)
    strata = {label: np.flatnonzero(stratum_of == code) for label, code in code_of.items()}
    divisible = {label: int(sizes[units].sum()) for label, units in strata.items() if len(units) > 1}

    part_of = np.zeros(len(sizes), np.int8)  # 0 is train
    for number, fraction in enumerate(fractions.values(), 1):
        wanted = max(1, round(fraction * len(labels))) if fraction > 0 else 0
        for label, quota in apportion_seats(divisible, min(wanted, sum(divisible.values()))).items():
            open_seats = quota
            units_left = strata[label][part_of[strata[label]] == 0]
            for unit in units_left[:-1]:  # the last one stays in train
                if open_seats == 0:
                    break
                if sizes[unit] <= open_seats:
                    part_of[unit] = number
                    open_seats -= int(sizes[unit])
    _return_missing_labels(unit_of, codes, part_of)
    chosen = part_of[unit_of]
    return {part: np.flatnonzero(chosen == number).tolist() for number, part in enumerate(("train", *fractions))}


def stratified_sample(prompts: Iterable[str], labels: Sequence[str], count: int, seed: int) -> list[int]:
    """Select `count` examples in proportion to their labels; return ascending indices.

    Every label occurs at least once if `count` allows.
    """
    if count >= len(labels):
        return list(range(len(labels)))
    ranks = _ranks(prompts, seed).tolist()
    strata: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        strata.setdefault(label, []).append(index)
    seats = apportion_seats({label: len(members) for label, members in strata.items()}, count, at_least_one=True)
    chosen: list[int] = []
    for label, members in strata.items():
        members.sort(key=lambda index: ranks[index])
        chosen += members[: seats[label]]
    return sorted(chosen)


@dataclass(frozen=True)
class _Unit:
    """Examples that stay together: their ascending indices, and how often each label occurs."""

    members: tuple[int, ...]
    labels: Mapping[str, int]
    rank: bytes


def _joined_units(
    ranks: NDArray[np.void],
    labels: Sequence[str],
    groups: Sequence[str | None] | None,
    clusters: Sequence[Sequence[int]],
) -> list[_Unit]:
    """Return the units in the order of their ranks; an empty list if each has one prompt.

    Examples that share a prompt, a group or a cluster are in one unit, also over several steps. The
    least of its ranks decides that of a unit, so the order of the examples does not matter.
    """
    if not clusters and not any(groups or ()):
        return []
    joined = ranks.tobytes()
    keys = [joined[start : start + RANK_BYTES] for start in range(0, len(joined), RANK_BYTES)]
    root = list(range(len(keys)))

    def find(index: int) -> int:
        while root[index] != index:
            root[index] = root[root[index]]
            index = root[index]
        return index

    first_of_prompt: dict[bytes, int] = {}
    for index, key in enumerate(keys):
        root[find(index)] = find(first_of_prompt.setdefault(key, index))
    first_of_group: dict[str, int] = {}
    for index, group in enumerate(groups or ()):
        if group is not None:
            root[find(index)] = find(first_of_group.setdefault(group, index))
    for cluster in clusters:
        for index in cluster[1:]:
            root[find(index)] = find(cluster[0])
    members: dict[int, list[int]] = {}
    for index in range(len(keys)):
        members.setdefault(find(index), []).append(index)
    if len(members) == len(first_of_prompt):
        return []
    units = [
        _Unit(tuple(unit), Counter(labels[index] for index in unit), _rank_of_unit({keys[index] for index in unit}))
        for unit in members.values()
    ]
    return sorted(units, key=lambda unit: unit.rank)


def _rank_of_unit(ranks: Set[bytes]) -> bytes:
    """Return a rank that large units do not get sooner than small ones.

    The least of the ranks is the smaller the more there are, so a hash of it takes its place.
    """
    least = min(ranks)
    return least if len(ranks) == 1 else blake2b(least, digest_size=RANK_BYTES).digest()


def _split_units(units: Sequence[_Unit], total: int, fractions: Mapping[str, float]) -> dict[str, list[int]]:
    """Split whole units: a part takes each unit that brings its labels nearer to their quotas.

    "Nearer" is the sum of squares over the labels. The last unit of a label stays in `train`. For
    units of one example each this is the split by labels.
    """
    counts: Counter[str] = Counter()
    unit_counts: Counter[str] = Counter()
    for unit in units:
        counts.update(unit.labels)
        unit_counts.update(unit.labels.keys())
    divisible = {label: count for label, count in counts.items() if unit_counts[label] > 1}
    parts: dict[str, list[int]] = {"train": [], **{part: [] for part in fractions}}
    remaining = list(units)
    for part, fraction in fractions.items():
        wanted = max(1, round(fraction * total)) if fraction > 0 else 0
        open_seats = apportion_seats(divisible, min(wanted, sum(divisible.values())))
        taken: set[bytes] = set()
        for unit in remaining:
            gain = sum(count * (2 * open_seats.get(label, 0) - count) for label, count in unit.labels.items())
            if gain > 0 and all(unit_counts[label] > 1 for label in unit.labels):
                _take(unit, parts[part], unit_counts, taken)
                for label, count in unit.labels.items():
                    open_seats[label] -= count
        if wanted and not taken:
            # Every unit is far larger than the part: the smallest one is nearest.
            for unit in sorted(remaining, key=lambda unit: (len(unit.members), unit.rank)):
                if 2 * len(unit.members) <= total and all(unit_counts[label] > 1 for label in unit.labels):
                    _take(unit, parts[part], unit_counts, taken)
                    break
        remaining = [unit for unit in remaining if unit.rank not in taken]
    parts["train"] = [index for unit in remaining for index in unit.members]
    return {part: sorted(indices) for part, indices in parts.items()}


def _take(unit: _Unit, part: list[int], unit_counts: Counter[str], taken: set[bytes]) -> None:
    part.extend(unit.members)
    taken.add(unit.rank)
    unit_counts.subtract(unit.labels.keys())


def _prompt_units(ranks: NDArray[np.void]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the unit of each example, and the size of each unit.

    Examples with the same prompt are a unit. Units are numbered in the order of their ranks.
    """
    import numpy as np

    order = np.lexsort((ranks["low"], ranks["high"]))
    is_first = np.ones(len(order), bool)
    is_first[1:] = ranks[order[1:]] != ranks[order[:-1]]
    unit_of = np.empty(len(order), np.intp)
    unit_of[order] = np.cumsum(is_first) - 1
    return unit_of, np.bincount(unit_of, minlength=0)


def _return_missing_labels(unit_of: NDArray[np.intp], codes: NDArray[np.int32], part_of: NDArray[np.int8]) -> None:
    """Return units to train until it has every label.

    A prompt may have several labels; the rarest one decided its stratum.
    """
    import numpy as np

    is_trained = part_of[unit_of] == 0
    missing = set(np.setdiff1d(codes, codes[is_trained]).tolist())
    if not missing:
        return
    held_out = np.flatnonzero(~is_trained)
    for index in held_out[np.argsort(unit_of[held_out], kind="stable")]:
        unit = unit_of[index]
        if part_of[unit] and int(codes[index]) in missing:
            part_of[unit] = 0
            missing -= set(codes[unit_of == unit].tolist())


def _ranks(prompts: Iterable[str], seed: int) -> NDArray[np.void]:
    """Return the rank of each prompt as two numbers, which are in the order of the bytes."""
    import numpy as np

    joined = b"".join(rank(seed, prompt) for prompt in prompts)
    return np.frombuffer(joined, np.dtype([("high", ">u8"), ("low", ">u8")]))


def rank(seed: int, text: str) -> bytes:
    """Return the key by which examples are ordered: a hash of seed and text."""
    return blake2b(text.encode(errors="surrogatepass"), digest_size=RANK_BYTES, salt=seed.to_bytes(16, "big")).digest()
