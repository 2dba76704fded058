"""Learning curves -> FitVerdict: healthy, under-fitted, over-fitted, diverged or unsettled, with numbers and advice.

Everything is a pure function of the curve. Losses are only ever compared with each other, so their scale does not
matter; metrics are shares in 0..1 (accuracy, macro-F1), higher is better, and are judged by their sampling error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from sweeps.advice import Advice, advice_from
from sweeps.curve import CurvePoint, LearningCurve, Series
from sweeps.record import FitVerdict, VerdictKind

__all__ = ["Advice", "CurvePoint", "LearningCurve", "advice_from", "hopeless", "judge"]

EVALUATIONS_NEEDED = 2
"""One evaluation is a level, not a curve."""

EVALUATIONS_OF_STOPPED = 3
"""A trial that was cut off shows a plateau in three evaluations at the earliest: two of them may be a slow start."""

SIGNIFICANT = 2.0
"""Standard errors that a difference must exceed to count: about 95 % of chance differences stay within."""

ASSUMED_EXAMPLES = 200
"""Evaluated examples where nobody says how many: few enough that a doubtful difference is not made much of."""

LOSS_SPREAD = 0.6
"""Standard deviation, as a share of the mean loss, of the change of one example's loss between two evaluations. The
losses of examples spread about as wide as their mean, and most of that is common to the two evaluations."""

SMALLEST_RISE = 0.05
"""A validation loss that ends less than 5 % above its minimum is level; the same 5 % that early-stopping rules use."""

SMALLEST_SHARE = 0.02
"""A rise must also undo 2 % of what training had gained: from 0.010 to 0.015 is nothing in a curve that began at 1."""

TRAIN_FALL = 0.02
"""A training loss that fell by 2 % is still falling."""

DIVERGED_ABOVE_BASELINE = 1.5
"""A loss half as high again as the base model's own is not learning; a warm-up bump stays below and comes back."""

DIVERGED_GIVEN_BACK = 0.5
"""So is a training loss that has given back half of what it had gained: training does not undo itself by chance."""

STEEP_FALL = 0.1
"""A validation loss that still fell by 10 % over the last stretch had not come to its end."""

LAST_STRETCH = 0.25
"""The end of a curve is its last quarter, or its last epoch where that is longer, and never more than half of it."""

RESOLUTION = 0.1
"""A validation set whose error band is wider than ten points cannot tell that nothing was learnt."""


SURE = 0.9
"""A run is stopped for over-fitting at this confidence; see benchmarks/fit for how often that misses a better epoch."""


def judge(curve: LearningCurve, advice: Advice) -> FitVerdict:
    """Judge how well a run fitted. Never raises; where the curve does not show it, the verdict is `unsettled`."""
    facts = _Facts(curve)
    verdict = next((found for rule in _RULES if (found := rule(facts, advice)) is not None), None)
    return replace(verdict or _healthy(facts), keep_epoch=facts.keep_epoch)


def hopeless(curve: LearningCurve, advice: Advice) -> FitVerdict | None:
    """Return the verdict on a run that goes on, where it is sure by now that going on makes nothing better; else None.

    That is a run that has diverged, and one that over-fits with a confidence of at least `SURE`.
    """
    verdict = judge(replace(curve, ended="stopped"), advice)
    sure = verdict.kind is VerdictKind.OVERFIT and verdict.confidence >= SURE
    return verdict if sure or verdict.kind is VerdictKind.DIVERGED else None


