"""What a learning curve shows, in numbers: rises, falls and gaps, and how much of each chance explains.

Losses are only ever compared with each other, so their scale does not matter; metrics are shares in 0..1, higher is
better, and have a sampling error. What counts as much is set here and in `fit`; benchmarks/fit chose the values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import median

from backends.training_logs.learning_curve import CurvePoint, LearningCurve
from sweeps.verdicts.series import Series

SIGNIFICANT = 2.0
"""Standard errors that a difference must exceed to count: about 95 % of chance differences stay within."""

RESOLUTION = 0.1
"""A validation set whose error band is wider than ten points cannot tell that nothing was learnt."""

ASSUMED_EXAMPLES = 200
"""Evaluated examples where nobody says how many: few enough that a doubtful difference is not made much of."""

LOSS_SPREAD = 0.6
"""Standard deviation, as a share of the mean loss, of the change of one example's loss between two evaluations."""

RISE_SPREAD_OF_LOW, RISE_SPREAD_OF_RISE = 0.36, 1.7
"""The same where the mean loss rises: shares of its minimum and of the rise. A rise is the work of a few examples that
the model is sure of and wrong about, so it is the less certain the fewer there are, however large it is. Fitted to the
over-fitted runs of benchmarks/fit, whose oracle knows the spread."""

TREND_SHARE = 0.06
"""A fall that training shares is a run's course, not chance: so much of the chance of a lone difference counts."""

DIP = 3.5
"""The minimum of many noisy values lies about so many of their median deviations below their course."""

STEADY = 3
"""So many falls in a row are a course, as well."""

SPIKE = 1.5
"""A loss half as high again as the base model's, on the way of a run that learnt nothing, is what it came to."""

REPORTS, FADED = 5, 0.5
"""By the medians of its first and its last five reports a gradient has faded that has halved."""

CAME_DOWN = 0.2
"""A rate that ends at a fifth of its peak has been brought down on purpose."""

FELL = 0.5
"""A loss that is down to half of the base model's has moved far."""

NEARLY_ALL, CREEPING = 0.9, 0.3
"""A slow course falls in nine of ten intervals, and its second half brings a third of what the first one brought."""

STRETCH, STRETCH_OF_LONG, SHORT, LONG = 0.25, 0.15, 8, 20
"""The end of a curve is its last quarter, of a curve of at least 20 evaluations the last 15 %, of one of at most 8 the
last interval."""

FADES_AT_MOST = 0.78
"""A fall that does not fade is taken to fade by a fifth a stretch: nobody knows how far it would have gone on."""

UNKNOWN_FADING = 0.45
"""What a fall fades by a stretch where only one stretch is known."""


@dataclass(frozen=True)
class Rise:
    """How far the validation loss ended above its minimum, and where that was."""

    low: float
    onset: float
    last: float
    roughness: float

    @property
    def shown(self) -> float:
        """The rise as it stands in the curve."""
        return self.last - self.low

    @property
    def height(self) -> float:
        """The rise, less what the minimum of a rough curve dips below its course."""
        return self.shown - DIP * self.roughness


@dataclass(frozen=True)
class Tail:
    """What the last stretch of a curve did: from `then` at `since` to `now`, and `to_come`, what going on would bring.

    `to_come` supposes that the fall goes on fading as it did, stretch by stretch (a geometric series).
    """

    since: float
    then: float
    now: float
    to_come: float

    @property
    def fall(self) -> float:
        """How much it fell."""
        return self.then - self.now


@dataclass(frozen=True)
class Spike:
    """A loss that stood far above the base model's: which one, how high, and when."""

    what: str
    high: float
    epoch: float
    base: float


