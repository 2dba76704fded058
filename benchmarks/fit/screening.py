"""Whether a run went as it was built to go, by the oracle alone: pure functions, with generous margins.

No judge of curves is asked here. `objection` says why a record is left out: because its cause did not take effect,
because it lies between two classes, or because what is shown of it cannot tell (its validation set is too small for
the effect, or the part is missing that would show it). Nothing is ever given another class.

All losses are compared with the loss at hand and with `prior`, the loss of the best constant prediction: 2 % of `prior`
is nothing, whatever the loss at hand. Metrics are accuracies, compared in points and by their standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median

from backends.training_logs.learning_curve import LearningCurve
from benchmarks.fit.course import LEVEL_METRIC, SURE, Course
from benchmarks.fit.hard_cases import HARD_CASES
from benchmarks.fit.records import Oracle, Record
from benchmarks.fit.tracing import last_stretch

# Over-fitting: the held-out loss ends this much above its minimum, or the metrics' gap has grown so much.
RISE, RISE_OF_PRIOR, GAP = 0.15, 0.06, 0.10
# None of it: at most so much (and LEVEL_METRIC of the metric).
LEVEL, LEVEL_OF_PRIOR, LEVEL_GAP = 0.03, 0.01, 0.05
# Learnt: better than nothing by so much. Nothing learnt: by no more than so much.
LEARNT, LEARNT_LOSS = 0.10, 0.20
NOTHING, NOTHING_LOSS = 0.03, 0.03
# Diverged: a loss so many times that of before, or of the constant prediction after it was lower; or a training loss
# that gave back such a share of what it had gained.
FAR_ABOVE, NEAR_FAR, GIVEN_BACK, GAINED = 1.5, 1.2, 0.6, 0.15
SMALLEST_ORACLE = 100
COLLAPSED = "collapsed at once"
VISIBLE = 3.0
"""Standard errors of the validation set by which an effect must stand out for anyone to see it."""


# ------------------------------------------------------------------------------------------------------------ the rules
def objection(record: Record) -> str | None:
    """Return why a record is left out, or None. Starts with `no effect`, `between` or `not visible`."""
    if record.oracle.examples < SMALLEST_ORACLE:
        return "not visible: to the oracle, which has too few examples"
    return _RULES[record.cause](record) or HARD_CASES.get(record.detail, _nothing)(record)


def _nothing(record: Record) -> str | None:
    return None


def _finite(oracle: Oracle) -> bool:
    return all(map(math.isfinite, (*oracle.loss, *oracle.train_loss)))


def _healthy(record: Record) -> str | None:
    if not _finite(record.oracle):
        return "no effect: not finite"
    course = Course(record.oracle)
    if not _learnt(course, record.curve):
        return "no effect: it learnt nothing"
    if not _level(course):
        return "between: the held-out loss or metric ends above its best, or the gap grows"
    if not course.later_is_same:
        return "between: more training helps"
    valid = record.curve.valid_examples
    if (
        valid
        and course.metric
        and course.metric[-1] - course.reference(record.curve.chance) < VISIBLE * (course.metric_error(valid))
    ):
        return "not visible: what it learnt is within the noise of the validation set"
    if _within_noise(record, course) is None:
        return "not visible: a rise is shown that so few validation examples cannot settle"
    return None


def _learnt(course: Course, curve: LearningCurve) -> bool:
    if course.metric is None:
        return course.loss[-1] <= (1 - LEARNT_LOSS) * min(course.prior, course.oracle.base_loss)
    return course.metric[-1] - course.reference(curve.chance) >= LEARNT


def _level(course: Course) -> bool:
    """Whether there is no over-fitting: not of the loss, not of the metric, and no growing gap."""
    if course.rise > max(LEVEL * course.lowest, LEVEL_OF_PRIOR * course.prior) or course.gap_growth > LEVEL_GAP:
        return False
    return course.metric is None or max(course.metric) - course.metric[-1] <= LEVEL_METRIC


def _overfit(record: Record) -> str | None:
    if not _finite(record.oracle):
        return "no effect: not finite"
    course, curve, valid = Course(record.oracle), record.curve, record.curve.valid_examples or 200
    train_before = course.oracle.base_train_loss if course.base_is_lowest else course.train_loss[course.lowest_at]
    shown = _shown(curve)
    rises = course.rise >= max(RISE * course.lowest, RISE_OF_PRIOR * course.prior) + SURE * course.rise_error
    rises = rises and course.train_loss[-1] < 0.95 * train_before
    gains = False  # the metric, where it is the objective, went on rising: nobody would call that over-fitting
    if course.metric is not None:
        before = course.oracle.base_metric if course.base_is_lowest else course.metric[course.lowest_at]
        gains = before is not None and course.metric[-1] - before > LEVEL_METRIC + 2 * course.metric_error()
    widens = course.gap_growth >= GAP + SURE * course.metric_error() and course.loss[-1] >= course.loss[course.onset]
    if rises and gains and curve.best_by == "metric":
        return "between: the loss rises and so does the metric"
    if not rises and not widens:
        flat = _level(course)
        return "no effect: neither loss nor gap" if flat else "between: the rise or the gap is small"
    if not {"train_loss", "train_metric"} & shown:
        return "not visible: nothing of training is shown"
    by_loss = rises and "valid_loss" in shown and course.rise > VISIBLE * course.oracle.spread_rise / math.sqrt(valid)
    by_gap = {"train_metric", "valid_metric"} <= shown and (
        course.gap_growth > VISIBLE * course.metric_error(min(valid, curve.train_examples or valid)) and widens
    )
    if by_loss and course.base_is_lowest and curve.baseline is None:
        by_loss = course.loss[-1] - min(course.loss) > max(RISE * course.lowest, RISE_OF_PRIOR * course.prior)
    return None if by_loss or by_gap else "not visible: within the noise of the validation set, or not shown"


def _underfit(record: Record) -> str | None:
    if not _finite(record.oracle):
        return "no effect: not finite"
    course, curve = Course(record.oracle), record.curve
    if record.detail == COLLAPSED:
        return _collapsed(course, curve)
    if not _level(course) and course.rise > 0.05 * course.lowest:
        return "between: the held-out loss rises, or the gap grows"
    shown, valid = _shown(curve), curve.valid_examples or 200
    if course.going and course.later_is_better:
        if "valid_loss" in shown:
            seen = course.last_fall > VISIBLE * course.oracle.spread_last / math.sqrt(valid)
        else:
            metric = course.metric or [0.0]
            gain = metric[-1] - metric[last_stretch(len(metric))]
            seen = gain > VISIBLE * course.metric_error(valid)
        if seen:
            return None
    if not _learnt_nothing(course, curve):
        return "between: neither nothing learnt nor clearly cut short"
    knows_metric = "valid_metric" in shown and (curve.baseline or curve.chance or curve.classes)
    knows_loss = "valid_loss" in shown and curve.baseline is not None and course.metric is None
    if not knows_metric and not (knows_loss or ("valid_loss" in shown and curve.baseline is not None)):
        return "not visible: nothing to compare with"
    return None


def _collapsed(course: Course, curve: LearningCurve) -> str | None:
    """A rate far too large, whose run never learnt anything: at no evaluation, and its loss has come to rest.

    Its loss may wander about that of the best constant prediction. One that learnt first has diverged, if anything; one
    whose loss was far up on the way is between the two.
    """
    assert course.metric is not None
    floor = course.reference(curve.chance)
    if max(course.oracle.metric or [1.0]) - floor > LEARNT or not _learnt_nothing(course, curve):
        return "between: it learnt something"
    peak = max((each.loss for each in curve.loop_reports), default=0.0)
    if peak >= NEAR_FAR * course.oracle.base_train_loss or course.loss[-1] > FAR_ABOVE * course.prior:
        return "between: the loss was, or is, far up"
    if "valid_metric" not in _shown(curve) or curve.baseline is None:
        return "not visible: nothing to compare with"
    return None


def _learnt_nothing(course: Course, curve: LearningCurve) -> bool:
    by_loss = course.loss[-1] >= (1 - NOTHING_LOSS) * min(course.prior, course.oracle.base_loss)
    if course.metric is None:
        return by_loss
    return course.metric[-1] - course.reference(curve.chance) <= NOTHING


def _diverged(record: Record) -> str | None:
    curve, oracle = record.curve, record.oracle
    every = [each for point in curve.points for each in point.values]
    if curve.ended == "diverged" or not all(map(math.isfinite, every)):
        return None
    if not _finite(oracle):
        return "not visible: only the oracle saw a value that is not finite"
    course = Course(oracle)
    end, base = median(course.train_loss[-2:]), oracle.base_train_loss
    low = min(course.train_loss)
    far = end >= FAR_ABOVE * base and course.loss[-1] >= FAR_ABOVE * oracle.base_loss
    worse = end >= FAR_ABOVE * course.prior and end >= FAR_ABOVE * low and course.loss[-1] >= FAR_ABOVE * course.prior
    gained = min(base, course.train_loss[0]) - low if course.train_loss[0] > low else base - low
    back = gained >= GAINED * base and end - low >= GIVEN_BACK * gained
    if not far and not back and not worse:
        if _lost_again(course, curve) or _blew_up_on_the_way(course, curve):
            return None
        return "no effect: the training loss is neither far above its start nor has it given back what it gained"
    if course.metric is not None and course.metric[-1] > course.reference(curve.chance) + LEARNT:
        return "between: the loss is far up, the metric is not down"
    visible_far = far and curve.baseline is not None
    visible_back = worse or end - low >= GIVEN_BACK * max(course.train_loss[0] - low, GAINED * low)
    if not visible_far and not (visible_back and end > (1 + RISE) * low):
        return "not visible: neither where it began nor how it rose is shown"
    return None


def _lost_again(course: Course, curve: LearningCurve) -> bool:
    """Whether the metric had clearly learnt, in training and held out, and ended knowing nothing, for all to see.

    The training loss must have risen along with it; that it did not give back what it had gained since the base model
    is no matter where the base model's loss is far above that of a model that only knows the labels.
    """
    if course.metric is None or course.train_metric is None or not {"train_loss", "valid_metric"} <= _shown(curve):
        return False
    floor = course.reference(curve.chance)
    best, best_train = max(course.metric) - floor, max(course.train_metric) - floor
    ended = max(course.metric[-1], course.train_metric[-1]) - floor
    seen = best > VISIBLE * course.metric_error(curve.valid_examples or 200)
    rose = course.train_loss[-1] >= (1 + GAINED) * min(course.train_loss)
    return min(best, best_train) >= LEARNT and ended <= (1 - GIVEN_BACK) * min(best, best_train) and rose and seen


def _blew_up_on_the_way(course: Course, curve: LearningCurve) -> bool:
    """Whether the training loop itself saw a loss far above the base model's, and the run ended knowing nothing."""
    peak = max((each.loss for each in curve.loop_reports), default=0.0)
    known = curve.baseline is not None and "valid_metric" in _shown(curve)
    return known and peak >= FAR_ABOVE * course.oracle.base_train_loss and _learnt_nothing(course, curve)


