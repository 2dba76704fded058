"""The trend at the end of a loss: its fall in the last stretch, and the fall still to expect."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from sweeps.verdicts.series import Series

LONG = 20
"""A curve of at least this many evaluations is long."""

STRETCH, STRETCH_OF_LONG, SHORT = 0.25, 0.15, 8
"""The last stretch is the last quarter of a curve, the last 15 % of a long one, and the last
interval of a curve with at most 8 evaluations."""

MAX_FADING = 0.78
"""A fall that does not fade is assumed to fade by a fifth in each stretch: how far it would have
gone is unknown."""

UNKNOWN_FADING = 0.45
"""The assumed fading of a fall in each stretch if only one stretch is known."""

NEARLY_ALL, SLOW_SECOND_HALF = 0.9, 0.3
"""A slow trend falls in nine of ten intervals, and its second half gains at least a third of
what its first gained."""


@dataclass(frozen=True)
class Trend:
    """The last stretch of a loss, from `start` at `start_epoch` to `end`.

    `expected_fall` is how much further it would fall. `expected_fall` assumes that the fall keeps
    fading as it did, stretch by stretch (a geometric series).
    """

    start_epoch: float
    start: float
    end: float
    expected_fall: float

    @property
    def fall(self) -> float:
        """How far the loss fell in the stretch."""
        return self.start - self.end


def trend_of(series: Series | None, before: float | None) -> Trend | None:
    """Return the trend at the end of a loss, or None for a single value.

    `before` is the value before training.
    """
    if series is None:
        return None
    epochs, values = series.epochs, series.values
    if before is not None and epochs[0] > 0:
        epochs, values = (0.0, *epochs), (before, *values)
    if len(values) < 2:
        return None
    whole = Series(epochs, values, 0.0)
    share = STRETCH_OF_LONG if len(series.values) >= LONG else STRETCH if len(series.values) > SHORT else 0.0
    width = max(share * epochs[-1], epochs[-1] - epochs[-2])
    if width <= 0:
        return None
    start_epoch = max(epochs[0], epochs[-1] - width)
    start, end = whole.at(start_epoch), series.last
    fall, fading = start - end, UNKNOWN_FADING
    if start_epoch > epochs[0]:
        earlier_epoch = max(epochs[0], start_epoch - width)
        earlier_fall = (whole.at(earlier_epoch) - start) * width / (start_epoch - earlier_epoch)
        fading = min(max(fall / earlier_fall, 0.0), MAX_FADING) if earlier_fall > 0 else MAX_FADING
    return Trend(start_epoch, start, end, max(fall, 0.0) * fading / (1 - fading))


def falls_slowly(series: Series, base: float) -> bool:
    """Return whether a loss falls in almost every interval, without slowing down much."""
    whole = Series((0.0, *series.epochs), (base, *series.values), 0.0)
    falls = [earlier - later for earlier, later in pairwise(whole.values) if earlier != later]
    if len(falls) < 2 or sum(fall > 0 for fall in falls) < NEARLY_ALL * len(falls):
        return False
    middle = whole.at(series.epochs[-1] / 2)
    return middle - series.last > SLOW_SECOND_HALF * (base - middle) > 0
