"""Learning curves -> FitVerdict: healthy, under-fitted, over-fitted, diverged or unsettled, with numbers and advice.

A pure function. The rules stand in their order: each says its verdict, or nothing, and the first one that speaks
decides. What they compare is computed in `evidence`; benchmarks/fit measures how often they are right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import median

from sweeps.advice import Advice, Lost, advice_from
from sweeps.curve import CurvePoint, LearningCurve
from sweeps.evidence import Evidence, Tail, examples
from sweeps.record import FitVerdict, VerdictKind

__all__ = ["Advice", "CurvePoint", "LearningCurve", "advice_from", "hopeless", "judge"]

EVALUATIONS_NEEDED = 2
"""One evaluation is a level, not a curve."""

EVALUATIONS_OF_STOPPED = 3
"""A trial that was cut off shows a plateau in three evaluations at the earliest: two of them may be a slow start."""

RISE, RISE_OF_SCALE = 0.10, 0.06
"""A validation loss that ends less than 10 % above its minimum, or by less than 6 % of what a model has that knows
nothing, is level."""

DOUBTFUL_RISE = 0.09
"""A rise that chance may explain leaves it open whether the run over-fitted, if it is as large as that."""

GAP = 0.12
"""A gap between the training and the validation metric must have grown by twelve points to matter."""

TRAIN_FALL = 0.02
"""A training loss that fell by 2 % is still falling."""

FITTED = 0.5
"""Training examples with half of the validation loss are fitted; a training loss that stays there is at its end."""

FAR_ABOVE = 1.5
"""A loss half as high again as the base model's own is not learning; a warm-up bump stays below and comes back."""

BLOWN_UP = 3.0
"""Where the base model's loss is not known: so many times the first evaluation's."""

GIVEN_BACK = 0.6
"""So is a training loss that has given back three fifths of what it had gained: chance does not undo training."""

GIVEN_BACK_LEAST = 0.15
"""And at least 15 % of its minimum: what was gained must have been something."""

TO_COME, TO_COME_OF_SCALE = 0.03, 0.03
"""A run whose course promises another 3 % off its validation loss, and off that of a model that knows nothing, had not
come to its end."""

CEILING = 0.06
"""A validation metric that is within six points of 1, and within its noise, has no more to show."""

TO_COME_OF_GAIN = 0.03
"""Nor is it worth going on for a thirtieth of what training brought so far."""

LEARNT_LOSS = 0.07
"""Nothing is learnt by a run whose loss is within 7 % of the base model's."""

RESOLUTION = 0.1
"""A validation set whose error band is wider than ten points cannot tell that nothing was learnt."""

SURE = 0.7
"""A run is stopped at this confidence; benchmarks/fit measures how much that saves and how often it misses a better
state."""


def judge(curve: LearningCurve, advice: Advice) -> FitVerdict:
    """Judge how well a run fitted. Never raises; where the curve does not show it, the verdict is `unsettled`."""
    seen = Evidence(curve)
    verdict = next((found for rule in _RULES if (found := rule(seen, advice)) is not None), None)
    return replace(verdict or _healthy(seen), keep_epoch=seen.keep_epoch)


def hopeless(curve: LearningCurve, advice: Advice) -> FitVerdict | None:
    """Return the verdict on a run that goes on, where it is sure by now that going on makes nothing better; else None.

    That is a run that has diverged or over-fits, with a confidence of at least `SURE`.
    """
    verdict = judge(replace(curve, ended="stopped"), advice)
    lost = verdict.kind in {VerdictKind.DIVERGED, VerdictKind.OVERFIT}
    return verdict if lost and verdict.confidence >= SURE else None


def _verdict(
    kind: VerdictKind,
    evidence: str,
    advice: str = "",
    *,
    onset: float | None = None,
    by: float = 2.0,
    improving: bool = False,
    collapsed: bool = False,
) -> FitVerdict:
    """`by` is how many times the deciding difference exceeds what chance explains."""
    confidence = min(0.95, max(0.5, 0.25 + 0.25 * (0.0 if math.isnan(by) else by)))
    return FitVerdict(
        kind, evidence, advice, onset_epoch=onset, confidence=confidence, improving=improving, collapsed=collapsed
    )


def _unsettled(evidence: str, by: float = math.inf) -> FitVerdict:
    return _verdict(VerdictKind.UNSETTLED, evidence, by=by)


def _diverged(evidence: str, advice: Advice, onset: float | None, by: float = math.inf) -> FitVerdict:
    return _verdict(VerdictKind.DIVERGED, evidence, advice.against(VerdictKind.DIVERGED), onset=onset, by=by)