def _unsettled(record: Record) -> str | None:
    curve = record.curve
    course = Course(record.oracle) if _finite(record.oracle) else None
    match record.detail:
        case "no validation":
            return "no effect" if {"valid_loss", "valid_metric"} & _shown(curve) else None
        case "one evaluation":
            return None if len(curve.points) == 1 and course is not None else "no effect"
        case "stopped while going" | "failed while going":
            rose = course is not None and course.rise > LEVEL * course.lowest
            if course is None or rose or not (course.going and course.later_is_better):
                return "no effect: it was not going, or more training does not help"
            return None
        case "within the noise of few examples" | "few examples, about to turn":
            return "no effect: not finite" if course is None else _within_noise(record, course)
    raise ValueError(f"no rule for {record.detail}")


def _within_noise(record: Record, course: Course) -> str | None:
    """Whether few validation examples show a rise that would matter, while such a rise is there or not by chance."""
    valid = record.curve.valid_examples or 0
    shown = [each.valid_loss for each in record.curve.points if each.valid_loss is not None]
    if len(shown) < 2 or valid < 1:
        return "not visible: no validation loss"
    rise, level = shown[-1] - min(shown), min(shown)
    error = record.oracle.spread_shown / math.sqrt(valid)
    at = shown.index(level)
    true = course.oracle.loss[-1] - course.oracle.loss[at]
    if not 0.08 * level < rise <= 1.5 * error:
        return "no effect: the rise that is shown is small, or beyond chance"
    if abs(true - 0.05 * level) > 1.28 * error:
        return "no effect: few examples do show what is true"
    if not _learnt(course, record.curve):
        return "between: it learnt nothing"
    return None


def _shown(curve: LearningCurve) -> set[str]:
    names = ("train_loss", "valid_loss", "train_metric", "valid_metric")
    return {each for each in names if any(getattr(point, each) is not None for point in curve.points)}


_RULES: dict[str, Callable[[Record], str | None]] = {
    "healthy": _healthy,
    "underfit": _underfit,
    "overfit": _overfit,
    "diverged": _diverged,
    "unsettled": _unsettled,
}