class Evidence:
    """A curve's series in order, without points that are not finite, and what is to be compared with what."""

    def __init__(self, curve: LearningCurve) -> None:
        placed = [each for each in curve.points if math.isfinite(each.epoch)]
        self.curve = curve
        self.points = sorted(placed, key=lambda each: (each.epoch, each.step))
        finite = _bends([each for each in self.points if all(map(math.isfinite, each.values))])
        self.train_loss = Series.of(finite, lambda each: each.train_loss)
        self.valid_loss = Series.of(finite, lambda each: each.valid_loss)
        self.train_metric = Series.of(finite, lambda each: each.train_metric)
        self.valid_metric = Series.of(finite, lambda each: each.valid_metric)
        self.metric = (curve.metric or "metric").replace("_", " ")
        self.baseline = curve.baseline or CurvePoint(0.0, 0)

    @property
    def evaluations(self) -> int:
        """How many there are of the side that validation has more of."""
        return max((len(each.values) for each in (self.valid_loss, self.valid_metric) if each), default=0)

    @property
    def last_epoch(self) -> float:
        """Where the curve ends."""
        return self.points[-1].epoch

    @property
    def keep_epoch(self) -> float | None:
        """The epoch with the best validation, the earlier one on a tie."""
        if self.valid_metric is not None and (self.curve.best_by == "metric" or self.valid_loss is None):
            return self.valid_metric.where(max)
        return self.valid_loss.where(min) if self.valid_loss is not None else None

    @property
    def reference(self) -> tuple[float, str] | None:
        """The metric of a model that has learnt nothing here, and which that is; None where it is not known."""
        known = []
        if self.baseline.valid_metric is not None:
            known.append((self.baseline.valid_metric, "the base model"))
        share, classes = self.curve.chance, self.curve.classes
        if share is None and classes is not None and classes > 0:
            share = 1 / classes
        if share is not None and math.isfinite(share):
            known.append((share, "chance"))
        return max(known, default=None)

    # ------------------------------------------------------------------------------------------------------ noise
    def loss_noise(self, level: float) -> float:
        """How far a validation loss near `level` may move by chance between two evaluations."""
        rough = self.valid_loss.roughness if self.valid_loss else 0.0
        return max(SIGNIFICANT * LOSS_SPREAD / math.sqrt(examples(self.curve.valid_examples)) * abs(level), 3 * rough)

    def rise_noise(self, low: float, height: float) -> float:
        """How much of a rise from `low` by `height` chance explains."""
        rough = self.valid_loss.roughness if self.valid_loss else 0.0
        spread = RISE_SPREAD_OF_LOW * abs(low) + RISE_SPREAD_OF_RISE * max(height, 0.0)
        return max(SIGNIFICANT * spread / math.sqrt(examples(self.curve.valid_examples)), 3 * rough)

    def trend_noise(self, level: float, *, shared: bool) -> float:
        """How far a validation loss near `level` may seem to follow a course by chance; training `shared` that course.

        A long curve tells by its own roughness what is chance and what is course.
        """
        noise = self.loss_noise(level)
        if self.valid_loss is not None and len(self.valid_loss.values) >= LONG:
            return max(3 * self.valid_loss.roughness, TREND_SHARE * noise)
        return TREND_SHARE * noise if shared else noise

    def valid_noise(self, share: float) -> float:
        """The half-width of the validation metric's error band."""
        return SIGNIFICANT * standard_error(share, examples(self.curve.valid_examples))

    def gap_noise(self, train: float, valid: float) -> float:
        """The half-width of the error band of the difference between the training and the validation metric."""
        sample = examples(self.curve.train_examples or self.curve.valid_examples)
        return math.hypot(SIGNIFICANT * standard_error(train, sample), self.valid_noise(valid))

    # ----------------------------------------------------------------------------------------------------- courses
    @cached_property
    def scale(self) -> float:
        """A validation loss at which nothing much is learnt yet: the largest that was seen, but not above the base's.

        A base model may be far worse than one that only knows the labels, so its loss is no measure by itself.
        """
        loss, base = self.valid_loss, self.baseline.valid_loss
        if loss is None:
            return 0.0
        return max(loss.values) if base is None else min(base, max(loss.values))

    @property
    def rise_scale(self) -> float:
        """What a rise must be a share of to matter: the mean of the lowest loss and `scale`, in the logarithm.

        A share of the lowest one alone makes much of a loss near 0 that doubles; a share of the first one alone makes
        nothing of what happens below a first loss that was far above that of a model that only knows the labels.
        """
        low = min(self.valid_loss.values) if self.valid_loss is not None else 0.0
        return math.sqrt(low * self.scale) if min(low, self.scale) > 0 else self.scale

    @property
    def gained(self) -> float:
        """What training took off the validation loss; 0 where the base model's is not known, or no measure of anything.

        Where a metric is known the base model's loss may be far above that of a model that only knows the labels.
        """
        base = self.baseline.valid_loss
        if self.valid_loss is None or base is None or self.valid_metric is not None:
            return 0.0
        return max(base - self.valid_loss.last, 0.0)

    @cached_property
    def rise(self) -> Rise | None:
        """The validation loss's rise; from the base model's own loss only where the metric has not gained since."""
        loss, base = self.valid_loss, self.baseline.valid_loss
        if loss is None:
            return None
        low, onset = min(loss.values), loss.where(min)
        if base is not None and base < low and not self.metric_gained(0.0):
            low, onset = base, 0.0
        return Rise(low, onset, loss.last, loss.roughness)

    @property
    def steady(self) -> bool:
        """Whether the validation loss fell in each of the last three intervals: a course, and no chance."""
        loss, base = self.valid_loss, self.baseline.valid_loss
        if loss is None:
            return False
        values = loss.values if base is None else (base, *loss.values)
        last = values[-1 - STEADY :]
        return len(last) > STEADY and all(one > other for one, other in pairwise(last))

    def metric_gained(self, since: float) -> bool:
        """Whether the validation metric clearly rose after `since`; False where it is not known."""
        metric = self.valid_metric
        if metric is None:
            return False
        before = metric.at(since) if since > 0 else self.baseline.valid_metric
        return before is not None and metric.last - before > self.valid_noise(before)

    @property
    def nothing_left(self) -> bool:
        """Whether the validation metric ended at its best, and that is all right but for what chance explains."""
        metric = self.valid_metric
        if metric is None or metric.last < max(metric.values):
            return False
        noise = self.valid_noise(metric.last)
        return noise <= RESOLUTION and 1 - metric.last <= noise

    @property
    def never_knew(self) -> bool:
        """Whether the validation metric never was clearly above that of a model that has learnt nothing."""
        metric, reference = self.valid_metric, self.reference
        if metric is None or reference is None:
            return False
        noise = self.valid_noise(reference[0])
        return noise <= RESOLUTION and max(metric.values) - reference[0] <= noise

    # ------------------------------------------------------------------------------- what the training loop reported
    @cached_property
    def spike(self) -> Spike | None:
        """A loss far above the base model's on the way, that came down again since.

        The loop's own losses may weigh other tokens than an evaluation's, so they must stand above their own end, too.
        """
        base = self.baseline.train_loss if self.baseline.train_loss is not None else self.baseline.valid_loss
        if base is None or base <= 0:
            return None
        found = []
        losses = [each.loss for each in self.curve.loop_reports if math.isfinite(each.loss)]
        if losses:
            peak = max(self.curve.loop_reports, key=lambda each: each.loss)
            if peak.loss > SPIKE * max(base, median(losses[-REPORTS:])):
                found.append(Spike("the loss of the batches", peak.loss, peak.epoch, base))
        loss = self.train_loss
        if loss is not None and loss.values[0] < max(loss.values) and max(loss.values) > SPIKE * base:
            found.append(Spike("training loss", max(loss.values), loss.where(max), base))
        return max(found, key=lambda each: each.high, default=None)

    @property
    def faded_gradient(self) -> tuple[float, float] | None:
        """The gradient's norm at first and at last, where it shrank; None where it did not, or nobody knows."""
        norms = [each.grad_norm for each in self.curve.loop_reports if each.grad_norm is not None]
        if len(norms) < 2 * REPORTS:
            return None
        first, last = median(norms[:REPORTS]), median(norms[-REPORTS:])
        return (first, last) if last < FADED * first else None

    @property
    def rate_came_down(self) -> bool:
        """Whether the learning rate had come to its end: what the loss fell last is then the work of that, and ends."""
        rates = [each.learning_rate for each in self.curve.loop_reports if each.learning_rate is not None and math.isfinite(each.learning_rate)]
        return bool(rates) and self.curve.ended == "complete" and rates[-1] <= CAME_DOWN * max(rates)

    @property
    def fell_to_frequencies(self) -> bool:
        """Whether training took most of the base model's loss away, and the metric tells that it learnt nothing by it.

        What is left then is the loss of one who only knows how often each label occurs.
        """
        loss, base = self.train_loss or self.valid_loss, self.baseline.train_loss or self.baseline.valid_loss
        return self.valid_metric is not None and loss is not None and base is not None and loss.last < FELL * base

    @property
    def creeps(self) -> bool:
        """Whether a loss falls evaluation by evaluation, and not much slower in its second half: a course, but slow."""
        pairs = ((self.train_loss, self.baseline.train_loss), (self.valid_loss, self.baseline.valid_loss))
        return any(series is not None and base is not None and _creeps(series, base) for series, base in pairs)

    # ----------------------------------------------------------------------------------------------------- courses
    def tail(self, series: Series | None, before: float | None) -> Tail | None:
        """Return what the last stretch of a loss did; `before` is its value before training. None for one value."""
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
        since = max(epochs[0], epochs[-1] - width)
        then, now = whole.at(since), series.last
        fall, fading = then - now, UNKNOWN_FADING
        if since > epochs[0]:
            earlier = max(epochs[0], since - width)
            fall_before = (whole.at(earlier) - then) * width / (since - earlier)
            fading = min(max(fall / fall_before, 0.0), FADES_AT_MOST) if fall_before > 0 else FADES_AT_MOST
        return Tail(since, then, now, max(fall, 0.0) * fading / (1 - fading))


