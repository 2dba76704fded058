"""The scores of a trained model's answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from backends.hosted.model_evaluation import label_scores

pytestmark = pytest.mark.unit


def test_accuracy_and_macro_f1_count_an_answer_that_is_no_label_as_wrong() -> None:
    scores = label_scores([" a", " a", " b", " b"], [" a", " b", " b", "what?"], (" a", " b"))
    assert scores["valid_accuracy"] == 0.5
    assert scores["valid_macro_f1"] == pytest.approx((2 / 3 + 2 / 4) / 2)


def test_a_label_that_the_validation_set_lacks_does_not_give_a_perfect_macro_f1() -> None:
    scores = label_scores([" a", " b"], [" a", " b"], (" a", " b", " c"))
    assert scores == {"valid_accuracy": 1.0, "valid_macro_f1": pytest.approx(2 / 3)}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1))
def test_scores_equal_those_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    truth, answers = [true for true, _ in pairs], [answer for _, answer in pairs]
    scores = label_scores(truth, answers, "abc")
    assert scores["valid_accuracy"] == pytest.approx(accuracy_score(truth, answers))
    expected = f1_score(truth, answers, labels=list("abc"), average="macro", zero_division=0)
    assert scores["valid_macro_f1"] == pytest.approx(expected)
