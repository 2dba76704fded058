"""The measured curves of `sweep scale`, and what they carry. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backends.contract import Scalar
from sweeps.scaling import power_law
from sweeps.scaling.power_law import LEVEL, Direction, Extrapolation
from sweeps.scaling.request import MIN_SEEDS_OF_AN_INTERVAL

MIN_SIZES = 4
"""The law has three parameters: three sizes fit any curve exactly and test nothing."""

MIN_RANGE = 8
"""The largest size is at least this multiple of the smallest: three doublings to learn from for
one to predict."""

GUESSING_ERRORS = 2.0
"""A value below the best guess plus this many of its standard errors counts as guessed."""

WIDE = 2.0
"""A point whose seeds differ by this multiple of the next widest point may decide everything."""


@dataclass(frozen=True)
class MeasuredPoint:
    """What the runs of one model at one size reached.

    `values` are those of the objective on the validation set, one per seed, in the order of the
    seeds. `test` is the mean of `test_metric` on the test set with its interval; None if nothing
    measured it. `missing` says why there are fewer values than seeds; empty if there are all.
    `verdicts` are those on the runs with a value.
    """

    size: int
    sweep: str
    values: tuple[float, ...] = ()
    hyperparameters: Mapping[str, Scalar] = field(default_factory=dict)
    test: tuple[float, float, float] | None = None
    test_metric: str = ""
    tokens: int = 0
    usd: float | None = None
    seconds: float = 0.0
    missing: str = ""
    verdicts: tuple[str, ...] = ()

    @property
    def mean(self) -> float:
        """The mean over the seeds; NaN without values."""
        return math.fsum(self.values) / len(self.values) if self.values else math.nan

    @property
    def half_width(self) -> float | None:
        """Half the 95 % t interval of the mean over seeds; None with too few seeds."""
        count = len(self.values)
        if count < MIN_SEEDS_OF_AN_INTERVAL:
            return None
        from scipy.stats import t

        variance = math.fsum((value - self.mean) ** 2 for value in self.values) / (count - 1)
        return float(t.ppf((1 + LEVEL) / 2, count - 1)) * math.sqrt(variance / count)


@dataclass(frozen=True)
class Measure:
    """The objective of all points.

    `guess` is the value that always answering the most frequent label reaches, if the objective is
    accuracy; `valid_examples` measured it. `baseline` is what the strongest simple model reaches
    with the largest size, and `baseline_name` says what it is; None if none was measured.
    """

    metric: str
    direction: Direction
    bounds: tuple[float, float]
    valid_examples: int
    guess: float | None = None
    baseline: float | None = None
    baseline_name: str = ""

    @property
    def is_share(self) -> bool:
        """Whether differences are points of a hundred."""
        return self.bounds == (0.0, 1.0)

    def better_by(self, new: float, old: float) -> float:
        """Return how much better `new` is than `old`."""
        return new - old if self.direction == "maximize" else old - new

    def is_guessed(self, mean: float) -> bool:
        """Return whether a mean is no better than the best guess."""
        if self.guess is None:
            return False
        error = math.sqrt(self.guess * (1 - self.guess) / max(1, self.valid_examples))
        return mean <= self.guess + GUESSING_ERRORS * error


@dataclass(frozen=True)
class ModelCurve:
    """The points of one model, in the order of the sizes, and what they say about more data.

    Either `extrapolation` or `reason` is set: the reason why the points do not carry one.
    """

    label: str
    model: str
    points: tuple[MeasuredPoint, ...]
    extrapolation: Extrapolation | None = None
    reason: str = ""

    @property
    def measured(self) -> tuple[MeasuredPoint, ...]:
        """The points with a value."""
        return tuple(point for point in self.points if point.values)


def judged(label: str, model: str, points: Sequence[MeasuredPoint], measure: Measure, seed: int) -> ModelCurve:
    """Return the curve with its extrapolation, or with the reason why there is none."""
    curve = ModelCurve(label, model, tuple(points))
    used = [point for point in curve.measured if not measure.is_guessed(point.mean)]
    reason = _too_little(curve, used)
    if reason:
        return ModelCurve(label, model, curve.points, reason=reason)
    values = {point.size: point.values for point in used}
    if reason := _no_rise(used, measure):
        return ModelCurve(label, model, curve.points, reason=reason)
    predicts, low, high = power_law.predicts_largest(values, measure.direction, measure.bounds, seed)
    if not predicts:
        last = used[-1]
        reason = (
            f"the law fitted to the smaller sizes expects {low:.3g} to {high:.3g} at {last.size:,} examples, "
            f"and {last.mean:.3g} was measured"
        )
        return ModelCurve(label, model, curve.points, reason=reason)
    found = power_law.extrapolate(values, measure.direction, measure.bounds, seed)
    rise = abs(used[-1].mean - used[0].mean)
    if found.high - found.low > rise:
        reason = "the interval of the gain is wider than everything that the measured sizes differ by"
        return ModelCurve(label, model, curve.points, reason=reason)
    return ModelCurve(label, model, curve.points, extrapolation=found)


def _too_little(curve: ModelCurve, used: Sequence[MeasuredPoint]) -> str:
    guessed = [point.size for point in curve.measured if point not in used]
    beside = f"; at {_listed(guessed)} examples the model still guesses" if guessed else ""
    if len(used) < MIN_SIZES:
        return f"it takes at least {MIN_SIZES} sizes, and there are {len(used)}{beside}"
    if used[-1].size < MIN_RANGE * used[0].size:
        span = used[-1].size / used[0].size
        return f"the sizes span a factor of {span:.2g}, and it takes at least {MIN_RANGE}{beside}"
    if sum(len(point.values) - 1 for point in used[:-1]) < MIN_SEEDS_OF_AN_INTERVAL - 1:
        return f"without several seeds nobody knows the noise: use --seeds {MIN_SEEDS_OF_AN_INTERVAL}"
    return ""


def _no_rise(used: Sequence[MeasuredPoint], measure: Measure) -> str:
    """Say that the largest size is not better than the smallest beyond the noise of the seeds."""
    from scipy.stats import t

    freedom = sum(len(point.values) - 1 for point in used)
    within = math.fsum((value - point.mean) ** 2 for point in used for value in point.values)
    first, last = used[0], used[-1]
    error = math.sqrt(within / freedom * sum(1 / power_law.mean_weight(len(point.values)) for point in (first, last)))
    gain = measure.better_by(last.mean, first.mean)
    if gain > float(t.ppf((1 + LEVEL) / 2, freedom)) * error:
        return ""
    if gain < -float(t.ppf((1 + LEVEL) / 2, freedom)) * error:
        return f"{last.size:,} examples do worse than {first.size:,}: look at the verdicts of its runs"
    return f"{last.size:,} examples do no better than {first.size:,}, within the noise{_spread(used)}"


def _spread(used: Sequence[MeasuredPoint]) -> str:
    """Say that a single point spreads so much that it decides, if one does."""
    *others, widest = sorted(used, key=lambda point: max(point.values) - min(point.values))
    spread = max(widest.values) - min(widest.values)
    if spread < WIDE * max(max(point.values) - min(point.values) for point in others):
        return ""
    return f"; the seeds at {widest.size:,} differ by {spread:.2g}: look at the verdicts of these runs"


def _listed(sizes: Sequence[int]) -> str:
    texts = [f"{size:,}" for size in sizes]
    return " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))
