"""The guards of a `champion:` section: limits that a new champion must keep. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sweeps.spec.sweep_file import ChampionSpec

MAX_NAMED_CLASSES = 5
"""The most classes below `min_recall` that a sentence names, the lowest recall first."""


def recall_by_class(label_names: Sequence[str], correct: NDArray[np.float64]) -> dict[str, float]:
    """Return, for each class that occurs, the share of its examples that is predicted correctly.

    `correct` is 1 for such an example and 0 for another.
    """
    classes = np.array(label_names)
    return {str(name): float(correct[classes == name].mean()) for name in sorted(set(label_names))}


def broken_guards(
    guards: ChampionSpec, recall: Mapping[str, float], latency_ms: float | None, usd: float | None
) -> tuple[str, ...]:
    """Return a clause for each broken guard.

    A guard is also broken if its value was not measured or is not a number.
    """
    clauses = []
    if guards.max_latency_ms is not None and not _within(latency_ms, guards.max_latency_ms):
        fact = "its latency is unknown" if latency_ms is None else f"its latency is {latency_ms:.3g} ms"
        clauses.append(f"{fact}, but max_latency_ms is {guards.max_latency_ms:g}")
    if guards.max_cost_usd is not None and not _within(usd, guards.max_cost_usd):
        fact = "the cost of its training is unknown" if usd is None else f"its training cost ${usd:,.4g}"
        clauses.append(f"{fact}, but max_cost_usd is {guards.max_cost_usd:g}")
    if guards.min_recall is not None:
        too_low = {name: value for name, value in recall.items() if not value >= guards.min_recall}
        if too_low:
            lowest_first = sorted(too_low.items(), key=lambda item: item[1])
            listed = ", ".join(f"{value:.3g} for {name}" for name, value in lowest_first[:MAX_NAMED_CLASSES])
            if len(too_low) > MAX_NAMED_CLASSES:
                listed += f" (and too low for {len(too_low) - MAX_NAMED_CLASSES} more)"
            clauses.append(f"its recall is only {listed}, but min_recall is {guards.min_recall:g}")
    return tuple(clauses)


def _within(value: float | None, limit: float) -> bool:
    return value is not None and value <= limit
