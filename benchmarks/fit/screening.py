"""Screening of runs: did the engineered cause take effect, by the oracle alone?

No judge of curves takes part, and the margins are generous. `objection` says why a record is
rejected: its cause did not take effect, it lies between two classes, or its visible part cannot
show the effect (the validation set is too small, or the part that would show it is hidden). The
screening never assigns another class.

Differences of losses are compared with the loss itself and with `prior`, the loss of the best
constant prediction: 2 % of `prior` is negligible, whatever the loss. Metrics are accuracies. They
are compared in points and by their standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median

from backends.training_logs.learning_curve import LearningCurve
from benchmarks.fit.hard_cases import HARD_CASES
from benchmarks.fit.oracle_summary import LEVEL_METRIC, SURE, OracleSummary
from benchmarks.fit.records import Oracle, Record
from benchmarks.fit.tracing import last_stretch

# Over-fitting: the held-out loss ends at least this much above its minimum, or the gap between the
# metrics has grown at least this much.
RISE, RISE_OF_PRIOR, GAP = 0.15, 0.06, 0.10
# No over-fitting: the loss and the gap grow at most this much (and the metric falls at most
# LEVEL_METRIC).
LEVEL, LEVEL_OF_PRIOR, LEVEL_GAP = 0.03, 0.01, 0.05
# A run has learnt something if it is at least LEARNT better than a model that knows nothing, and
# nothing if it is at most NOTHING better.
LEARNT, LEARNT_LOSS = 0.10, 0.20
NOTHING, NOTHING_LOSS = 0.03, 0.03
# Diverged: a loss FAR_ABOVE times that before training, or times that of the constant prediction
# after it was lower; or a training loss that lost the share GIVEN_BACK of its improvement.
FAR_ABOVE, NEAR_FAR, GIVEN_BACK, GAINED = 1.5, 1.2, 0.6, 0.15
SMALLEST_ORACLE = 100
COLLAPSED = "collapsed at once"
VISIBLE = 3.0
"""The number of the validation set's standard errors that makes an effect visible."""


# ---------------------------------------------------------------------------------------- the rules
def objection(record: Record) -> str | None:
    """Return why to reject a record, or None.

    The reason starts with `no effect`, `between` or `not visible`.
    """
    if record.oracle.examples < SMALLEST_ORACLE:
        return "not visible: to the oracle, which has too few examples"
    return _RULES[record.cause](record) or HARD_CASES.get(record.detail, _no_objection)(record)


def _no_objection(record: Record) -> str | None:
    return None


def _finite(oracle: Oracle) -> bool:
    return all(map(math.isfinite, (*oracle.loss, *oracle.train_loss)))


def _healthy(record: Record) -> str | None:
    if not _finite(record.oracle):
        return "no effect: not finite"
    summary = OracleSummary(record.oracle)
    if not _learnt(summary, record.curve):
        return "no effect: it learnt nothing"
    if not _level(summary):
        return "between: the held-out loss or metric ends above its best, or the gap grows"
    if not summary.later_is_same:
        return "between: more training helps"
    valid = record.curve.valid_examples
    if (
        valid
        and summary.metric
        and summary.metric[-1] - summary.reference(record.curve.chance) < VISIBLE * (summary.metric_error(valid))
    ):
        return "not visible: what it learnt is within the noise of the validation set"
    if _within_noise(record, summary) is None:
        return "not visible: a rise is shown that so few validation examples cannot settle"
    return None


def _learnt(summary: OracleSummary, curve: LearningCurve) -> bool:
    if summary.metric is None:
        return summary.loss[-1] <= (1 - LEARNT_LOSS) * min(summary.prior, summary.oracle.base_loss)
    return summary.metric[-1] - summary.reference(curve.chance) >= LEARNT


def _level(summary: OracleSummary) -> bool:
    """Whether there is no over-fitting: neither of the loss nor of the metric, and no growing
    gap.
    """
    if summary.rise > max(LEVEL * summary.lowest, LEVEL_OF_PRIOR * summary.prior) or summary.gap_growth > LEVEL_GAP:
        return False
    return summary.metric is None or max(summary.metric) - summary.metric[-1] <= LEVEL_METRIC


