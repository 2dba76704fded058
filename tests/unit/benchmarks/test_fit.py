"""The benchmark of the judge: screening, splits, today's common rules, and metrics."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from backends.training_logs.learning_curve import CurvePoint, LearningCurve, LoopReport
from benchmarks.fit import evaluate, local_runs, metrics, recipes, records, reliability, rules, screening
from benchmarks.fit.records import CAUSES, Oracle, Record
from benchmarks.fit.rendering import render, sparkline
from sweeps.verdicts.verdict import FitVerdict, VerdictKind

pytestmark = pytest.mark.unit


def curve(
    train: Sequence[float],
    valid: Sequence[float],
    train_metric: Sequence[float] | None = None,
    valid_metric: Sequence[float] | None = None,
    base: CurvePoint | None = CurvePoint(0.0, 0, 1.1, 1.1, 0.33, 0.33),  # noqa: B008 - it is frozen
    **known: object,
) -> LearningCurve:
    points = tuple(
        CurvePoint(n + 1.0, n + 1, one, two, train_metric and train_metric[n], valid_metric and valid_metric[n])
        for n, (one, two) in enumerate(zip(train, valid, strict=True))
    )
    metric = "accuracy" if valid_metric else None
    defaults = {"train_examples": 200, "valid_examples": 400, "classes": 3, "chance": 0.34}
    return LearningCurve(points, base, metric, **{**defaults, **known})  # type: ignore[arg-type]


def record(
    cause: str,
    detail: str,
    train: Sequence[float],
    loss: Sequence[float],
    train_metric: Sequence[float] | None = None,
    metric: Sequence[float] | None = None,
    later: Sequence[float] = (),
    later_metric: Sequence[float] | None = None,
    spread: float = 0.3,
    number: int = 0,
    **known: object,
) -> Record:
    """Return a record whose curve shows exactly the oracle's series."""
    oracle = Oracle(
        2000, 1.1, 1.1, tuple(loss), tuple(train), spread, spread, spread, 1.1, 0.33,
        metric and tuple(metric), train_metric and tuple(train_metric),
        tuple(later), later_metric and tuple(later_metric),
    )  # fmt: skip
    return Record(
        f"torch-{number:04d}",
        "torch",
        "blobs",
        cause,
        detail,
        curve(train, loss, train_metric, metric, **known),
        oracle,
    )


HEALTHY = record(
    "healthy", "plateau", [0.6, 0.4, 0.38], [0.62, 0.42, 0.41], [0.7, 0.84, 0.85], [0.7, 0.82, 0.83], [0.41], [0.83]
)
OVERFIT = record(
    "overfit", "too many epochs on few examples", [0.6, 0.3, 0.05], [0.7, 0.6, 0.9], [0.7, 0.9, 1.0], [0.68, 0.74, 0.73]
)
TOO_FEW = record(
    "underfit", "too few epochs", [1.05, 0.95, 0.85], [1.05, 0.97, 0.88], [0.4, 0.5, 0.56], [0.4, 0.48, 0.55],
    [0.5, 0.4], [0.7, 0.8],
)  # fmt: skip
NOTHING = record("underfit", "cannot learn", [1.1, 1.1], [1.1, 1.1], [0.34, 0.34], [0.34, 0.33])
COLLAPSED = record(
    "diverged", "blown up on the way", [0.7, 0.4, 3.0, 2.9], [0.7, 0.5, 3.1, 3.0], [0.6, 0.8, 0.3, 0.33],
    [0.6, 0.8, 0.3, 0.33],
)  # fmt: skip
STOPPED = dataclasses.replace(
    TOO_FEW, cause="unsettled", detail="stopped while going", curve=dataclasses.replace(TOO_FEW.curve, ended="stopped")
)


# ---------------------------------------------------------------------------------------- screening
@pytest.mark.parametrize(
    "kept", [HEALTHY, OVERFIT, TOO_FEW, NOTHING, COLLAPSED, STOPPED], ids=lambda record: record.detail
)
def test_a_run_whose_cause_took_effect_is_kept(kept: Record) -> None:
    assert screening.objection(kept) is None


