"""The features of a learning curve that the rules compare: rises, trends, gaps and noise.

Losses are only compared with each other, so their scale does not matter. Metrics are shares in
0..1, higher is better, and have a sampling error. benchmarks/fit chose the constants.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import median

from backends.training_logs.learning_curve import CurvePoint, LearningCurve
from sweeps.verdicts import noise
from sweeps.verdicts.noise import RESOLUTION, SIGNIFICANT, evaluated_examples, standard_error
from sweeps.verdicts.series import METRIC_SMOOTHED_FROM, Series, without_interpolated
from sweeps.verdicts.trend import LONG, Trend, falls_slowly, trend_of

TREND_SHARE = 0.06
"""The share of the noise of a lone difference that applies to a fall which training shares: such
a fall is a trend."""

DIP = 3.5
"""The minimum of many noisy values lies about this many of their median deviations below their
trend."""

STEADY_FALLS = 3
"""This many falls in a row are a trend too."""

SPIKE = 1.5
"""In a run that learned nothing, a loss half as high again as the base model's is the moment
when training broke."""

REPORTS, FADED = 5, 0.5
"""The gradient has faded if its median over the last five reports is at most half of that over
the first five."""

DECAYED = 0.2
"""A learning rate that ends at a fifth of its peak has been decayed on purpose."""

LEVEL = 0.5
"""A metric has not got worse if it ends within half of its noise, one standard error, of its best.
"""

ZERO = 0.005
"""A metric that is half a point above its worst value is at its worst value."""

FELL_FAR = 0.5
"""A loss that is down to half of the base model's has fallen far."""


LABEL_METRICS = ("accuracy", "macro_f1", "f1")
"""The names of metrics that count labels."""


@dataclass(frozen=True)
class Rise:
    """The rise of the validation loss from its minimum, at `onset`, to its end."""

    low: float
    onset: float
    last: float
    roughness: float

    @property
    def observed(self) -> float:
        """The rise as it appears in the curve."""
        return self.last - self.low

    @property
    def height(self) -> float:
        """The rise without the part by which the minimum of a rough curve dips below its trend."""
        return self.observed - DIP * self.roughness


@dataclass(frozen=True)
class LossSpike:
    """A loss far above the base model's: its name, peak and epoch, and the base model's."""

    name: str
    peak: float
    epoch: float
    base: float