class _Facts:
    """What the rules ask of a curve: its series in order, their noise, and what there is to compare with."""

    def __init__(self, curve: LearningCurve) -> None:
        placed = [each for each in curve.points if math.isfinite(each.epoch)]
        self.curve = curve
        self.points = sorted(placed, key=lambda each: (each.epoch, each.step))
        finite = [each for each in self.points if all(map(math.isfinite, each.values))]
        self.train_loss = Series.of(finite, lambda each: each.train_loss)
        self.valid_loss = Series.of(finite, lambda each: each.valid_loss)
        self.train_metric = Series.of(finite, lambda each: each.train_metric)
        self.valid_metric = Series.of(finite, lambda each: each.valid_metric)
        self.metric = (curve.metric or "metric").replace("_", " ")
        self.baseline = curve.baseline or CurvePoint(0.0, 0)
        self.evaluations = max(len(each.values) for each in (self.valid_loss, self.valid_metric, _NOTHING) if each)

    @property
    def keep_epoch(self) -> float | None:
        """The epoch with the best validation, the earlier one on a tie."""
        if self.valid_metric is not None and (self.curve.best_by == "metric" or self.valid_loss is None):
            return self.valid_metric.where(max)
        return self.valid_loss.where(min) if self.valid_loss is not None else None

    @property
    def stretch(self) -> tuple[float, float]:
        """The epochs in which the curve's last stretch begins and ends."""
        last = self.points[-1].epoch
        return max(last - max(LAST_STRETCH * last, 1.0), last / 2), last

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

    def loss_noise(self, level: float) -> float:
        """How far a validation loss near `level` may move by chance between two evaluations."""
        rough = self.valid_loss.roughness if self.valid_loss else 0.0
        return max(SIGNIFICANT * LOSS_SPREAD / math.sqrt(_examples(self.curve.valid_examples)) * abs(level), 3 * rough)

    def valid_noise(self, share: float) -> float:
        """The half-width of the validation metric's error band."""
        return SIGNIFICANT * _standard_error(share, _examples(self.curve.valid_examples))

    def gap_noise(self, train: float, valid: float) -> float:
        """The half-width of the error band of the difference between the training and the validation metric."""
        sample = _examples(self.curve.train_examples or self.curve.valid_examples)
        return math.hypot(SIGNIFICANT * _standard_error(train, sample), self.valid_noise(valid))


_NOTHING = Series((), (), 0.0)


def _examples(known: int | None) -> int:
    return known if known is not None and known > 0 else ASSUMED_EXAMPLES


def _standard_error(share: float, examples: int) -> float:
    """The binomial standard error, with one more of either outcome: no share is certain (Agresti and Coull 1998)."""
    likely = (min(max(share, 0.0), 1.0) * examples + 1) / (examples + 2)
    return math.sqrt(likely * (1 - likely) / examples)


def _verdict(
    kind: VerdictKind,
    evidence: str,
    advice: str = "",
    *,
    onset: float | None = None,
    by: float = 2.0,
    improving: bool = False,
) -> FitVerdict:
    """`by` is how many times the deciding difference exceeds what chance explains."""
    confidence = min(0.95, max(0.5, 0.25 + 0.25 * (0.0 if math.isnan(by) else by)))
    return FitVerdict(kind, evidence, advice, onset_epoch=onset, confidence=confidence, improving=improving)


def _n(value: float) -> str:
    return f"{value:.3g}"


def _times(difference: float, noise: float) -> float:
    return difference / noise if noise > 0 else math.inf


# ------------------------------------------------------------------------------------------------------------ the rules
# Each returns its verdict, or None where it has nothing to say; the first one that speaks decides.


def _not_finite(facts: _Facts, advice: Advice) -> FitVerdict | None:
    names = {"train_loss": "the training loss", "valid_loss": "the validation loss"}
    names |= {"train_metric": f"the training {facts.metric}", "valid_metric": f"the validation {facts.metric}"}
    onset: float | None = None
    for point in (facts.baseline, *facts.points):
        for field_name, name in names.items():
            value = getattr(point, field_name)
            if value is not None and not math.isfinite(value):
                when = "before training" if point is facts.baseline else f"at epoch {_n(point.epoch)}"
                return _verdict(
                    VerdictKind.DIVERGED,
                    f"{name} is {value} {when}",
                    advice.against(VerdictKind.DIVERGED),
                    onset=onset,
                    by=math.inf,
                )
        onset = point.epoch
    if facts.curve.ended == "diverged":
        evidence = f"the loss was no longer finite after epoch {_n(onset or 0.0)}"
        return _verdict(VerdictKind.DIVERGED, evidence, advice.against(VerdictKind.DIVERGED), onset=onset, by=math.inf)
    return None