@pytest.mark.parametrize(
    ("rejected", "reason"),
    [
        pytest.param(
            record("healthy", "plateau", [0.6, 0.4], [0.6, 0.42], [0.7, 0.8], [0.7, 0.8], [0.2], [0.9]),
            "between: more training helps",
            id="more training helps",
        ),
        pytest.param(
            dataclasses.replace(OVERFIT, cause="healthy", detail="plateau"), "between: the held-out", id="turned"
        ),
        pytest.param(
            dataclasses.replace(NOTHING, cause="healthy", detail="plateau"), "no effect: it learnt", id="nothing"
        ),
        pytest.param(dataclasses.replace(HEALTHY, cause="overfit"), "no effect: neither", id="not overfitted"),
        pytest.param(
            record(
                "overfit", "over-sized model", [0.6, 0.5, 0.4], [0.7, 0.6, 0.65], [0.7, 0.8, 0.85], [0.7, 0.74, 0.74]
            ),
            "between: the rise or the gap is small",
            id="a small rise",
        ),
        pytest.param(
            record(
                "overfit", "over-sized model", [0.6, 0.3, 0.05], [0.7, 0.6, 0.9], [0.7, 0.9, 1.0], [0.68, 0.74, 0.85]
            ),
            "between: the loss rises and so does the metric",
            id="the metric rises",
        ),
        pytest.param(
            record("overfit", "over-sized model", [0.6, 0.3, 0.1], [0.7, 0.6, 0.9], spread=1.0, valid_examples=20),
            "not visible",
            id="hidden by few examples",
        ),
        pytest.param(
            record("underfit", "too few epochs", [0.9, 0.8], [0.9, 0.8], [0.5, 0.6], [0.5, 0.6], [0.79], [0.6]),
            "between: neither",
            id="the continuation is no better",
        ),
        pytest.param(dataclasses.replace(HEALTHY, cause="diverged"), "no effect: the training loss", id="not diverged"),
        pytest.param(
            dataclasses.replace(HEALTHY, detail="double descent"),
            "no effect: the loss did not rise",
            id="no double descent",
        ),
        pytest.param(
            dataclasses.replace(HEALTHY, cause="unsettled", detail="no validation"),
            "no effect",
            id="there is validation",
        ),
    ],
)
def test_a_run_whose_cause_took_no_effect_is_rejected_with_the_reason(rejected: Record, reason: str) -> None:
    objection = screening.objection(rejected)
    assert objection is not None
    assert objection.startswith(reason)


def test_a_rising_loss_with_a_rising_metric_is_overfitting_if_the_loss_is_the_objective() -> None:
    rising = record(
        "overfit",
        "over-sized model",
        [0.6, 0.3, 0.05],
        [0.7, 0.6, 0.9],
        [0.7, 0.9, 1.0],
        [0.68, 0.74, 0.85],
        best_by="loss",
    )
    assert screening.objection(rising) is None


def test_a_non_finite_value_is_divergence_only_if_it_is_visible() -> None:
    broken = record("diverged", "rate far too large", [0.9, math.nan], [0.9, math.nan])
    hidden = dataclasses.replace(broken, curve=HEALTHY.curve)
    assert screening.objection(broken) is None
    assert str(screening.objection(hidden)).startswith("not visible")


LOST = record(
    "diverged", "blown up on the way", [0.5, 0.4, 0.5, 0.52], [0.5, 0.41, 0.5, 0.52], [0.6, 0.8, 0.34, 0.33],
    [0.6, 0.78, 0.34, 0.34],
)  # fmt: skip
AT_ONCE = record("underfit", screening.COLLAPSED, [0.55, 0.5], [0.55, 0.52], [0.34, 0.34], [0.34, 0.33])


def with_reports(record: Record, *losses: float) -> Record:
    loop_reports = tuple(LoopReport(n / 10, loss) for n, loss in enumerate(losses))
    return dataclasses.replace(record, curve=dataclasses.replace(record.curve, loop_reports=loop_reports))


def test_a_run_that_lost_what_it_learnt_diverged_even_if_its_loss_stayed_below_the_base_models() -> None:
    assert screening.objection(LOST) is None
    hidden = dataclasses.replace(LOST, curve=dataclasses.replace(LOST.curve, valid_examples=8))
    assert screening.objection(hidden) is not None
    half = dataclasses.replace(LOST, oracle=dataclasses.replace(LOST.oracle, metric=(0.6, 0.78, 0.6, 0.62)))
    assert screening.objection(half) is not None