def _overfit(record: Record) -> str | None:
    if not _finite(record.oracle):
        return "no effect: not finite"
    summary, curve, valid = OracleSummary(record.oracle), record.curve, record.curve.valid_examples or 200
    train_before = summary.oracle.base_train_loss if summary.base_is_lowest else summary.train_loss[summary.lowest_at]
    visible = _visible_series(curve)
    rises = summary.rise >= max(RISE * summary.lowest, RISE_OF_PRIOR * summary.prior) + SURE * summary.rise_error
    rises = rises and summary.train_loss[-1] < 0.95 * train_before
    gains = False  # a rising metric that is the objective: nobody would call that over-fitting
    if summary.metric is not None:
        before = summary.oracle.base_metric if summary.base_is_lowest else summary.metric[summary.lowest_at]
        gains = before is not None and summary.metric[-1] - before > LEVEL_METRIC + 2 * summary.metric_error()
    widens = (
        summary.gap_growth >= GAP + SURE * summary.metric_error() and summary.loss[-1] >= summary.loss[summary.onset]
    )
    if rises and gains and curve.best_by == "metric":
        return "between: the loss rises and so does the metric"
    if not rises and not widens:
        flat = _level(summary)
        return "no effect: neither loss nor gap" if flat else "between: the rise or the gap is small"
    if not {"train_loss", "train_metric"} & visible:
        return "not visible: nothing of training is shown"
    by_loss = (
        rises and "valid_loss" in visible and summary.rise > VISIBLE * summary.oracle.spread_rise / math.sqrt(valid)
    )
    by_gap = {"train_metric", "valid_metric"} <= visible and (
        summary.gap_growth > VISIBLE * summary.metric_error(min(valid, curve.train_examples or valid)) and widens
    )
    if by_loss and summary.base_is_lowest and curve.baseline is None:
        by_loss = summary.loss[-1] - min(summary.loss) > max(RISE * summary.lowest, RISE_OF_PRIOR * summary.prior)
    return None if by_loss or by_gap else "not visible: within the noise of the validation set, or not shown"


def _underfit(record: Record) -> str | None:
    if not _finite(record.oracle):
        return "no effect: not finite"
    summary, curve = OracleSummary(record.oracle), record.curve
    if record.detail == COLLAPSED:
        return _collapsed(summary, curve)
    if not _level(summary) and summary.rise > 0.05 * summary.lowest:
        return "between: the held-out loss rises, or the gap grows"
    visible, valid = _visible_series(curve), curve.valid_examples or 200
    if summary.is_falling and summary.later_is_better:
        if "valid_loss" in visible:
            seen = summary.last_fall > VISIBLE * summary.oracle.spread_last / math.sqrt(valid)
        else:
            metric = summary.metric or [0.0]
            gain = metric[-1] - metric[last_stretch(len(metric))]
            seen = gain > VISIBLE * summary.metric_error(valid)
        if seen:
            return None
    if not _learnt_nothing(summary, curve):
        return "between: neither nothing learnt nor clearly cut short"
    knows_metric = "valid_metric" in visible and (curve.baseline or curve.chance or curve.classes)
    knows_loss = "valid_loss" in visible and curve.baseline is not None and summary.metric is None
    if not knows_metric and not (knows_loss or ("valid_loss" in visible and curve.baseline is not None)):
        return "not visible: nothing to compare with"
    return None


def _collapsed(summary: OracleSummary, curve: LearningCurve) -> str | None:
    """Screen a run whose rate was far too large and which never learnt anything, at no evaluation.

    Its loss has come to rest, although it may vary around that of the best constant prediction. A
    run that learnt first may have diverged instead. A run whose loss was far up on the way is
    between the two.
    """
    assert summary.metric is not None
    floor = summary.reference(curve.chance)
    if max(summary.oracle.metric or [1.0]) - floor > LEARNT or not _learnt_nothing(summary, curve):
        return "between: it learnt something"
    peak = max((loop_report.loss for loop_report in curve.loop_reports), default=0.0)
    if peak >= NEAR_FAR * summary.oracle.base_train_loss or summary.loss[-1] > FAR_ABOVE * summary.prior:
        return "between: the loss was, or is, far up"
    if "valid_metric" not in _visible_series(curve) or curve.baseline is None:
        return "not visible: nothing to compare with"
    return None


def _learnt_nothing(summary: OracleSummary, curve: LearningCurve) -> bool:
    by_loss = summary.loss[-1] >= (1 - NOTHING_LOSS) * min(summary.prior, summary.oracle.base_loss)
    if summary.metric is None:
        return by_loss
    return summary.metric[-1] - summary.reference(curve.chance) <= NOTHING


