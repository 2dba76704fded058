"""Learning curves -> FitVerdict: healthy, under-fitted, over-fitted, diverged or unsettled, with numbers and advice.

A pure function. The rules stand in their order: each says its verdict, or nothing, and the first one that speaks
decides. What they compare is computed in `evidence`; benchmarks/fit measures how often they are right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from backends.training_logs.learning_curve import LearningCurve
from sweeps.verdicts.advice import Advice
from sweeps.verdicts.divergence import lost_again, not_finite, ran_away
from sweeps.verdicts.evidence import Evidence
from sweeps.verdicts.overfitting import RISE, gap_widens, loss_rises
from sweeps.verdicts.underfitting import cut_off, learnt_nothing, no_validation, still_improving, too_short
from sweeps.verdicts.verdict import FitVerdict, VerdictKind
from sweeps.verdicts.wording import number, times, worded

SURE = 0.7
"""A run is stopped at this confidence; benchmarks/fit measures how much that saves and how often it misses a better
state."""

_RULES: tuple[Callable[[Evidence, Advice], FitVerdict | None], ...] = (
    not_finite,
    no_validation,
    ran_away,
    too_short,
    lost_again,
    loss_rises,
    gap_widens,
    cut_off,
    learnt_nothing,
    still_improving,
)


def judge(curve: LearningCurve, advice: Advice) -> FitVerdict:
    """Judge how well a run fitted. Never raises; where the curve does not show it, the verdict is `unsettled`."""
    seen = Evidence(curve)
    verdict = next((found for rule in _RULES if (found := rule(seen, advice)) is not None), None)
    return replace(verdict or _healthy(seen), keep_epoch=seen.keep_epoch)


def early_stop_verdict(curve: LearningCurve, advice: Advice) -> FitVerdict | None:
    """Return the verdict on a run that goes on, where it is sure by now that going on makes nothing better; else None.

    That is a run that has diverged or over-fits, with a confidence of at least `SURE`.
    """
    verdict = judge(replace(curve, ended="stopped"), advice)
    lost = verdict.kind in {VerdictKind.DIVERGED, VerdictKind.OVERFIT}
    return verdict if lost and verdict.confidence >= SURE else None


def _healthy(seen: Evidence) -> FitVerdict:
    parts, by = [], 1.0
    for series, base, name in (
        (seen.valid_metric, seen.baseline.valid_metric, seen.metric),
        (seen.valid_loss, seen.baseline.valid_loss, "loss"),
    ):
        if series is not None:
            start, whence = (base, "base model") if base is not None else (series.values[0], "first evaluation")
            parts.append(f"validation {name} went from {number(start)} ({whence}) to {number(series.last)}")
            noise = seen.valid_noise(start) if series is seen.valid_metric else seen.loss_noise(start)
            by = max(by, times(abs(series.last - start), noise))
    if seen.rise is not None and seen.rise.shown > RISE * abs(seen.rise.low):
        by = 1.0  # it may yet be over-fitting that its noise hides
    return worded(VerdictKind.HEALTHY, ", ".join(parts), by=by)