def test_a_high_loss_that_only_the_loop_reported_is_divergence_if_nothing_was_learnt() -> None:
    blown = dataclasses.replace(AT_ONCE, cause="diverged", detail="rate far too large")
    assert screening.objection(with_reports(blown, 1.1, 3.0, 0.6)) is None
    assert str(screening.objection(with_reports(blown, 1.1, 1.2, 0.6))).startswith("no effect")
    learnt = dataclasses.replace(HEALTHY, cause="diverged", detail="rate far too large")
    assert screening.objection(with_reports(learnt, 1.1, 3.0, 0.6)) is not None


def test_a_collapse_at_once_never_learnt_anything_and_its_loss_was_never_far_up() -> None:
    assert screening.objection(with_reports(AT_ONCE, 1.1, 1.1, 0.6)) is None
    assert str(screening.objection(with_reports(AT_ONCE, 1.1, 1.5, 0.6))) == "between: the loss was, or is, far up"
    knew = dataclasses.replace(LOST, cause="underfit", detail=screening.COLLAPSED)
    assert str(screening.objection(knew)) == "between: it learnt something"
    unknown = dataclasses.replace(AT_ONCE, curve=dataclasses.replace(AT_ONCE.curve, baseline=None))
    assert str(screening.objection(unknown)).startswith("not visible")


def test_advice_about_the_rate_is_counted_by_the_correct_advice() -> None:
    slow = record("underfit", "rate far too small", [1.09, 1.08], [1.09, 1.08], [0.34, 0.34], [0.34, 0.33])
    counts = evaluate.count_rate_advice([AT_ONCE, slow, LOST, HEALTHY])
    assert counts["collapsed at once: lower"] == {"raise": 0, "lower": 1, "try both": 0, "nothing": 0}
    assert counts["blown up on the way: lower"] == {"raise": 0, "lower": 1, "try both": 0, "nothing": 0}
    assert counts["rate far too small: raise"] == {"raise": 1, "lower": 0, "try both": 0, "nothing": 0}


def test_double_descent_is_a_rise_followed_by_a_lower_loss() -> None:
    loss = [0.8, 0.5, 0.7, 0.42, 0.41]
    descended = record("healthy", "double descent", loss, loss, [0.8] * 5, [0.6, 0.8, 0.7, 0.82, 0.82], [0.41], [0.82])
    assert screening.objection(descended) is None


def test_within_the_noise_needs_a_visible_rise_that_chance_explains() -> None:
    seen = record(
        "unsettled", "within the noise of few examples", [0.6, 0.4, 0.3], [0.62, 0.5, 0.52], [0.7] * 3, [0.7] * 3,
        spread=0.5, valid_examples=12,
    )  # fmt: skip
    points = tuple(
        dataclasses.replace(point, valid_loss=value)
        for point, value in zip(seen.curve.points, (0.6, 0.5, 0.58), strict=True)
    )
    seen = dataclasses.replace(seen, curve=dataclasses.replace(seen.curve, points=points))
    many = dataclasses.replace(seen, curve=dataclasses.replace(seen.curve, valid_examples=1200))
    assert screening.objection(seen) is None
    assert screening.objection(many) is not None


# ------------------------------------------------------------------------------- split and the file
def test_the_last_generation_of_runs_serves_for_reporting() -> None:
    first = [dataclasses.replace(HEALTHY, id=f"torch-{n:04d}") for n in (3, 1, 2)]
    second = [dataclasses.replace(HEALTHY, id=f"local-{n:04d}") for n in (10_001, 10_002)]
    assert {record.split for record in records.assign_splits(first)} == {"tune"}
    out = records.assign_splits([*first, *second])
    assert out == records.assign_splits([*second, *reversed(first)])
    assert [(record.generation, record.split) for record in out] == [(2, "report")] * 2 + [(1, "tune")] * 3