def format_number(value: float) -> str:
    """Return a number as evidence texts show it: three digits, and those before the point."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"


class CurveFeatures:
    """The finite series of a curve, by epoch, and the features computed from them."""

    def __init__(self, curve: LearningCurve) -> None:
        with_epoch = [point for point in curve.points if math.isfinite(point.epoch)]
        self.curve = curve
        self.points = sorted(with_epoch, key=lambda point: (point.epoch, point.step))
        finite = without_interpolated([point for point in self.points if all(map(math.isfinite, point.values))])
        self.train_loss = Series.of(finite, lambda point: point.train_loss)
        self.valid_loss = Series.of(finite, lambda point: point.valid_loss)
        self.train_metric = Series.of(finite, lambda point: point.train_metric, METRIC_SMOOTHED_FROM)
        self.valid_metric = Series.of(finite, lambda point: point.valid_metric, METRIC_SMOOTHED_FROM)
        self.metric_name = (curve.metric or "metric").replace("_", " ")
        self.baseline = curve.baseline or CurvePoint(0.0, 0)

    @property
    def evaluations(self) -> int:
        """The number of validation evaluations, of the loss or of the metric if it has more."""
        return max((len(series.values) for series in (self.valid_loss, self.valid_metric) if series), default=0)

    @property
    def last_epoch(self) -> float:
        """The epoch at which the curve ends."""
        return self.points[-1].epoch

    @property
    def keep_epoch(self) -> float | None:
        """The epoch with the best validation, the earlier one on a tie; None without validation."""
        if self.valid_metric is not None and (self.curve.best_by == "metric" or self.valid_loss is None):
            return self.valid_metric.epoch_of(max)
        return self.valid_loss.epoch_of(min) if self.valid_loss is not None else None

    @property
    def no_skill(self) -> tuple[float, str] | None:
        """The metric of a model without skill here, and that model's name; None if unknown."""
        known = []
        if self.baseline.valid_metric is not None:
            known.append((self.baseline.valid_metric, "the base model"))
        share, classes = self.curve.chance, self.curve.classes
        if share is None and classes is not None and classes > 0:
            share = 1 / classes
        if share is not None and math.isfinite(share):
            known.append((share, "chance"))
        return max(known, default=None)

    # -------------------------------------------------------------------------- words for a metric
    def metric_text(self, share: float) -> str:
        """Return a value of the metric in its own unit, as evidence shows it."""
        return format_number(self.curve.metric_scale.value(share))

    def gap_text(self, share: float) -> str:
        """Return a difference of two values of the metric in its own unit, without a sign."""
        scale = self.curve.metric_scale
        return format_number(abs(scale.value(share) - scale.value(0.0)))

    @property
    def metric_is_about_labels(self) -> bool:
        """Whether the metric counts labels, and not the quality of generated texts."""
        curve = self.curve
        return curve.metric in (None, *LABEL_METRICS) or curve.classes is not None or curve.chance is not None

    @property
    def metric_rose(self) -> str:
        """How the metric moves when it gets better."""
        return "fell" if self.curve.metric_scale.lower_is_better else "rose"

    # ---------------------------------------------------------------------------------- noise
    @property
    def _roughness(self) -> float:
        return self.valid_loss.roughness if self.valid_loss else 0.0

    def loss_noise(self, level: float) -> float:
        """How far a validation loss near `level` may move by chance between two evaluations."""
        return noise.loss_noise(level, self.curve.valid_examples, self._roughness)

    def rise_noise(self, low: float, height: float) -> float:
        """How much of a rise from `low` by `height` chance explains."""
        roughness = 0.0 if self.rise is None else self.rise.roughness
        return noise.rise_noise(low, height, self.curve.valid_examples, roughness)

    def trend_noise(self, level: float, *, shared: bool) -> float:
        """How far a validation loss near `level` may seem to follow a trend by chance.

        `shared`: the training loss follows the same trend. The roughness of a long curve shows by
        itself what is chance and what is trend.
        """
        lone_noise = self.loss_noise(level)
        if self.valid_loss is not None and len(self.valid_loss.values) >= LONG:
            return max(3 * self.valid_loss.roughness, TREND_SHARE * lone_noise)
        return TREND_SHARE * lone_noise if shared else lone_noise

    def valid_noise(self, share: float) -> float:
        """The half-width of the error band of the validation metric."""
        return noise.metric_noise(share, self.curve.metric_examples or self.curve.valid_examples)

    def gap_noise(self, train: float, valid: float) -> float:
        """The half-width of the error band of the training metric minus the validation metric."""
        sample = evaluated_examples(self.curve.train_examples or self.curve.valid_examples)
        return math.hypot(SIGNIFICANT * standard_error(train, sample), self.valid_noise(valid))

    # ----------------------------------------------------------------------------- validation loss
    @cached_property
    def unlearned_loss(self) -> float:
        """A validation loss with little learned: the curve's largest, or the base's if lower.

        A base model may be far worse than a model that only knows the labels, so its loss alone is
        no measure.
        """
        loss, base = self.valid_loss, self.baseline.valid_loss
        if loss is None:
            return 0.0
        return max(loss.values) if base is None else min(base, max(loss.values))

    @property
    def rise_scale(self) -> float:
        """The scale of a rise that matters: geometric mean of the lowest and the unlearned loss.

        The lowest loss alone would exaggerate a loss near 0 that doubles. The first loss alone
        would hide everything below a first loss that was far above that of a model that only knows
        the labels.
        """
        low = min(self.valid_loss.values) if self.valid_loss is not None else 0.0
        return math.sqrt(low * self.unlearned_loss) if min(low, self.unlearned_loss) > 0 else self.unlearned_loss

    @property
    def loss_gain(self) -> float:
        """How far training lowered the validation loss; 0 if the base model's loss says nothing.

        If a metric is known, the base model's loss may be far above that of a model that only knows
        the labels.
        """
        base = self.baseline.valid_loss
        if self.valid_loss is None or base is None or self.valid_metric is not None:
            return 0.0
        return max(base - self.valid_loss.last, 0.0)

    @cached_property
    def rise(self) -> Rise | None:
        """The rise of the validation loss.

        It starts at the base model's own loss only if the metric has not improved since.
        """
        loss, base = self.valid_loss, self.baseline.valid_loss
        if loss is None:
            return None
        low, onset = min(loss.values), loss.epoch_of(min)
        if base is not None and base < low and not self.metric_improved_since(0.0):
            low, onset = base, 0.0
        return Rise(low, onset, loss.last, loss.roughness_since(onset))

    @property
    def valid_loss_fell_steadily(self) -> bool:
        """Whether the validation loss fell in each of the last three intervals: a trend."""
        loss, base = self.valid_loss, self.baseline.valid_loss
        if loss is None:
            return False
        values = loss.values if base is None else (base, *loss.values)
        last = values[-1 - STEADY_FALLS :]
        return len(last) > STEADY_FALLS and all(earlier > later for earlier, later in pairwise(last))

    @property
    def valid_trend(self) -> Trend | None:
        """The trend at the end of the validation loss."""
        return trend_of(self.valid_loss, self.baseline.valid_loss)

    @property
    def train_trend(self) -> Trend | None:
        """The trend at the end of the training loss."""
        return trend_of(self.train_loss, self.baseline.train_loss)

    @property
    def metric_trend(self) -> Trend | None:
        """The trend at the end of the validation metric, whose improvement is a negative fall."""
        return trend_of(self.valid_metric, self.baseline.valid_metric)

    # --------------------------------------------------------------------------- validation metric
    def metric_improved_since(self, epoch: float) -> bool:
        """Whether the validation metric clearly rose after `epoch`; False if it is unknown."""
        metric = self.valid_metric
        if metric is None:
            return False
        before = metric.at(epoch) if epoch > 0 else self.baseline.valid_metric
        return before is not None and metric.last - before > self.valid_noise(before)

    @property
    def metric_ends_at_a_new_best(self) -> bool:
        """Whether the last value of the validation metric is better than all before it."""
        metric = self.valid_metric
        if metric is None:
            return False
        before = [value for value in (self.baseline.valid_metric, *metric.values[:-1]) if value is not None]
        return bool(before) and metric.last > max(before)

    @property
    def metric_is_level(self) -> bool:
        """Whether the validation metric learned something and ended no worse than its best."""
        metric = self.valid_metric
        if metric is None or self.metric_never_rose:
            return False
        best = max(metric.values)
        return best - metric.last <= LEVEL * self.valid_noise(best)

    @property
    def metric_is_perfect(self) -> bool:
        """Whether the quality of generated texts, which decides, ended at the top of its range."""
        metric = self.valid_metric
        decides = self.curve.best_by == "metric" and not self.metric_is_about_labels
        return decides and metric is not None and metric.last >= 1.0

    @property
    def metric_is_saturated(self) -> bool:
        """Whether the validation metric ended at its best, which is 1 within the noise."""
        metric = self.valid_metric
        if metric is None or metric.last < max(metric.values):
            return False
        metric_noise = self.valid_noise(metric.last)
        return metric_noise <= RESOLUTION and 1 - metric.last <= metric_noise

    @property
    def metric_stays_at_zero(self) -> bool:
        """Whether the metric that decides has the worst value at almost every evaluation."""
        metric = self.valid_metric
        if metric is None or self.curve.best_by != "metric" or len(metric.values) < 3:
            return False
        return metric.last <= ZERO and sum(value > ZERO for value in metric.values) <= len(metric.values) // 4

    @property
    def metric_never_rose(self) -> bool:
        """Whether the validation metric was never clearly above that of an untrained guess."""
        metric, no_skill = self.valid_metric, self.no_skill
        if metric is None or no_skill is None:
            return False
        metric_noise = self.valid_noise(no_skill[0])
        return metric_noise <= RESOLUTION and max(metric.values) - no_skill[0] <= metric_noise

    # ------------------------------------------------------------------------- signs of a collapse
    @cached_property
    def spike(self) -> LossSpike | None:
        """A loss during training that was far above the base model's and has come down since.

        The training loop may weigh other tokens than an evaluation does, so its losses must also be
        far above their own end.
        """
        base = self.baseline.train_loss if self.baseline.train_loss is not None else self.baseline.valid_loss
        if base is None or base <= 0:
            return None
        spikes = []
        losses = [report.loss for report in self.curve.loop_reports if math.isfinite(report.loss)]
        if losses:
            peak = max(self.curve.loop_reports, key=lambda report: report.loss)
            if peak.loss > SPIKE * max(base, median(losses[-REPORTS:])):
                spikes.append(LossSpike("the batch loss", peak.loss, peak.epoch, base))
        loss = self.train_loss
        if loss is not None and loss.values[0] < max(loss.values) and max(loss.values) > SPIKE * base:
            spikes.append(LossSpike("training loss", max(loss.values), loss.epoch_of(max), base))
        return max(spikes, key=lambda spike: spike.peak, default=None)

    @property
    def faded_gradient(self) -> tuple[float, float] | None:
        """The gradient's first and last norm if it faded; None if it did not or is unknown."""
        norms = [report.grad_norm for report in self.curve.loop_reports if report.grad_norm is not None]
        if len(norms) < 2 * REPORTS:
            return None
        first, last = median(norms[:REPORTS]), median(norms[-REPORTS:])
        return (first, last) if last < FADED * first else None

    @property
    def learning_rate_decayed(self) -> bool:
        """Whether the schedule had brought the learning rate down by the end.

        The schedule then explains a loss that was still falling.
        """
        rates = [
            report.learning_rate
            for report in self.curve.loop_reports
            if report.learning_rate is not None and math.isfinite(report.learning_rate)
        ]
        return bool(rates) and self.curve.ended == "complete" and rates[-1] <= DECAYED * max(rates)

    @property
    def loss_fell_far(self) -> bool:
        """Whether the loss fell far below the base model's, on a curve with a validation metric.

        If the metric shows that nothing was learned, the remaining loss is that of a model that
        only knows how often each label occurs.
        """
        loss, base = self.train_loss or self.valid_loss, self.baseline.train_loss or self.baseline.valid_loss
        return self.valid_metric is not None and loss is not None and base is not None and loss.last < FELL_FAR * base

    @property
    def a_loss_falls_slowly(self) -> bool:
        """Whether the training or the validation loss falls slowly; see `falls_slowly`."""
        pairs = ((self.train_loss, self.baseline.train_loss), (self.valid_loss, self.baseline.valid_loss))
        return any(series is not None and base is not None and falls_slowly(series, base) for series, base in pairs)
