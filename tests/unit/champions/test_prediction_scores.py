"""`sweep predict --score`: how metrics are named, and which columns they need."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.champions.prediction_scores import check_columns, measure, requested_metrics
from sweeps.errors import UserInputError

pytestmark = pytest.mark.unit

RECORDS = [{"text": "a", "answer": "Yes"}, {"text": "b", "answer": "no"}]


def test_a_metric_is_written_as_in_a_sweep_file_and_compares_with_the_named_column(tmp_path: Path) -> None:
    metrics = requested_metrics(["exact_match", "{exact_match: {ignore: [case]}, name: relaxed}"], "answer")
    assert [(metric.name, metric.reference) for metric in metrics] == [("exact_match", "answer"), ("relaxed", "answer")]
    check_columns(RECORDS, metrics)
    measured = measure(RECORDS, ["yes", "no"], metrics, tmp_path)
    assert dict(measured.values) == {"exact_match": 0.5, "relaxed": 1.0}
    assert measured.scores_of(0) == {"exact_match": 0.0, "relaxed": 1.0}


def test_an_unknown_metric_is_one_problem() -> None:
    with pytest.raises(UserInputError, match="there is no metric 'exact_matc'"):
        requested_metrics(["exact_matc"], None)


@pytest.mark.parametrize(
    ("record", "reference", "message"),
    [
        ({"text": "a"}, None, "no column 'completion' to compare with"),
        ({"text": "a"}, "answer", "no column 'answer' to compare with"),
        ({"messages": []}, "answer", "no column 'answer' to compare with"),
        ({"completion": "a", "exact_match": 1}, None, "already has a column 'exact_match'"),
    ],
)
def test_a_missing_or_taken_column_is_found_before_the_model_predicts(
    record: dict[str, object], reference: str | None, message: str
) -> None:
    with pytest.raises(UserInputError, match=message):
        check_columns([record], requested_metrics(["exact_match"], reference))


def test_a_conversation_needs_no_other_column() -> None:
    check_columns([{"messages": []}], requested_metrics(["exact_match"], None))