def test_generations_have_the_same_cases_and_share_no_run() -> None:
    for made in (recipes.recipes, local_runs.recipes):
        first, second = list(made(0.3)), list(made(0.3, generation=2))
        assert [recipe.detail for recipe in first] == [recipe.detail for recipe in second]
        assert not {recipe.id for recipe in first} & {recipe.id for recipe in second}
        assert not {recipe.seed for recipe in first} & {recipe.seed for recipe in second}
        assert sum(one.train != other.train for one, other in zip(first, second, strict=True)) > len(first) / 3


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "curves.jsonl.gz"
    broken = record("diverged", "rate far too large", [0.9, math.inf], [0.9, 1.0])
    reported = with_reports(LOST, 1.5, 0.5)
    records.write([HEALTHY, broken, reported], path)
    first = path.read_bytes()
    assert records.read(path) == [HEALTHY, broken, reported]
    records.write([HEALTHY, broken, reported], path)
    assert path.read_bytes() == first


def test_the_committed_curves_pass_the_screening_and_have_the_assigned_splits() -> None:
    committed = records.read()
    assert len(committed) >= 400
    assert {record.cause for record in committed} == set(CAUSES)
    assert {(record.family, record.split) for record in committed} == set(product(records.FAMILIES, ("tune", "report")))
    assert len({record.id for record in committed}) == len(committed)
    # The file keeps four digits, so that a run at a margin may fall on its other side.
    objections = [record.id for record in committed if screening.objection(record) is not None]
    assert len(objections) <= 0.01 * len(committed), objections
    assert [(record.id, record.split) for record in records.assign_splits(committed)] == [
        (record.id, record.split) for record in committed
    ]


# -------------------------------------------------------------------------------------------- rules
def test_the_rules_detect_overfitting_by_their_thresholds() -> None:
    seen = curve([0.6, 0.4, 0.3], [0.7, 0.6, 0.66])
    assert rules.above_minimum(seen, {"share": 0.09})
    assert not rules.above_minimum(seen, {"share": 0.11})
    assert rules.ratio(seen, {"ratio": 2.1})
    assert not rules.ratio(seen, {"ratio": 2.3})
    assert rules.patience(seen, {"patience": 1, "share": 0.0, "delta": 0.0})
    assert not rules.patience(seen, {"patience": 2, "share": 0.0, "delta": 0.0})
    assert rules.correlation(seen, {"correlation": 0.6})
    assert not rules.correlation(seen, {"correlation": 0.4})


def test_patience_restarts_at_each_new_best() -> None:
    waves = curve([1.0] * 6, [1.0, 1.1, 0.9, 1.0, 0.8, 0.9])
    assert not rules.patience(waves, {"patience": 2, "share": 0.0, "delta": 0.0})
    turned = curve([1.0] * 8, [1.0, 0.9, 0.95, 0.96, 0.97, 0.98, 0.99, 1.0])
    assert rules.patience(turned, {"patience": 1, "share": 0.7, "delta": 0.0})
    assert not rules.patience(turned, {"patience": 1, "share": 0.8, "delta": 0.0})
    assert rules.patience(curve([1.0] * 4, [1.0, 0.999, 0.998, 0.997]), {"patience": 3, "share": 0.0, "delta": 0.01})


def test_the_mean_of_the_last_losses_needs_more_than_one_high_value() -> None:
    at = {"count": 5, "share": 0.05}
    once = curve([1.0] * 8, [1.0, 0.9, 0.8, 0.8, 0.8, 0.8, 0.8, 0.9])
    assert rules.above_minimum(once, at)
    assert not rules.mean_of_last(once, at)
    assert rules.mean_of_last(curve([1.0] * 8, [1.0, 0.9, 0.8, 0.82, 0.84, 0.86, 0.88, 0.9]), at)
    assert not rules.mean_of_last(curve([1.0], [1.0]), at)


def test_the_reliability_table_counts_the_right_verdicts_of_each_kind() -> None:
    judged = [
        (FitVerdict(kind, "", confidence=confidence), cause)
        for kind, confidence, cause in (
            (VerdictKind.OVERFIT, 0.95, "overfit"),
            (VerdictKind.OVERFIT, 0.95, "healthy"),
            (VerdictKind.HEALTHY, 0.5, "healthy"),
        )
    ]
    low, high = reliability.bins(judged)
    assert (low.right, low.count, high.right, high.count) == (1, 1, 1, 2)
    assert high.interval[0] < 0.5 < high.interval[1]
    table = reliability.table_of_kinds(judged)
    assert "| overfit |  | 1 of 2 |" in table
    assert "| healthy | 1 of 1 |  |" in table


