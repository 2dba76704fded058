"""Building verdicts from evidence and advice: confidence, and the parts of the text."""

from __future__ import annotations

import math

from sweeps.verdicts.advice import Advice
from sweeps.verdicts.features import CurveFeatures, format_number
from sweeps.verdicts.trend import Trend
from sweeps.verdicts.verdict import FitVerdict, VerdictKind

LOWEST_CONFIDENCE, HIGHEST_CONFIDENCE = 0.5, 0.95


def make_verdict(
    kind: VerdictKind,
    evidence: str,
    advice: str = "",
    *,
    onset: float | None = None,
    strength: float = 2.0,
    improving: bool = False,
    collapsed: bool = False,
) -> FitVerdict:
    """Build a verdict. `strength` is the deciding difference as a multiple of what chance explains.

    A strength of 1 gives the confidence 0.5, the lowest, and 2.8 the highest, 0.95.
    """
    confidence = min(
        HIGHEST_CONFIDENCE, max(LOWEST_CONFIDENCE, 0.25 + 0.25 * (0.0 if math.isnan(strength) else strength))
    )
    return FitVerdict(
        kind, evidence, advice, onset_epoch=onset, confidence=confidence, improving=improving, collapsed=collapsed
    )


def unsettled(evidence: str, strength: float = math.inf) -> FitVerdict:
    """Build the verdict on a curve that does not show how the run fitted."""
    return make_verdict(VerdictKind.UNSETTLED, evidence, strength=strength)


def diverged(evidence: str, advice: Advice, onset: float | None, strength: float = math.inf) -> FitVerdict:
    """Build the verdict on a run that broke at `onset`; the advice is a lower learning rate."""
    return make_verdict(
        VerdictKind.DIVERGED, evidence, advice.for_verdict(VerdictKind.DIVERGED), onset=onset, strength=strength
    )


def overfit(evidence: str, features: CurveFeatures, advice: Advice, onset: float, strength: float) -> FitVerdict:
    """Build the verdict on a run whose validation turned at `onset`.

    The advice knows the epoch that is kept, and never goes below it.
    """
    text = advice.for_verdict(VerdictKind.OVERFIT)
    return make_verdict(VerdictKind.OVERFIT, evidence, text, onset=onset, strength=strength)


def multiple(difference: float, threshold: float) -> float:
    """Return the difference as a multiple of the threshold; infinite if the threshold is 0."""
    return difference / threshold if threshold > 0 else math.inf


def epoch_span(features: CurveFeatures, trend: Trend) -> str:
    """Return the words for the epochs of a trend at the end of the curve."""
    return f"between epochs {format_number(trend.start_epoch)} and {format_number(features.last_epoch)}"
