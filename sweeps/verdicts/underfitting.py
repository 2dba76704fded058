"""The rules that find a run under-fitted, or cut off before anybody can tell: nothing learnt, or still improving.

The thresholds are chosen on the part `tune` of benchmarks/fit.
"""

from __future__ import annotations

from sweeps.verdicts.advice import Advice, Lost
from sweeps.verdicts.divergence import FAR_ABOVE
from sweeps.verdicts.evidence import RESOLUTION, Evidence, examples
from sweeps.verdicts.overfitting import FITTED
from sweeps.verdicts.verdict import FitVerdict, VerdictKind
from sweeps.verdicts.wording import between, diverged, number, times, unsettled, worded

EVALUATIONS_NEEDED = 2
"""One evaluation is a level, not a curve."""

EVALUATIONS_OF_STOPPED = 3
"""A trial that was cut off shows a plateau in three evaluations at the earliest: two of them may be a slow start."""

TO_COME, TO_COME_OF_SCALE = 0.03, 0.03
"""A run whose course promises another 3 % off its validation loss, and off that of a model that knows nothing, had not
come to its end."""

TO_COME_OF_GAIN = 0.03
"""Nor is it worth going on for a thirtieth of what training brought so far."""

CEILING = 0.06
"""A validation metric that is within six points of 1, and within its noise, has no more to show."""

LEARNT_LOSS = 0.07
"""Nothing is learnt by a run whose loss is within 7 % of the base model's."""


def no_validation(seen: Evidence, advice: Advice) -> FitVerdict | None:
    """Nothing is known of examples that were not trained on."""
    if seen.valid_loss is not None or seen.valid_metric is not None:
        return None
    return unsettled("it was evaluated on training examples only" if seen.points else "no evaluation was made")


def too_short(seen: Evidence, advice: Advice) -> FitVerdict | None:
    """There is no curve, but one value."""
    if seen.evaluations >= EVALUATIONS_NEEDED:
        return None
    how = {"stopped": "it was stopped", "failed": "it failed"}.get(seen.curve.ended, "training ended")
    return unsettled(f"{how} after one evaluation (epoch {number(seen.last_epoch)}): too little to judge")


def cut_off(seen: Evidence, advice: Advice) -> FitVerdict | None:
    """A run that did not end by itself is judged only if it had come to rest."""
    end, last = seen.curve.ended, number(seen.last_epoch)
    if end == "failed":
        return unsettled(f"it failed after epoch {last}, before its curve showed anything")
    if end == "stopped" and seen.evaluations < EVALUATIONS_OF_STOPPED:
        return unsettled(f"it was stopped after epoch {last}, with {seen.evaluations} evaluations: too few to judge")
    if end == "stopped" and (going := _improvement(seen)) is not None:
        return unsettled(f"it was stopped after epoch {last} while {going[0]}", by=going[1])
    train = seen.tail(seen.train_loss, seen.baseline.train_loss)
    if end == "stopped" and train is not None and train.to_come > TO_COME * abs(train.now):
        text = f"training loss still fell from {number(train.then)} to {number(train.now)} {between(seen, train)}"
        return unsettled(f"it was stopped after epoch {last} while {text}")
    return None


def learnt_nothing(seen: Evidence, advice: Advice) -> FitVerdict | None:
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
            f"validation {seen.metric} ended at {number(metric.last)}, {whose} has {number(floor)}, "
            f"and {examples(seen.curve.valid_examples)} examples tell differences above {number(noise)}"
        )
        if noise > RESOLUTION and gain > 0:
            return None if _losses_fell(seen) else unsettled(evidence, by=1.0)
        return _underfit(evidence, seen, advice, by=2 - times(gain, noise))
    loss, base = seen.valid_loss, seen.baseline.valid_loss
    if loss is None:
        return unsettled(f"nobody knows the {seen.metric} without training", by=1.0)
    start = base if base is not None else loss.values[0]
    if start - loss.last > LEARNT_LOSS * abs(start):
        return None
    if base is None:
        train = seen.train_loss
        learnt = train is not None and train.values[0] - train.last > LEARNT_LOSS * abs(train.values[0])
        if learnt or _improvement(seen) is not None:
            return None
        return unsettled(
            f"validation loss stayed near {number(loss.last)}, and what it was before is not known", by=1.0
        )
    evidence = f"validation loss ended at {number(loss.last)}, the base model has {number(base)}"
    return _underfit(evidence, seen, advice, by=2 - times(base - loss.last, LEARNT_LOSS * abs(start)))


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
        found.append(f"{name} loss from {number(base)} to {number(series.last)}")
    return f"the losses hardly moved: {', '.join(found)}" if found else None


