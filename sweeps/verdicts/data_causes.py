"""Faults of the data that explain a verdict on a trial. Pure: verdict and findings -> a remark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sweeps.data.findings import Finding
from sweeps.verdicts.verdict import FitVerdict, VerdictKind

MAX_CAUSES = 2
"""How many faults one verdict cites, the most frequent first."""

SHARE = 0.02
"""The least share of the examples of a part that explains anything. It is ours: two in a hundred
examples are about what chance moves the score of a validation set of usual size."""

_BAD_FITS = frozenset({VerdictKind.OVERFIT, VerdictKind.UNDERFIT})
_OVERFIT, _UNDERFIT = frozenset({VerdictKind.OVERFIT}), frozenset({VerdictKind.UNDERFIT})
_TOO_GOOD = frozenset({VerdictKind.HEALTHY, VerdictKind.OVERFIT})


@dataclass(frozen=True)
class DataCause:
    """Which verdicts a kind of finding explains, from which share of a part on, and why.

    `part` is the part whose size the count of the finding is compared with.
    """

    verdicts: frozenset[VerdictKind]
    part: str
    least_share: float
    why: str


_UNLEARNABLE = "no model can learn both answers"
_LEAK = "their score counts what was memorised"
_OTHER_DATA = "validation is about other data than training"

CAUSES: Mapping[str, DataCause] = {
    "few-examples": DataCause(_BAD_FITS, "train", 0.0, "there are few training examples"),
    "few-per-class": DataCause(_BAD_FITS, "train", 0.0, "there are few training examples for so many labels"),
    "dropped-examples": DataCause(_BAD_FITS, "train", SHARE, "left out because they are too long"),
    "conflicting-labels": DataCause(_BAD_FITS, "train", SHARE, _UNLEARNABLE),
    "conflicting-variants": DataCause(_BAD_FITS, "train", SHARE, _UNLEARNABLE),
    "mislabelled": DataCause(_BAD_FITS, "train", SHARE, "their labels are likely wrong"),
    "label-spelling": DataCause(_BAD_FITS, "train", SHARE, "one label counts as two"),
    "label-typo": DataCause(_BAD_FITS, "train", SHARE, "one label counts as two"),
    "cut-prompts": DataCause(_BAD_FITS, "train", SHARE, "a part of their prompts is cut"),
    "cut-completions": DataCause(_BAD_FITS, "train", SHARE, "the end of their completions is cut"),
    "unknown-tokens": DataCause(_BAD_FITS, "train", SHARE, "the tokenizer does not know a part of their text"),
    "template-drops": DataCause(_BAD_FITS, "train", SHARE, "the chat template drops messages"),
    "duplicate": DataCause(_OVERFIT, "train", 5 * SHARE, "repeated examples are learned by heart"),
    "near-duplicate": DataCause(_OVERFIT, "train", 5 * SHARE, "nearly the same examples are learned by heart"),
    "label-drift": DataCause(_OVERFIT, "valid", 0.0, _OTHER_DATA),
    "length-drift": DataCause(_OVERFIT, "valid", 0.0, _OTHER_DATA),
    "vocabulary-drift": DataCause(_OVERFIT, "valid", 0.0, _OTHER_DATA),
    "format-drift": DataCause(_OVERFIT, "valid", 0.0, _OTHER_DATA),
    "imbalance": DataCause(_UNDERFIT, "train", 0.0, "one answer is nearly always right"),
    "overlap": DataCause(_TOO_GOOD, "valid", SHARE, _LEAK),
    "near-overlap": DataCause(_TOO_GOOD, "valid", SHARE, _LEAK),
    "group-overlap": DataCause(_TOO_GOOD, "valid", SHARE, _LEAK),
    "prompt-overlap": DataCause(_BAD_FITS, "valid", SHARE, "training teaches another answer to their prompts"),
}
"""By the code of the finding; a least share of 0 means that the finding alone is enough."""


def with_data_causes(verdict: FitVerdict, findings: Sequence[Finding], examples: Mapping[str, int]) -> FitVerdict:
    """Add to the evidence of a verdict the faults of the data that explain it, each with its code.

    `examples` has the number of examples by part. The verdict itself stays as it is.
    """
    causes = sorted(_causes(verdict.kind, findings, examples), key=lambda cause: -cause[0])[:MAX_CAUSES]
    if not causes:
        return verdict
    doubt = "this may be too good" if verdict.kind is VerdictKind.HEALTHY else "the data may explain it"
    return replace(verdict, evidence=f"{verdict.evidence}; {doubt}: {', '.join(text for _, text in causes)}")


def _causes(kind: VerdictKind, findings: Iterable[Finding], examples: Mapping[str, int]) -> Iterable[tuple[float, str]]:
    counts: dict[str, int] = {}
    for finding in findings:
        cause = CAUSES.get(finding.code)
        if cause is not None and kind in cause.verdicts and not _is_about_other_part(finding, cause.part):
            counts[finding.code] = counts.get(finding.code, 0) + finding.count
    for code, count in counts.items():
        cause = CAUSES[code]
        size = examples.get(cause.part, 0)
        share = min(1.0, count / size) if size else 0.0
        if not cause.least_share:
            yield 0.0, f"{cause.why} ({code})"
        elif share >= cause.least_share:
            yield share, f"{min(count, size):,} of {size:,} {_WORDS[cause.part]} examples: {cause.why} ({code})"


def _is_about_other_part(finding: Finding, part: str) -> bool:
    """Return whether the message of a finding names only other parts than this one."""
    named = {name for name, words in _NAMES.items() if any(f" {word} " in f" {finding.message} " for word in words)}
    return bool(named) and part not in named


_WORDS = {"train": "training", "valid": "validation", "test": "test"}
_NAMES = {part: {part, word} for part, word in _WORDS.items()}