def _overfit(evidence: str, seen: Evidence, advice: Advice, onset: float, by: float) -> FitVerdict:
    said = advice.against(VerdictKind.OVERFIT, useful_epochs=seen.keep_epoch)
    return _verdict(VerdictKind.OVERFIT, evidence, said, onset=onset, by=by)


def _n(value: float) -> str:
    return f"{value:.3g}"


def _times(difference: float, noise: float) -> float:
    return difference / noise if noise > 0 else math.inf


# ------------------------------------------------------------------------------------------------------- diverged
def _not_finite(seen: Evidence, advice: Advice) -> FitVerdict | None:
    names = {"train_loss": "the training loss", "valid_loss": "the validation loss"}
    names |= {"train_metric": f"the training {seen.metric}", "valid_metric": f"the validation {seen.metric}"}
    onset: float | None = None
    for point in (seen.baseline, *seen.points):
        for field_name, name in names.items():
            value = getattr(point, field_name)
            if value is not None and not math.isfinite(value):
                when = "before training" if point is seen.baseline else f"at epoch {_n(point.epoch)}"
                return _diverged(f"{name} is {value} {when}", advice, onset)
        onset = point.epoch
    if seen.curve.ended == "diverged":
        return _diverged(f"the loss was no longer finite after epoch {_n(onset or 0.0)}", advice, onset)
    return None


def _no_validation(seen: Evidence, advice: Advice) -> FitVerdict | None:
    if seen.valid_loss is not None or seen.valid_metric is not None:
        return None
    return _unsettled("it was evaluated on training examples only" if seen.points else "no evaluation was made")