def _creeps(series: Series, base: float) -> bool:
    whole = Series((0.0, *series.epochs), (base, *series.values), 0.0)
    steps = [one - other for one, other in pairwise(whole.values) if one != other]
    if len(steps) < 2 or sum(each > 0 for each in steps) < NEARLY_ALL * len(steps):
        return False
    middle = whole.at(series.epochs[-1] / 2)
    return middle - series.last > CREEPING * (base - middle) > 0


def _bends(points: Sequence[CurvePoint]) -> list[CurvePoint]:
    """Leave out points on the straight line between their neighbours: filled-in values are no evaluations."""
    kept: list[CurvePoint] = []
    for place, point in enumerate(points):
        if 0 < place < len(points) - 1 and _on_the_line(kept[-1], point, points[place + 1]):
            continue
        kept.append(point)
    return kept


def _on_the_line(before: CurvePoint, point: CurvePoint, after: CurvePoint) -> bool:
    if after.epoch <= before.epoch:
        return False
    share = (point.epoch - before.epoch) / (after.epoch - before.epoch)
    for name in ("train_loss", "valid_loss", "train_metric", "valid_metric"):
        one, own, other = (getattr(each, name) for each in (before, point, after))
        if one is None and own is None and other is None:
            continue
        if one is None or own is None or other is None:
            return False
        if not math.isclose(own, one + (other - one) * share, rel_tol=1e-9, abs_tol=0.0):
            return False
    return True


def examples(known: int | None) -> int:
    """Return how many examples an error is to be computed from."""
    return known if known is not None and known > 0 else ASSUMED_EXAMPLES


def standard_error(share: float, count: int) -> float:
    """The binomial standard error, with one more of either outcome: no share is certain (Agresti and Coull 1998)."""
    likely = (min(max(share, 0.0), 1.0) * count + 1) / (count + 2)
    return math.sqrt(likely * (1 - likely) / count)
