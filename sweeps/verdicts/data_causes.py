"""Faults of the data that explain a verdict on a trial. Pure: verdict and findings -> a remark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sweeps.data.findings import Finding
from sweeps.verdicts.verdict import FitVerdict, VerdictKind

MAX_CAUSES = 2
"""How many faults one verdict cites, the most frequent first."""

_BAD_FITS = frozenset({VerdictKind.OVERFIT, VerdictKind.UNDERFIT})
_TOO_GOOD = frozenset({VerdictKind.HEALTHY})


@dataclass(frozen=True)
class DataCause:
    """Which verdicts a kind of finding explains, from which share of a part on, and why.

    `part` is the part whose size the count of the finding is compared with.
    """

    verdicts: frozenset[VerdictKind]
    part: str
    least_share: float
    why: str


_UNLEARNABLE = "no model can fit both"
_LEAK = "scores on them are too high"

CAUSES: Mapping[str, DataCause] = {
    "few-examples": DataCause(frozenset({VerdictKind.OVERFIT, VerdictKind.UNDERFIT}), "train", 0.0, "too few to learn"),
    "conflicting-labels": DataCause(_BAD_FITS, "train", 0.02, "no model can learn both answers"),
    "label-spelling": DataCause(_BAD_FITS, "train", 0.02, "one label counts as two"),
    "duplicate": DataCause(frozenset({VerdictKind.OVERFIT}), "train", 0.1, "repeated examples are learned by heart"),
    "imbalance": DataCause(frozenset({VerdictKind.UNDERFIT}), "train", 0.0, "one answer is nearly always right"),
    "overlap": DataCause(frozenset({*_TOO_GOOD, VerdictKind.OVERFIT}), "valid", 0.02, _LEAK),
    "prompt-overlap": DataCause(_BAD_FITS, "valid", 0.02, "training teaches another answer to them"),
}
"""By the code of the finding. The shares are ours: two in a hundred examples are as much as a
validation set of usual size can show."""


def with_data_causes(verdict: FitVerdict, findings: Sequence[Finding], examples: Mapping[str, int]) -> FitVerdict:
    """Add to the evidence of a verdict the faults of the data that explain it, each with its code.

    `examples` has the number of examples by part. The verdict itself stays as it is.
    """
    causes = sorted(_causes(verdict.kind, findings, examples), key=lambda cause: -cause[0])[:MAX_CAUSES]
    if not causes:
        return verdict
    doubt = "this may be too good" if verdict.kind in _TOO_GOOD else "the data may explain it"
    return replace(verdict, evidence=f"{verdict.evidence}; {doubt}: {', '.join(text for _, text in causes)}")


def _causes(kind: VerdictKind, findings: Iterable[Finding], examples: Mapping[str, int]) -> Iterable[tuple[float, str]]:
    counts: dict[str, int] = {}
    for finding in findings:
        counts[finding.code] = counts.get(finding.code, 0) + finding.count
    for code, count in counts.items():
        cause = CAUSES.get(code)
        if cause is None or kind not in cause.verdicts:
            continue
        size = examples.get(cause.part, 0)
        share = count / size if size else 0.0
        if not cause.least_share:
            yield 0.0, f"{cause.why} ({code})"
        elif share >= cause.least_share:
            yield share, f"{count:,} of {size:,} {_WORDS[cause.part]} examples, {cause.why} ({code})"


_WORDS = {"train": "training", "valid": "validation", "test": "test"}