def _diverged(record: Record) -> str | None:
    curve, oracle = record.curve, record.oracle
    values = [value for point in curve.points for value in point.values]
    if curve.ended == "diverged" or not all(map(math.isfinite, values)):
        return None
    if not _finite(oracle):
        return "not visible: only the oracle saw a value that is not finite"
    summary = OracleSummary(oracle)
    end, base = median(summary.train_loss[-2:]), oracle.base_train_loss
    low = min(summary.train_loss)
    far = end >= FAR_ABOVE * base and summary.loss[-1] >= FAR_ABOVE * oracle.base_loss
    worse = (
        end >= FAR_ABOVE * summary.prior and end >= FAR_ABOVE * low and summary.loss[-1] >= FAR_ABOVE * summary.prior
    )
    gained = min(base, summary.train_loss[0]) - low if summary.train_loss[0] > low else base - low
    back = gained >= GAINED * base and end - low >= GIVEN_BACK * gained
    if not far and not back and not worse:
        if _lost_again(summary, curve) or _blew_up_on_the_way(summary, curve):
            return None
        return "no effect: the training loss is neither far above its start nor has it given back what it gained"
    if summary.metric is not None and summary.metric[-1] > summary.reference(curve.chance) + LEARNT:
        return "between: the loss is far up, the metric is not down"
    visible_far = far and curve.baseline is not None
    visible_back = worse or end - low >= GIVEN_BACK * max(summary.train_loss[0] - low, GAINED * low)
    if not visible_far and not (visible_back and end > (1 + RISE) * low):
        return "not visible: neither where it began nor how it rose is shown"
    return None


def _lost_again(summary: OracleSummary, curve: LearningCurve) -> bool:
    """Whether training and held-out metric were clearly above chance and visibly fell back to it at
    the end.

    The training loss must also have risen. It need not have lost its gain over the base model,
    whose loss can be far above that of a model that knows only the label frequencies.
    """
    if summary.metric is None or summary.train_metric is None:
        return False
    if not {"train_loss", "valid_metric"} <= _visible_series(curve):
        return False
    floor = summary.reference(curve.chance)
    best, best_train = max(summary.metric) - floor, max(summary.train_metric) - floor
    ended = max(summary.metric[-1], summary.train_metric[-1]) - floor
    seen = best > VISIBLE * summary.metric_error(curve.valid_examples or 200)
    rose = summary.train_loss[-1] >= (1 + GAINED) * min(summary.train_loss)
    return min(best, best_train) >= LEARNT and ended <= (1 - GIVEN_BACK) * min(best, best_train) and rose and seen


def _blew_up_on_the_way(summary: OracleSummary, curve: LearningCurve) -> bool:
    """Whether the training loop reported a loss far above the base model's and the run ended at
    chance.
    """
    peak = max((loop_report.loss for loop_report in curve.loop_reports), default=0.0)
    known = curve.baseline is not None and "valid_metric" in _visible_series(curve)
    return known and peak >= FAR_ABOVE * summary.oracle.base_train_loss and _learnt_nothing(summary, curve)


def _unsettled(record: Record) -> str | None:
    curve = record.curve
    summary = OracleSummary(record.oracle) if _finite(record.oracle) else None
    match record.detail:
        case "no validation":
            return "no effect" if {"valid_loss", "valid_metric"} & _visible_series(curve) else None
        case "one evaluation":
            return None if len(curve.points) == 1 and summary is not None else "no effect"
        case "stopped while going" | "failed while going":
            rose = summary is not None and summary.rise > LEVEL * summary.lowest
            if summary is None or rose or not (summary.is_falling and summary.later_is_better):
                return "no effect: it was not going, or more training does not help"
            return None
        case "within the noise of few examples" | "few examples, about to turn":
            return "no effect: not finite" if summary is None else _within_noise(record, summary)
    raise ValueError(f"no rule for {record.detail}")


def _within_noise(record: Record, summary: OracleSummary) -> str | None:
    """Reject the record unless its few validation examples show a relevant rise that chance could
    explain.
    """
    valid = record.curve.valid_examples or 0
    losses = [point.valid_loss for point in record.curve.points if point.valid_loss is not None]
    if len(losses) < 2 or valid < 1:
        return "not visible: no validation loss"
    rise, level = losses[-1] - min(losses), min(losses)
    error = record.oracle.spread_shown / math.sqrt(valid)
    at = losses.index(level)
    true = summary.oracle.loss[-1] - summary.oracle.loss[at]
    if not 0.08 * level < rise <= 1.5 * error:
        return "no effect: the rise that is shown is small, or beyond chance"
    if abs(true - 0.05 * level) > 1.28 * error:
        return "no effect: few examples do show what is true"
    if not _learnt(summary, record.curve):
        return "between: it learnt nothing"
    return None


def _visible_series(curve: LearningCurve) -> set[str]:
    names = ("train_loss", "valid_loss", "train_metric", "valid_metric")
    return {name for name in names if any(getattr(point, name) is not None for point in curve.points)}


_RULES: dict[str, Callable[[Record], str | None]] = {
    "healthy": _healthy,
    "underfit": _underfit,
    "overfit": _overfit,
    "diverged": _diverged,
    "unsettled": _unsettled,
}
