"""A verdict cites the fault of the data that explains it, and only such a fault."""

from __future__ import annotations

import pytest

from sweeps.data.checks.catalogue import CHECKS
from sweeps.data.findings import Finding
from sweeps.verdicts.data_causes import CAUSES, with_data_causes
from sweeps.verdicts.verdict import FitVerdict, VerdictKind

pytestmark = pytest.mark.unit

SIZES = {"train": 1000, "valid": 200, "test": 200}


def finding(code: str, count: int = 1, message: str = "a fault") -> Finding:
    return Finding("warning", code, message, "d.csv:3", count=count)


def evidence(kind: VerdictKind, *findings: Finding) -> str:
    return with_data_causes(FitVerdict(kind, "the curve"), findings, SIZES).evidence


def test_every_cause_is_a_code_of_the_catalogue() -> None:
    assert not CAUSES.keys() - CHECKS.keys()


@pytest.mark.parametrize("code", ["conflicting-labels", "mislabelled", "cut-prompts", "few-examples"])
@pytest.mark.parametrize("kind", [VerdictKind.UNDERFIT, VerdictKind.OVERFIT])
def test_a_bad_fit_is_explained(code: str, kind: VerdictKind) -> None:
    text = evidence(kind, finding(code, 90))
    assert text.startswith("the curve; the data may explain it: ")
    assert f"({code})" in text


def test_the_share_is_named_and_must_be_large_enough() -> None:
    text = evidence(VerdictKind.UNDERFIT, finding("conflicting-labels", 90))
    assert text == (
        "the curve; the data may explain it: 90 of 1,000 training examples: no model can learn both answers "
        "(conflicting-labels)"
    )
    assert evidence(VerdictKind.UNDERFIT, finding("conflicting-labels", 3)) == "the curve"


def test_a_leak_makes_a_good_score_doubtful() -> None:
    text = evidence(
        VerdictKind.HEALTHY, finding("near-overlap", 48, "48 of 200 valid examples are nearly one of train")
    )
    assert "this may be too good: 48 of 200 validation examples: their score counts what was memorised" in text
    assert "(near-overlap)" in text
    other = finding("near-overlap", 48, "48 of 200 test examples are nearly the same as others")
    assert evidence(VerdictKind.HEALTHY, other) == "the curve"


def test_findings_of_one_code_count_together_and_the_most_frequent_come_first() -> None:
    found = [finding("mislabelled", 15), finding("conflicting-labels", 200), finding("mislabelled", 15)]
    text = evidence(VerdictKind.OVERFIT, *found, finding("few-examples"))
    assert text.index("conflicting-labels") < text.index("30 of 1,000 training examples: their labels")
    assert "few-examples" not in text  # at most two


@pytest.mark.parametrize("kind", [VerdictKind.DIVERGED, VerdictKind.UNSETTLED])
def test_other_verdicts_stay_as_they_are(kind: VerdictKind) -> None:
    verdict = FitVerdict(kind, "the curve")
    assert with_data_causes(verdict, [finding(code, 500) for code in CAUSES], SIZES) is verdict


def test_without_data_there_is_nothing_to_cite() -> None:
    verdict = FitVerdict(VerdictKind.OVERFIT, "the curve")
    assert with_data_causes(verdict, [finding("mislabelled", 5)], {}) is verdict