def _no_validation(facts: _Facts, advice: Advice) -> FitVerdict | None:
    if facts.valid_loss is not None or facts.valid_metric is not None:
        return None
    what = "it was evaluated on training examples only" if facts.points else "no evaluation was made"
    return _verdict(VerdictKind.UNSETTLED, what, by=math.inf)


def _ran_away(facts: _Facts, advice: Advice) -> FitVerdict | None:
    loss, base = facts.train_loss, facts.baseline.train_loss
    if loss is None:
        return None
    settled = min(loss.values[-2:])
    if base is not None and base > 0 and settled > DIVERGED_ABOVE_BASELINE * base:
        evidence = f"training loss rose from {_n(base)} (base model) to {_n(loss.last)} and stayed there"
        calm = [e for e, v in zip(loss.epochs, loss.values, strict=True) if v <= DIVERGED_ABOVE_BASELINE * base]
        onset = max(calm, default=0.0)
        by = _times(settled, DIVERGED_ABOVE_BASELINE * base)
        return _verdict(VerdictKind.DIVERGED, evidence, advice.against(VerdictKind.DIVERGED), onset=onset, by=by)
    low, onset = min(loss.values), loss.where(min)
    start = loss.values[0] if onset > loss.epochs[0] or base is None else base
    gained, given_back = start - low, settled - low
    noise = max(SMALLEST_RISE * abs(low), 3 * loss.roughness)
    if gained > noise and given_back > max(noise, DIVERGED_GIVEN_BACK * gained):
        evidence = (
            f"training loss rose from {_n(low)} (epoch {_n(onset)}) to {_n(loss.last)} (epoch {_n(loss.epochs[-1])}) "
            f"and stayed there"
        )
        return _verdict(
            VerdictKind.DIVERGED,
            evidence,
            advice.against(VerdictKind.DIVERGED),
            onset=onset,
            by=_times(given_back, gained / 2),
        )
    return None


def _too_short(facts: _Facts, advice: Advice) -> FitVerdict | None:
    if facts.evaluations >= EVALUATIONS_NEEDED:
        return None
    epoch = _n(facts.points[-1].epoch)
    how = {"stopped": "it was stopped", "failed": "it failed"}.get(facts.curve.ended, "training ended")
    return _verdict(
        VerdictKind.UNSETTLED, f"{how} after one evaluation (epoch {epoch}): too little to judge", by=math.inf
    )


def _loss_rises(facts: _Facts, advice: Advice) -> FitVerdict | None:
    """Over-fitting as the losses show it: validation has turned, training goes on falling."""
    loss, base = facts.valid_loss, facts.baseline.valid_loss
    if loss is None:
        return None
    low, onset = min(loss.values), loss.where(min)
    start = max(loss.values[0], base) if base is not None else loss.values[0]
    if base is not None and base < low:
        low, onset = base, 0.0
    rise = loss.last - low
    floor = max(SMALLEST_RISE * abs(low), SMALLEST_SHARE * (start - low))
    noise = max(floor, facts.loss_noise(low))
    if rise <= floor or _metric_gained(facts, onset):
        return None
    at_low, at_end = f"(epoch {_n(onset)})", f"(epoch {_n(loss.epochs[-1])})"
    rose = f"validation loss rose from {_n(low)} {at_low} to {_n(loss.last)} {at_end}"
    if rise <= noise:
        few = f"which {_examples(facts.curve.valid_examples)} validation examples cannot tell from chance"
        return _verdict(VerdictKind.UNSETTLED, f"{rose}, {few}", by=1.0)
    fell = _training_went_on(facts, onset)
    if fell is None:
        return _verdict(VerdictKind.UNSETTLED, f"{rose}, and the training curve does not show why", by=1.0)
    by = _times(rise, noise)
    return _verdict(
        VerdictKind.OVERFIT,
        f"{rose} {fell}",
        advice.against(VerdictKind.OVERFIT, useful_epochs=facts.keep_epoch),
        onset=onset,
        by=by,
    )


def _metric_gained(facts: _Facts, since: float) -> bool:
    """Whether the validation metric, if it is what counts, clearly rose after the loss had its minimum."""
    metric = facts.valid_metric
    if metric is None or facts.curve.best_by == "loss":
        return False
    before = metric.at(since) if since > 0 else facts.baseline.valid_metric
    return before is not None and metric.last - before > facts.valid_noise(before)


