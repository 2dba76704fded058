"""What the curves say, in sentences: more data, and one model against another. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from sweeps.scaling.curves import Measure, ModelCurve


def sentences(curves: Sequence[ModelCurve], measure: Measure) -> list[str]:
    """Return a sentence for each model about more data, then those that compare the models."""
    return [*(about_more_data(curve, measure) for curve in curves), *comparisons(curves, measure)]


def about_more_data(curve: ModelCurve, measure: Measure) -> str:
    """Return what doubling the data would add, or why the points do not tell."""
    found = curve.extrapolation
    if found is None:
        return f"{curve.label}: the points carry no extrapolation: {curve.reason}."
    verb = "add about" if measure.direction == "maximize" else "lower it by about"
    scale, unit = (100.0, " points") if measure.is_share else (1.0, "")
    shown = "{:.1f}" if measure.is_share else "{:.2g}"
    gain, low, high = (shown.format(scale * value) for value in (found.gain, found.low, found.high))
    doubled = f"doubling your data from {found.size:,} to {2 * found.size:,} examples would {verb} {gain}{unit}"
    of = f" of {measure.metric}" if measure.direction == "maximize" else ""
    start = "" if measure.direction == "maximize" else f"{measure.metric}: "
    return f"{curve.label}: {start}{doubled}{of} (95 % interval {low} to {high})."


def comparisons(curves: Sequence[ModelCurve], measure: Measure) -> Iterator[str]:
    """Yield, for each model but the best, how few examples the best model needs to reach it."""
    measured = [curve for curve in curves if curve.measured]
    if len(measured) < 2:
        return
    best = max(measured, key=lambda curve: measure.better_by(_best_mean(curve, measure), 0.0))
    for curve in measured:
        if curve is best:
            continue
        level = _best_mean(curve, measure)
        size = next(point.size for point in curve.measured if point.mean == level)
        needed = examples_to_reach(best, level, measure)
        if needed is not None:
            few = f"{needed:,} examples or fewer" if needed == best.measured[0].size else f"about {_rounded(needed):,}"
            yield (
                f"{best.label} reaches {level:.3g}, the best mean of {curve.label} (with {size:,} examples), "
                f"with {few}."
            )


def examples_to_reach(curve: ModelCurve, level: float, measure: Measure) -> int | None:
    """Return the examples at which the line through the means reaches a value for good.

    Between two sizes the line is straight over the logarithm of the size. The smallest size is
    returned if even that reaches the value; None if the largest does not.
    """
    points = list(curve.measured)
    if measure.better_by(points[-1].mean, level) < 0:
        return None
    needed = points[-1]
    for earlier, later in zip(reversed(points[:-1]), reversed(points[1:]), strict=True):
        if measure.better_by(earlier.mean, level) < 0:
            share = (level - earlier.mean) / (later.mean - earlier.mean)
            return round(math.exp(math.log(earlier.size) + share * math.log(later.size / earlier.size)))
        needed = earlier
    return needed.size


def _best_mean(curve: ModelCurve, measure: Measure) -> float:
    means = [point.mean for point in curve.measured]
    return max(means) if measure.direction == "maximize" else min(means)


def _rounded(count: int) -> int:
    """Round to two digits: the means do not tell more."""
    digits = max(0, len(str(count)) - 2)
    return round(count, -digits)