def _ran_away(seen: Evidence, advice: Advice) -> FitVerdict | None:
    """The training loss has gone up and stayed there: above the base model's, the first one, or what it had reached."""
    loss, valid = seen.train_loss, seen.valid_loss
    if loss is None:
        return None
    base = seen.baseline.train_loss if seen.baseline.train_loss is not None else seen.baseline.valid_loss
    settled = median(loss.values[-max(2, len(loss.values) // 4) :])
    if base is not None and base > 0 and settled > FAR_ABOVE * base:
        evidence = f"training loss rose from {_n(base)} (base model) to {_n(settled)} and stayed there"
        calm = [e for e, v in zip(loss.epochs, loss.values, strict=True) if v <= FAR_ABOVE * base]
        return _diverged(evidence, advice, max(calm, default=0.0), _times(settled, FAR_ABOVE * base))
    first = loss.values[0]
    if (
        base is None
        and first > 0
        and settled > BLOWN_UP * first
        and (valid is None or valid.last > 2 * valid.values[0])
    ):
        evidence = f"training loss rose from {_n(first)} (epoch {_n(loss.epochs[0])}) to {_n(loss.last)}"
        return _diverged(evidence, advice, loss.epochs[0], _times(settled, BLOWN_UP * first))
    low, onset = min(loss.values), loss.where(min)
    back, least = min(settled, loss.last) - low, max(GIVEN_BACK_LEAST * abs(low), 3 * loss.roughness)
    for start in (first, base):
        gained = -math.inf if start is None else start - low
        if gained > least and back > max(least, GIVEN_BACK * gained):
            evidence = (
                f"training loss rose from {_n(low)} (epoch {_n(onset)}) to {_n(loss.last)} "
                f"(epoch {_n(loss.epochs[-1])}) and stayed there"
            )
            return _diverged(evidence, advice, onset, _times(back, GIVEN_BACK * gained))
    return None


def _too_short(seen: Evidence, advice: Advice) -> FitVerdict | None:
    if seen.evaluations >= EVALUATIONS_NEEDED:
        return None
    how = {"stopped": "it was stopped", "failed": "it failed"}.get(seen.curve.ended, "training ended")
    return _unsettled(f"{how} after one evaluation (epoch {_n(seen.last_epoch)}): too little to judge")


# ----------------------------------------------------------------------------------------------------- over-fitted
def _loss_rises(seen: Evidence, advice: Advice) -> FitVerdict | None:
    """Over-fitting as the losses show it: validation has turned, training goes on falling."""
    rise = seen.rise
    if rise is None:
        return None
    level, noise = RISE * abs(rise.low), seen.rise_noise(rise.low, rise.height)
    by_metric = seen.curve.best_by == "metric" and seen.metric_gained(rise.onset)
    if by_metric or rise.height <= DOUBTFUL_RISE * abs(rise.low):
        return None
    rose = (
        f"validation loss rose from {_n(rise.low)} (epoch {_n(rise.onset)}) to {_n(rise.last)} "
        f"(epoch {_n(seen.last_epoch)})"
    )
    if rise.height <= noise:
        if (apart := _gap_widens(seen, advice) or _far_apart(seen, advice)) is not None:
            return apart
        few = f"which {examples(seen.curve.valid_examples)} validation examples cannot tell from chance"
        return _unsettled(f"{rose}, {few}", by=1.0)
    if rise.height <= max(level, RISE_OF_SCALE * seen.scale):
        return None
    went_on = _training_went_on(seen, rise.onset)
    if went_on is None:
        return _unsettled(f"{rose}, and the training curve does not show why", by=1.0)
    return _overfit(f"{rose} {went_on}", seen, advice, rise.onset, _times(rise.height, max(noise, level)))


def _training_went_on(seen: Evidence, since: float) -> str | None:
    """What training did while validation got worse, in words; None where it did not get better, or nobody knows."""
    for series, base, name, sign in (
        (seen.train_loss, seen.baseline.train_loss, "training loss fell", -1),
        (seen.train_metric, seen.baseline.train_metric, f"training {seen.metric} rose", 1),
    ):
        if series is None:
            continue
        before = series.at(since) if since > 0 or base is None else base
        if sign * (series.last - before) > TRAIN_FALL * abs(before):
            return f"while {name} from {_n(before)} to {_n(series.last)}"
    train, rise = seen.train_loss, seen.rise
    if train is not None and rise is not None and train.last < FITTED * rise.low:
        return f"while training loss was down at {_n(train.last)} already"
    return None


def _gap_widens(seen: Evidence, advice: Advice) -> FitVerdict | None:
    """Over-fitting as the metric shows it: validation has stopped improving, training has not."""
    train, valid, base = seen.train_metric, seen.valid_metric, seen.baseline
    if train is None or valid is None:
        return None
    epochs, values = valid.epochs, valid.values
    first_train = train.values[0]
    if base.valid_metric is not None and base.train_metric is not None:
        epochs, values, first_train = (0.0, *epochs), (base.valid_metric, *values), base.train_metric
    best = max(values)
    onset = next(e for e, v in zip(epochs, values, strict=True) if v >= best - seen.valid_noise(best) / 2)
    if onset >= epochs[-1] or _still_falls(seen, onset):
        return None
    train_then = first_train if onset == epochs[0] else train.at(onset)
    gap, gap_then = train.last - valid.last, train_then - values[epochs.index(onset)]
    noise = max(seen.gap_noise(train.last, valid.last), GAP)
    if min(gap, gap - gap_then, train.last - train_then) <= noise:
        return None
    evidence = (
        f"training {seen.metric} rose from {_n(train_then)} (epoch {_n(onset)}) to {_n(train.last)} "
        f"(epoch {_n(epochs[-1])}) while validation {seen.metric} ended at {_n(valid.last)}: "
        f"a gap of {_n(gap)}, where sampling explains {_n(noise)}"
    )
    return _overfit(evidence, seen, advice, onset, _times(gap - gap_then, noise))


def _far_apart(seen: Evidence, advice: Advice) -> FitVerdict | None:
    """Training examples are known by heart and the others are not, beyond doubt, wherever that began."""
    train, valid = seen.train_metric, seen.valid_metric
    if train is None or valid is None:
        return None
    gap, noise = train.last - valid.last, 2 * max(seen.gap_noise(train.last, valid.last), GAP)
    if gap <= noise:
        return None
    evidence = (
        f"training {seen.metric} ended at {_n(train.last)}, validation {seen.metric} at {_n(valid.last)}: "
        f"a gap of {_n(gap)}, where sampling explains {_n(noise / 2)}"
    )
    return _overfit(evidence, seen, advice, seen.keep_epoch or 0.0, 2 * _times(gap, noise))


def _still_falls(seen: Evidence, since: float) -> bool:
    loss, base = seen.valid_loss, seen.baseline.valid_loss
    if loss is None:
        return False
    before = loss.at(since) if since > 0 or base is None else base
    return before - loss.last > seen.loss_noise(before)


# ------------------------------------------------------------------------------------------- cut off, under-fitted
def _cut_off(seen: Evidence, advice: Advice) -> FitVerdict | None:
    """A run that did not end by itself is judged only if it had come to rest."""
    end, last = seen.curve.ended, _n(seen.last_epoch)
    if end == "failed":
        return _unsettled(f"it failed after epoch {last}, before its curve showed anything")
    if end == "stopped" and seen.evaluations < EVALUATIONS_OF_STOPPED:
        return _unsettled(f"it was stopped after epoch {last}, with {seen.evaluations} evaluations: too few to judge")
    if end == "stopped" and (going := _improvement(seen)) is not None:
        return _unsettled(f"it was stopped after epoch {last} while {going[0]}", by=going[1])
    train = seen.tail(seen.train_loss, seen.baseline.train_loss)
    if end == "stopped" and train is not None and train.to_come > TO_COME * abs(train.now):
        text = f"training loss still fell from {_n(train.then)} to {_n(train.now)} {_between(seen, train)}"
        return _unsettled(f"it was stopped after epoch {last} while {text}")
    return None


def _learnt_nothing(seen: Evidence, advice: Advice) -> FitVerdict | None:
    """Under-fitting from the bottom: at the end the model is not clearly better than without training."""
    if (still := _hardly_moved(seen)) is not None:
        return _underfit(still, seen, advice, by=2.0)
    metric, reference = seen.valid_metric, seen.reference
    if metric is not None and reference is not None:
        floor, whose = reference
        gain, noise = metric.last - floor, seen.valid_noise(floor)
        if gain > noise or 1 - floor <= noise:
            return None
        evidence = (
            f"validation {seen.metric} ended at {_n(metric.last)}, {whose} has {_n(floor)}, "
            f"and {examples(seen.curve.valid_examples)} examples tell differences above {_n(noise)}"
        )
        if noise > RESOLUTION and gain > 0:
            return None if _losses_fell(seen) else _unsettled(evidence, by=1.0)
        return _underfit(evidence, seen, advice, by=2 - _times(gain, noise))
    loss, base = seen.valid_loss, seen.baseline.valid_loss
    if loss is None:
        return _unsettled(f"nobody knows the {seen.metric} without training", by=1.0)
    start = base if base is not None else loss.values[0]
    if start - loss.last > LEARNT_LOSS * abs(start):
        return None
    if base is None:
        train = seen.train_loss
        learnt = train is not None and train.values[0] - train.last > LEARNT_LOSS * abs(train.values[0])
        if learnt or _improvement(seen) is not None:
            return None
        return _unsettled(f"validation loss stayed near {_n(loss.last)}, and what it was before is not known", by=1.0)
    evidence = f"validation loss ended at {_n(loss.last)}, the base model has {_n(base)}"
    return _underfit(evidence, seen, advice, by=2 - _times(base - loss.last, LEARNT_LOSS * abs(start)))


def _losses_fell(seen: Evidence) -> bool:
    """Whether both losses ended clearly below the base model's."""
    pairs = ((seen.train_loss, seen.baseline.train_loss), (seen.valid_loss, seen.baseline.valid_loss))
    return all(
        series is not None and base is not None and base - series.last > LEARNT_LOSS * abs(base)
        for series, base in pairs
    )


def _hardly_moved(seen: Evidence) -> str | None:
    """Both losses are still about where the base model's were, whatever the metric says: in words, else None."""
    found = []
    for series, base, name in (
        (seen.valid_loss, seen.baseline.valid_loss, "validation"),
        (seen.train_loss, seen.baseline.train_loss, "training"),
    ):
        if series is None or base is None:
            continue
        if abs(base - series.last) > LEARNT_LOSS * abs(base):
            return None
        found.append(f"{name} loss from {_n(base)} to {_n(series.last)}")
    return f"the losses hardly moved: {', '.join(found)}" if found else None


def _underfit(evidence: str, seen: Evidence, advice: Advice, by: float) -> FitVerdict:
    going = _improvement(seen)
    if going is None and (peak := seen.spike) is not None:
        rose = f"{peak.what} rose to {_n(peak.high)} (epoch {_n(peak.epoch)}), the base model has {_n(peak.base)}"
        return _diverged(f"{rose}; {evidence}", advice, 0.0, _times(peak.high, FAR_ABOVE * peak.base))
    if seen.curve.ended == "stopped":
        return _unsettled(f"it was stopped after epoch {_n(seen.last_epoch)}; by then {evidence}", by=1.0)
    if going is not None:
        said = advice.against(VerdictKind.UNDERFIT)
        return _verdict(
            VerdictKind.UNDERFIT, f"{evidence}; {going[0]} when training ended", said, by=by, improving=True
        )
    lost, why = _lost(seen)
    said = advice.against(VerdictKind.UNDERFIT, lost=lost)
    return _verdict(VerdictKind.UNDERFIT, f"{evidence}: {why}", said, by=by, collapsed=lost == "collapsed")


def _lost(seen: Evidence) -> tuple[Lost, str]:
    """Why a run learnt nothing, and that in words."""
    if seen.fell_to_frequencies:
        return "collapsed", (
            "it learnt how often each label occurs and nothing of the examples, as with a rate that is too large, "
            "or with labels that the examples do not explain"
        )
    if seen.creeps:
        return "slow", "it learns nothing, or far too slowly"
    if (norms := seen.faded_gradient) is not None:
        return "collapsed", (
            f"the gradient shrank from {_n(norms[0])} to {_n(norms[1])} though nothing was learnt, as with a rate that "
            "is too large"
        )
    return "unclear", "the rate is far too small, or so large that the model collapsed before the first evaluation"


def _improving(seen: Evidence, advice: Advice) -> FitVerdict | None:
    """Under-fitting from the top: the model is better than before, and was still getting better when training ended."""
    going = _improvement(seen)
    if going is None:
        return None
    said = advice.against(VerdictKind.UNDERFIT)
    return _verdict(VerdictKind.UNDERFIT, f"{going[0]} when training ended", said, by=going[1], improving=True)


def _improvement(seen: Evidence) -> tuple[str, float] | None:
    """How validation, with training, still improved at the end: in words, and as a multiple of what does not count."""
    train = seen.tail(seen.train_loss, seen.baseline.train_loss)
    if train is not None and train.fall <= 0:
        return None
    rose = _metric_rose(seen)
    metric = seen.valid_metric
    if rose is None and metric is not None and 1 - metric.last <= min(CEILING, seen.valid_noise(metric.last)):
        return None
    loss = seen.tail(seen.valid_loss, seen.baseline.valid_loss)
    if loss is None:
        return rose
    noise = seen.trend_noise(loss.now, shared=train is not None or seen.steady)
    least = max(TO_COME * abs(loss.now), TO_COME_OF_SCALE * seen.scale, TO_COME_OF_GAIN * seen.gained)
    if loss.fall <= noise or loss.to_come <= least:
        return None
    if train is not None and (train.to_come <= TO_COME * abs(train.now) or train.now < FITTED * loss.now):
        return None
    text = f"validation loss still fell from {_n(loss.then)} to {_n(loss.now)} {_between(seen, loss)}"
    by = min(_times(loss.fall, noise), _times(loss.to_come, least))
    return (rose[0], max(rose[1], by)) if rose is not None else (text, by)


def _metric_rose(seen: Evidence) -> tuple[str, float] | None:
    metric = seen.tail(seen.valid_metric, seen.baseline.valid_metric)
    if metric is None or seen.valid_metric is None:
        return None
    gain, noise = metric.now - metric.then, seen.valid_noise(metric.then)
    before = [v for e, v in zip(seen.valid_metric.epochs, seen.valid_metric.values, strict=True) if e <= metric.since]
    if gain <= noise or metric.now - max(before, default=metric.then) <= noise / 2:
        return None
    text = f"validation {seen.metric} still rose from {_n(metric.then)} to {_n(metric.now)} {_between(seen, metric)}"
    return text, _times(gain, noise)


def _between(seen: Evidence, tail: Tail) -> str:
    return f"between epoch {_n(tail.since)} and {_n(seen.last_epoch)}"


_RULES: tuple[Callable[[Evidence, Advice], FitVerdict | None], ...] = (
    _not_finite,
    _no_validation,
    _ran_away,
    _too_short,
    _loss_rises,
    _gap_widens,
    _cut_off,
    _learnt_nothing,
    _improving,
)


# --------------------------------------------------------------------------------------------------------- healthy
def _healthy(seen: Evidence) -> FitVerdict:
    parts, by = [], 1.0
    for series, base, name in (
        (seen.valid_metric, seen.baseline.valid_metric, seen.metric),
        (seen.valid_loss, seen.baseline.valid_loss, "loss"),
    ):
        if series is not None:
            start, whence = (base, "base model") if base is not None else (series.values[0], "first evaluation")
            parts.append(f"validation {name} went from {_n(start)} ({whence}) to {_n(series.last)}")
            noise = seen.valid_noise(start) if series is seen.valid_metric else seen.loss_noise(start)
            by = max(by, _times(abs(series.last - start), noise))
    if seen.rise is not None and seen.rise.shown > RISE * abs(seen.rise.low):
        by = 1.0  # it may yet be over-fitting that its noise hides
    return _verdict(VerdictKind.HEALTHY, ", ".join(parts), by=by)
