"""A curve in one line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
UNKNOWN = "·"
"""A value that is not finite."""


def sparkline(values: Sequence[float], width: int) -> str:
    """Draw the values from the lowest to the highest block, the last one always among them.

    Of more than `width` values, evenly spaced ones are drawn. Values that are all equal lie on the
    lowest block.
    """
    if not values or width < 1:
        return ""
    count = min(width, len(values))
    chosen = [values[-1 - round((count - 1 - place) * (len(values) - 1) / max(1, count - 1))] for place in range(count)]
    finite = [value for value in chosen if math.isfinite(value)]
    if not finite:
        return UNKNOWN * count
    low, half = min(finite) / 2, max(finite) / 2 - min(finite) / 2  # halves cannot overflow
    return "".join(
        BLOCKS[round((value / 2 - low) / half * (len(BLOCKS) - 1)) if half else 0] if math.isfinite(value) else UNKNOWN
        for value in chosen
    )
