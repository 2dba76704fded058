"""Verdicts in words: how each kind is put together from its evidence, and how sure it is."""

from __future__ import annotations

import math

from sweeps.verdicts.advice import Advice
from sweeps.verdicts.evidence import Evidence, Tail
from sweeps.verdicts.verdict import FitVerdict, VerdictKind


def worded(
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


def unsettled(evidence: str, by: float = math.inf) -> FitVerdict:
    """Return that the curve does not tell."""
    return worded(VerdictKind.UNSETTLED, evidence, by=by)


def diverged(evidence: str, advice: Advice, onset: float | None, by: float = math.inf) -> FitVerdict:
    """Return that training went wrong, at `onset`, and that the rate is to be lowered."""
    return worded(VerdictKind.DIVERGED, evidence, advice.for_verdict(VerdictKind.DIVERGED), onset=onset, by=by)


def overfit(evidence: str, seen: Evidence, advice: Advice, onset: float, by: float) -> FitVerdict:
    """Return that validation turned at `onset`, and what to change; of use were the epochs up to the one to keep."""
    said = advice.for_verdict(VerdictKind.OVERFIT, useful_epochs=seen.keep_epoch)
    return worded(VerdictKind.OVERFIT, evidence, said, onset=onset, by=by)


def number(value: float) -> str:
    """Return a number as evidence shows it."""
    return f"{value:.3g}"


def times(difference: float, noise: float) -> float:
    """Return how many times a difference exceeds what chance explains."""
    return difference / noise if noise > 0 else math.inf


def between(seen: Evidence, tail: Tail) -> str:
    """Return between which epochs a stretch lies."""
    return f"between epoch {number(tail.since)} and {number(seen.last_epoch)}"
