"""The baselines of a stored plan beside the best trial of the sweep."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from report_page import ACCURACY, HEALTHY, NOW, PLAN, TRIALS, Parsed, state, trial

from backends import codec
from sweeps.data.baselines import Baseline, Baselines, MetricRange
from sweeps.reports.baselines import baseline_metrics, baseline_table, closing_comparison, stored_baselines, to_beat
from sweeps.reports.page import page
from sweeps.spec.objective import Objective
from sweeps.study.finals import CandidateScore, FinalsResult
from sweeps.study.range_advice import RangeAdvice
from sweeps.study.sweep_advice import SweepAdvice
from sweeps.verdicts.verdict import FitVerdict, VerdictKind

pytestmark = pytest.mark.unit

SIZES = {"train": 2000, "valid": 500, "test": 500}
MEASURED = Baselines(
    (
        Baseline("most-frequent", {"valid": {"accuracy": 0.5}, "test": {"accuracy": 0.5}}, answer="ham"),
        Baseline("tfidf", {"valid": {"accuracy": 0.9}, "test": {"accuracy": 0.91}}),
        Baseline("tfidf-field", {"valid": {"accuracy": 0.7}, "test": {"accuracy": 0.7}}, field="text"),
    ),
    SIZES,
    SIZES,
    {"accuracy": MetricRange()},
)
STORED: dict[str, Any] = {**PLAN, "data": {**PLAN["data"], "baselines": codec.to_json(MEASURED)}, "findings": []}


def test_they_survive_the_plan() -> None:
    assert stored_baselines(STORED) == MEASURED
    assert stored_baselines(PLAN) is None  # a plan of an older version
    assert baseline_metrics(PLAN) == {}
    assert baseline_metrics(STORED)["baseline.tfidf.text.test_accuracy"] == 0.7


def test_the_page_shows_them_and_the_comparison() -> None:
    findings = [
        {"severity": "warning", "code": "duplicate", "place": "a.csv:3", "message": "twice", "hint": "", "count": 1}
    ]
    text = Parsed(page(state(plan={**STORED, "findings": findings}), NOW)).text
    assert "TF-IDF on {text} alone" in text
    assert "valid_accuracy 0.8, is below TF-IDF + logistic regression, 0.9" in text
    assert "duplicate" in text
    assert "What the task gives away" not in Parsed(page(state(), NOW)).text


@pytest.mark.parametrize(
    ("premise", "hypothesis", "together", "telling"),
    [(0.34, 0.53, 0.52, True), (0.34, 0.45, 0.60, False), (0.34, 0.35, 0.34, False), (0.5, 0.52, 0.53, True)],
)
def test_a_field_that_tells_as_much_as_all_is_named(
    premise: float, hypothesis: float, together: float, telling: bool
) -> None:
    def valid(value: float) -> dict[str, dict[str, float]]:
        return {"valid": {"accuracy": value}}

    models = (
        Baseline("most-frequent", valid(0.34)),
        Baseline("tfidf", valid(together)),
        Baseline("tfidf-field", valid(premise), field="premise"),
        Baseline("tfidf-field", valid(hypothesis), field="hypothesis"),
    )
    note = baseline_table(Baselines(models, SIZES, SIZES)).note
    assert ("{hypothesis} alone tells as much as all fields together" in note) is telling


def test_what_a_sweep_has_to_beat() -> None:
    assert to_beat(MEASURED, ACCURACY) == (
        "to beat: valid_accuracy 0.5 (most frequent answer), 0.9 (TF-IDF + logistic regression)"
    )
    assert to_beat(MEASURED, Objective("valid_loss", "minimize")) == ""


def test_few_trials_or_a_trial_that_still_learns_blame_no_model() -> None:
    settled = (*TRIALS[:2], trial(3, 0.7))
    claim = "not the hyperparameters"
    found = closing_comparison(STORED, ACCURACY, TRIALS[1], settled, None)
    assert found is not None
    assert claim in found.text
    few = closing_comparison(STORED, ACCURACY, TRIALS[1], TRIALS[:2], None)
    assert few is not None
    assert claim not in few.text
    learning = replace(TRIALS[1], verdict=FitVerdict(VerdictKind.UNDERFIT, "", improving=True))
    unfinished = closing_comparison(STORED, ACCURACY, learning, settled, None)
    assert unfinished is not None
    assert claim not in unfinished.text
    assert found.excludes_hyperparameters
    assert not unfinished.excludes_hyperparameters
    moved = RangeAdvice("learning_rate", "move", "raise it", "upper", 1e-3, 4e-3)
    untried = closing_comparison(STORED, ACCURACY, TRIALS[1], settled, None, SweepAdvice((moved,)))
    assert untried is not None
    assert claim not in untried.text, "a range has still to be moved"


def test_the_test_split_decides_where_the_finals_scored_it() -> None:
    standing = CandidateScore(1, 0.85, 0.8, 0.9, 0.0, 0.0, 1.0, (0.85,))
    finals = FinalsResult("valid_accuracy", (standing,), 1, "best", 0.99, test=(0.8, 0.78, 0.82))
    lucky = trial(1, 0.99, verdict=HEALTHY)
    found = closing_comparison(STORED, ACCURACY, lucky, (lucky,), finals)
    assert found is not None
    assert (found.kind, "test_accuracy 0.8" in found.text) == ("below", True)


def test_nothing_is_compared_without_a_result_or_with_another_metric() -> None:
    assert closing_comparison(STORED, ACCURACY, None, (), None) is None
    assert closing_comparison(PLAN, ACCURACY, TRIALS[1], TRIALS, None) is None
    assert closing_comparison(STORED, Objective("valid_loss", "minimize"), TRIALS[1], TRIALS, None) is None
