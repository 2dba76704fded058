"""The verdict on a learning curve, as a value: its kind, its evidence and its advice."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from html import escape


class VerdictKind(StrEnum):
    """The five judgements on the fit of a run."""

    HEALTHY = "healthy"
    UNDERFIT = "underfit"
    OVERFIT = "overfit"
    DIVERGED = "diverged"
    UNSETTLED = "unsettled"


@dataclass(frozen=True, slots=True)
class FitVerdict:
    """A judgement on a learning curve.

    `evidence` is one sentence with the numbers, and `advice` says what to try next (may be empty).
    `onset_epoch` is where overfitting or divergence began, and `keep_epoch` is the epoch with the
    best weights. `confidence` is in 0..1. `improving`: validation was still getting better when
    training ended. `collapsed`: the run learned nothing, apparently because its learning rate was
    too large.
    """

    kind: VerdictKind
    evidence: str
    advice: str = ""
    onset_epoch: float | None = None
    keep_epoch: float | None = None
    confidence: float = 1.0
    improving: bool = False
    collapsed: bool = False

    def __str__(self) -> str:
        """Say the verdict in a line: "overfit (90 % sure): validation loss rose ..."."""
        advice = f"; advice: {self.advice}" if self.advice else ""
        return f"{self.kind} ({100 * self.confidence:.0f} % sure): {self.evidence}{advice}"

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        advice = f"<br>Advice: {escape(self.advice)}" if self.advice else ""
        sure = f"({100 * self.confidence:.0f} % sure)"
        return f"<p><strong>{self.kind}</strong> {sure}<br>{escape(self.evidence)}{advice}</p>"