def _training_went_on(facts: _Facts, since: float) -> str | None:
    """What training did while validation got worse, in words; None where it did not get better, or nobody knows."""
    for series, base, name, sign in (
        (facts.train_loss, facts.baseline.train_loss, "training loss fell", -1),
        (facts.train_metric, facts.baseline.train_metric, f"training {facts.metric} rose", 1),
    ):
        if series is None:
            continue
        before = series.at(since) if since > 0 or base is None else base
        if sign * (series.last - before) > TRAIN_FALL * abs(before):
            return f"while {name} from {_n(before)} to {_n(series.last)}"
    return None


def _gap_widens(facts: _Facts, advice: Advice) -> FitVerdict | None:
    """Over-fitting as the metric shows it: validation has stopped improving, training has not."""
    train, valid, base = facts.train_metric, facts.valid_metric, facts.baseline
    if train is None or valid is None:
        return None
    epochs, values = valid.epochs, valid.values
    first_train = train.values[0]
    if base.valid_metric is not None and base.train_metric is not None:
        epochs, values, first_train = (0.0, *epochs), (base.valid_metric, *values), base.train_metric
    best = max(values)
    onset = next(e for e, v in zip(epochs, values, strict=True) if v >= best - facts.valid_noise(best) / 2)
    if onset >= epochs[-1] or (facts.valid_loss is not None and _still_falls(facts, onset)):
        return None
    train_then = first_train if onset == epochs[0] else train.at(onset)
    gap, gap_then = train.last - valid.last, train_then - values[epochs.index(onset)]
    noise = facts.gap_noise(train.last, valid.last)
    if min(gap, gap - gap_then, train.last - train_then) <= noise:
        return None
    evidence = (
        f"training {facts.metric} rose from {_n(train_then)} (epoch {_n(onset)}) to {_n(train.last)} "
        f"(epoch {_n(epochs[-1])}) while validation {facts.metric} ended at {_n(valid.last)}: "
        f"a gap of {_n(gap)}, where sampling explains {_n(noise)}"
    )
    by = _times(gap - gap_then, noise)
    return _verdict(
        VerdictKind.OVERFIT,
        evidence,
        advice.against(VerdictKind.OVERFIT, useful_epochs=facts.keep_epoch),
        onset=onset,
        by=by,
    )


def _still_falls(facts: _Facts, since: float) -> bool:
    loss, base = facts.valid_loss, facts.baseline.valid_loss
    if loss is None:
        return False
    before = loss.at(since) if since > 0 or base is None else base
    return before - loss.last > facts.loss_noise(before)


def _cut_off(facts: _Facts, advice: Advice) -> FitVerdict | None:
    """A run that did not end by itself is judged only if it had come to rest."""
    end, last = facts.curve.ended, _n(facts.points[-1].epoch)
    if end == "failed":
        return _verdict(
            VerdictKind.UNSETTLED, f"it failed after epoch {last}, before its curve showed anything", by=math.inf
        )
    if end == "stopped" and facts.evaluations < EVALUATIONS_OF_STOPPED:
        evidence = f"it was stopped after epoch {last}, with {facts.evaluations} evaluations: too few to judge"
        return _verdict(VerdictKind.UNSETTLED, evidence, by=math.inf)
    if end == "stopped" and (going := _improvement(facts)) is not None:
        return _verdict(VerdictKind.UNSETTLED, f"it was stopped after epoch {last} while {going[0]}", by=going[1])
    return None