def _underfit(evidence: str, seen: Evidence, advice: Advice, by: float) -> FitVerdict:
    going = _improvement(seen)
    if (going is None or seen.never_knew) and (peak := seen.spike) is not None:
        rose = f"{peak.what} rose to {number(peak.high)} (epoch {number(peak.epoch)})"
        evidence = f"{rose}, the base model has {number(peak.base)}; {evidence}"
        return diverged(evidence, advice, 0.0, times(peak.high, FAR_ABOVE * peak.base))
    if seen.curve.ended == "stopped":
        return unsettled(f"it was stopped after epoch {number(seen.last_epoch)}; by then {evidence}", by=1.0)
    if going is not None:
        said = advice.for_verdict(VerdictKind.UNDERFIT)
        return worded(VerdictKind.UNDERFIT, f"{evidence}; {going[0]} when training ended", said, by=by, improving=True)
    lost, why = _lost(seen)
    said = advice.for_verdict(VerdictKind.UNDERFIT, lost=lost)
    return worded(VerdictKind.UNDERFIT, f"{evidence}: {why}", said, by=by, collapsed=lost == "collapsed")


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
            f"the gradient shrank from {number(norms[0])} to {number(norms[1])} though nothing was learnt, as with a "
            "rate that is too large"
        )
    return "unclear", "the rate is far too small, or so large that the model collapsed before the first evaluation"


def still_improving(seen: Evidence, advice: Advice) -> FitVerdict | None:
    """Under-fitting from the top: the model is better than before, and was still getting better when training ended."""
    going = _improvement(seen)
    if going is None:
        return None
    said = advice.for_verdict(VerdictKind.UNDERFIT)
    return worded(VerdictKind.UNDERFIT, f"{going[0]} when training ended", said, by=going[1], improving=True)


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
    if loss is None or seen.rate_came_down:
        return rose
    noise = seen.trend_noise(loss.now, shared=train is not None or seen.steady)
    least = max(TO_COME * abs(loss.now), TO_COME_OF_SCALE * seen.scale, TO_COME_OF_GAIN * seen.gained)
    if loss.fall <= noise or loss.to_come <= least:
        return None
    if train is not None and (train.to_come <= TO_COME * abs(train.now) or train.now < FITTED * loss.now):
        return None
    text = f"validation loss still fell from {number(loss.then)} to {number(loss.now)} {between(seen, loss)}"
    by = min(times(loss.fall, noise), times(loss.to_come, least))
    return (rose[0], max(rose[1], by)) if rose is not None else (text, by)


def _metric_rose(seen: Evidence) -> tuple[str, float] | None:
    metric = seen.tail(seen.valid_metric, seen.baseline.valid_metric)
    if metric is None or seen.valid_metric is None:
        return None
    gain, noise = metric.now - metric.then, seen.valid_noise(metric.then)
    before = [v for e, v in zip(seen.valid_metric.epochs, seen.valid_metric.values, strict=True) if e <= metric.since]
    if gain <= noise or metric.now - max(before, default=metric.then) <= noise / 2:
        return None
    text = f"validation {seen.metric} still rose from {number(metric.then)} to {number(metric.now)}"
    return f"{text} {between(seen, metric)}", times(gain, noise)
