"""Select examples such that a larger selection contains every smaller one exactly.

`split.stratified_sample` divides the seats anew for each number of examples, so that a label may
have fewer of them in a larger selection. Here the seats follow one after another.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence

from sweeps.data.split import rank


def nested_sample(prompts: Iterable[str], labels: Sequence[str], count: int, seed: int) -> list[int]:
    """Select `count` examples in proportion to their labels; return ascending indices.

    With the same seed the result for a smaller count is a subset. Every label occurs at least once
    if `count` allows.
    """
    ranks = [rank(seed, prompt) for prompt in prompts]
    strata: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        strata.setdefault(label, []).append(index)
    seats = successive_seats({label: len(members) for label, members in strata.items()}, count)
    chosen: list[int] = []
    for label, members in strata.items():
        members.sort(key=lambda index: (ranks[index], index))
        chosen += members[: seats[label]]
    return sorted(chosen)


def successive_seats(counts: Mapping[str, int], total: int) -> dict[str, int]:
    """Divide `total` seats in proportion to the counts by Webster's method of highest averages.

    With one more seat no name loses one. Every name gets one seat first, the largest name at once.
    No name gets more seats than its count. Names break ties.
    """
    seats = dict.fromkeys(counts, 0)
    queue = [(0.0, -count, name) for name, count in counts.items() if count]
    heapq.heapify(queue)
    for _ in range(min(total, sum(counts.values()))):
        _, size, name = heapq.heappop(queue)
        seats[name] += 1
        if seats[name] < counts[name]:
            heapq.heappush(queue, ((2 * seats[name] + 1) / counts[name], size, name))
    return seats
