"""A sweep's best beside the baselines: what is claimed, and that chance claims nothing."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from sweeps.data.baselines import Baseline, Baselines, MetricRange
from sweeps.verdicts.baseline_comparison import SweepScore, compare

pytestmark = pytest.mark.unit


def baselines(constant: float, tfidf: float, metric: str = "accuracy", examples: int = 500) -> Baselines:
    def valid(value: float) -> Mapping[str, Mapping[str, float]]:
        return {"valid": {metric: value}}

    models = (Baseline("most-frequent", valid(constant), answer="ham"), Baseline("tfidf", valid(tfidf)))
    sizes = {"train": 2000, "valid": examples}
    return Baselines(models, sizes, sizes, {metric: MetricRange()})


def score(value: float, examples: int = 500, *, is_settled: bool = True) -> SweepScore:
    return SweepScore("valid", "accuracy", value, examples, is_settled)


def test_below_tf_idf_the_base_model_is_to_blame() -> None:
    found = compare(score(0.93), baselines(0.867, 0.98), "some/model")
    assert found is not None
    assert found.kind == "below"
    assert found.baseline == "tfidf"
    assert found.text == (
        "The sweep's best, valid_accuracy 0.93, is below TF-IDF + logistic regression, 0.98 (chance explains 0.027 "
        "with 500 examples): the base model is too weak for this text, not the hyperparameters."
    )


def test_no_better_than_the_most_frequent_answer() -> None:
    """SMS spam with the embedded model: 0.867 by always answering ham."""
    found = compare(score(0.867), baselines(0.866, 0.98), "builtin:tiny-lm")
    assert found is not None
    assert found.kind == "not-above-most-frequent"
    assert "No trial clearly beats the most frequent answer ('ham'), 0.866" in found.text
    assert "The data can be learned, as TF-IDF + logistic regression, 0.98, shows" in found.text
    assert "builtin:tiny-lm is a demonstration" in found.text
    own = compare(score(0.867), baselines(0.866, 0.98), "builtin:tiny-lm", has_own_data=False)
    assert own is not None
    assert "demonstration" not in own.text


def test_where_no_baseline_learns_anything_the_data_are_in_doubt() -> None:
    found = compare(score(0.34), baselines(0.338, 0.345), "some/model")
    assert found is not None
    assert found.kind == "not-above-most-frequent"
    assert "Look at the data" in found.text
    assert "too weak" not in found.text


def test_a_baseline_that_may_be_better_by_chance_leaves_it_open() -> None:
    """SMS spam with 200 validation examples: chance explains 6 points, TF-IDF is 6 points ahead."""
    found = compare(score(0.865, 200), baselines(0.865, 0.925, examples=200), "some/model")
    assert found is not None
    assert found.kind == "not-above-most-frequent"
    assert "TF-IDF + logistic regression, 0.925, may be chance" in found.text
    assert "No baseline does" not in found.text


def test_an_unsettled_sweep_blames_nobody() -> None:
    found = compare(score(0.9, is_settled=False), baselines(0.6, 0.98), "some/model")
    assert found is not None
    assert found.kind == "below"
    assert "not the hyperparameters" not in found.text
    assert "more trials and longer training would show" in found.text


@pytest.mark.parametrize(("value", "kind"), [(0.95, "above"), (0.86, "no-difference"), (0.84, "no-difference")])
def test_above_and_too_close_to_tell(value: float, kind: str) -> None:
    found = compare(score(value), baselines(0.5, 0.85), "some/model")
    assert found is not None
    assert found.kind == kind


def test_chance_is_rarely_taken_for_a_difference() -> None:
    """Two models with the same true accuracy, each measured on its own 200 examples."""
    chance = random.Random(5)
    claims = 0
    for _ in range(2000):
        one, other = (sum(chance.random() < 0.8 for _ in range(200)) / 200 for _ in range(2))
        found = compare(score(one, 200), baselines(0.5, other, examples=200), "some/model")
        claims += found is not None and found.kind != "no-difference"
    assert claims / 2000 < 0.06


def test_a_metric_that_was_not_measured_or_has_no_range_is_not_compared() -> None:
    assert compare(SweepScore("valid", "loss", 0.3, 500), baselines(0.5, 0.8), "m") is None
    assert compare(SweepScore("test", "accuracy", 0.3, 500), baselines(0.5, 0.8), "m") is None
    assert compare(score(float("nan")), baselines(0.5, 0.8), "m") is None
    unbounded = baselines(0.5, 0.8)
    unbounded.ranges["accuracy"] = MetricRange(0.0, None)  # type: ignore[index]
    assert compare(score(0.6), unbounded, "m") is None


def test_a_metric_where_lower_is_better_on_another_scale() -> None:
    models = (
        Baseline("most-frequent", {"valid": {"errors": 80.0}}),
        Baseline("nearest", {"valid": {"errors": 40.0}}),
    )
    sizes = {"train": 900, "valid": 300}
    measured = Baselines(models, sizes, sizes, {"errors": MetricRange(100.0, 0.0)})
    assert measured.strongest("valid", "errors") == models[1]
    above = compare(SweepScore("valid", "errors", 10.0, 300), measured, "m")
    below = compare(SweepScore("valid", "errors", 60.0, 300), measured, "m")
    assert above is not None
    assert below is not None
    assert (above.kind, below.kind) == ("above", "below")
    assert "chance explains 8" in below.text


def test_macro_f1_of_rare_labels_is_less_certain() -> None:
    measured = baselines(0.46, 0.70, "macro_f1")
    with_rare = Baselines(measured.models, measured.examples, measured.of, measured.ranges, {"valid": 40})
    best = SweepScore("valid", "macro_f1", 0.80, 500)
    certain, doubtful = compare(best, measured, "m"), compare(best, with_rare, "m")
    assert certain is not None
    assert doubtful is not None
    assert (certain.kind, doubtful.kind) == ("above", "no-difference")