def test_without_losses_the_rules_use_the_error_rate() -> None:
    points = tuple(CurvePoint(n + 1.0, n, train_metric=0.9, valid_metric=metric) for n, metric in enumerate([0.8, 0.6]))
    assert rules.above_minimum(LearningCurve(points), {"share": 0.5})
    assert not rules.ratio(LearningCurve((CurvePoint(1.0, 1, 0.5),)), {"ratio": 1.0})


@pytest.mark.parametrize(
    "seen", [HEALTHY, OVERFIT, TOO_FEW, NOTHING, COLLAPSED, STOPPED], ids=lambda record: record.detail
)
def test_the_expert_recognises_a_plain_example_of_every_class(seen: Record) -> None:
    at = {"share": 0.05, "margin": 0.05, "far": 1.5, "falling": 0.05, "level": 0.05, "few": 0}
    assert rules.expert(rules.RULES[0], seen.curve, at) == seen.cause


def test_the_search_returns_the_best_thresholds() -> None:
    examples = [HEALTHY, OVERFIT, TOO_FEW, NOTHING, COLLAPSED, STOPPED]
    at, value = rules.best_expert(rules.RULES[0], examples, metrics.macro_f1, rules.readings(examples))
    predicted = [rules.expert(rules.RULES[0], record.curve, at) for record in examples]
    assert value == metrics.macro_f1(metrics.confusion([record.cause for record in examples], predicted)) == 1.0
    _, overfit = rules.best_plain(rules.RULES[0], examples, metrics.class_f1("overfit"))
    assert overfit == pytest.approx(2 / 3)  # the rule also mistakes the collapse for overfitting


# ------------------------------------------------------------------------------------------ metrics
pairs = st.lists(st.tuples(st.sampled_from(CAUSES), st.sampled_from(CAUSES)), min_size=1, max_size=60)


@settings(max_examples=20)
@given(pairs)
def test_the_metrics_equal_those_of_scikit_learn(predicted: list[tuple[str, str]]) -> None:
    truth, predicted = [a for a, _ in predicted], [b for _, b in predicted]
    matrix = metrics.confusion(truth, predicted)
    assert np.array_equal(matrix, confusion_matrix(truth, predicted, labels=list(CAUSES)))
    theirs = precision_recall_fscore_support(truth, predicted, labels=list(CAUSES), zero_division=0)
    ours = [(scores.precision, scores.recall, scores.f1, scores.support) for scores in metrics.per_class(matrix)]
    assert np.allclose(np.array(ours).T, np.array(theirs, dtype=float))
    assert metrics.macro_f1(matrix) == pytest.approx(f1_score(truth, predicted, average="macro", zero_division=0))
    assert metrics.accuracy(matrix) == pytest.approx(accuracy_score(truth, predicted))


def test_an_interval_contains_its_value_and_narrows_with_more_curves() -> None:
    truth, predicted = (
        ["healthy", "overfit", "underfit", "overfit"] * 10,
        ["healthy", "overfit", "overfit", "overfit"] * 10,
    )
    few = metrics.intervals(truth, predicted, {"f1": metrics.macro_f1}, resamples=200)["f1"]
    many = metrics.intervals(truth * 9, predicted * 9, {"f1": metrics.macro_f1}, resamples=200)["f1"]
    assert few.low <= few.value <= few.high
    assert many.high - many.low < few.high - few.low
    assert few == metrics.intervals(truth, predicted, {"f1": metrics.macro_f1}, resamples=200)["f1"]


# ---------------------------------------------------------------------------------------- rendering
def test_a_curve_is_rendered_with_all_known_values() -> None:
    text = render(TOO_FEW)
    assert "valid_loss" in text
    assert "later 0.5 0.4" in text
    assert sparkline([0.0, 1.0, math.nan, None]) == "▁█! "