def _learnt_nothing(facts: _Facts, advice: Advice) -> FitVerdict | None:
    """Under-fitting from the bottom: at the end the model is not clearly better than without training."""
    metric, reference = facts.valid_metric, facts.reference
    if metric is not None and reference is not None:
        floor, whose = reference
        gain, noise = metric.last - floor, facts.valid_noise(floor)
        if gain > noise or 1 - floor <= noise:
            return None
        examples = _examples(facts.curve.valid_examples)
        evidence = (
            f"validation {facts.metric} ended at {_n(metric.last)}, {whose} has {_n(floor)}, "
            f"and {examples} examples tell differences above {_n(noise)}"
        )
        if noise > RESOLUTION and gain > 0:
            return _verdict(VerdictKind.UNSETTLED, evidence, by=1.0)
        return _underfit(evidence, facts, advice, by=2 - _times(gain, noise))
    loss, base = facts.valid_loss, facts.baseline.valid_loss
    if loss is None:
        return _verdict(VerdictKind.UNSETTLED, f"nobody knows the {facts.metric} without training", by=1.0)
    start = base if base is not None else loss.values[0]
    noise = max(facts.loss_noise(start), SMALLEST_RISE * abs(start))
    if start - loss.last > noise:
        return None
    if base is None:
        evidence = f"validation loss stayed near {_n(loss.last)}, and what it was before training is not known"
        return _verdict(VerdictKind.UNSETTLED, evidence, by=1.0)
    evidence = f"validation loss ended at {_n(loss.last)}, the base model has {_n(base)}"
    return _underfit(evidence, facts, advice, by=2 - _times(base - loss.last, noise))


def _underfit(evidence: str, facts: _Facts, advice: Advice, by: float) -> FitVerdict:
    going = _improvement(facts)
    if going is not None:
        evidence = f"{evidence}; {going[0]} when training ended"
    else:
        evidence = f"{evidence}: it learns nothing, or far too slowly"
    said = advice.against(VerdictKind.UNDERFIT, learns_nothing=going is None)
    return _verdict(VerdictKind.UNDERFIT, evidence, said, by=by, improving=going is not None)


def _improving(facts: _Facts, advice: Advice) -> FitVerdict | None:
    """Under-fitting from the top: the model is better than before, and was still getting better when training ended."""
    going = _improvement(facts)
    if going is None:
        return None
    evidence = f"{going[0]} when training ended"
    said = advice.against(VerdictKind.UNDERFIT)
    return _verdict(VerdictKind.UNDERFIT, evidence, said, by=going[1], improving=True)


def _improvement(facts: _Facts) -> tuple[str, float] | None:
    """How validation, with training, still improved over the last stretch: in words, and as a multiple of its noise."""
    since, last = facts.stretch
    if since >= last:
        return None
    if facts.train_loss is not None:
        before = facts.train_loss.at(since)
        if before - facts.train_loss.last <= TRAIN_FALL * abs(before):
            return None
    if facts.valid_loss is not None and _rose(facts.valid_loss, since):
        return None
    between = f"between epoch {_n(since)} and {_n(last)}"
    metric, loss = facts.valid_metric, facts.valid_loss
    if metric is not None:
        then, noise = metric.at(since), facts.valid_noise(metric.at(since))
        if metric.last - then > noise:
            text = f"validation {facts.metric} still rose from {_n(then)} to {_n(metric.last)} {between}"
            return text, _times(metric.last - then, noise)
        if metric.last < then or 1 - metric.last <= noise:
            return None
    if loss is not None:
        then = loss.at(since)
        noise = max(facts.loss_noise(then), STEEP_FALL * abs(then))
        if then - loss.last > noise:
            text = f"validation loss still fell from {_n(then)} to {_n(loss.last)} {between}"
            return text, _times(then - loss.last, noise)
    return None


def _rose(loss: Series, since: float) -> bool:
    before = loss.at(since)
    return loss.last - before > SMALLEST_RISE * abs(before)


_RULES: tuple[Callable[[_Facts, Advice], FitVerdict | None], ...] = (
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


def _healthy(facts: _Facts) -> FitVerdict:
    parts, by = [], 1.0
    for series, base, name in (
        (facts.valid_metric, facts.baseline.valid_metric, facts.metric),
        (facts.valid_loss, facts.baseline.valid_loss, "loss"),
    ):
        if series is not None:
            start, whence = (base, "base model") if base is not None else (series.values[0], "first evaluation")
            parts.append(f"validation {name} went from {_n(start)} ({whence}) to {_n(series.last)}")
            noise = facts.valid_noise(start) if series is facts.valid_metric else facts.loss_noise(start)
            by = max(by, _times(abs(series.last - start), noise))
    return _verdict(VerdictKind.HEALTHY, ", ".join(parts), by=by)
