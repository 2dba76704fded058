"""The learning curve of a trial, and the training-loop reports that its record keeps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.contract import DataFile, Dataset, Measured
from backends.training_logs.learning_curve import CurvePoint
from sweeps.data.prepared_data import PreparedData
from sweeps.spec.objective import Objective
from sweeps.trials.curve import learning_curve_of, thin_loop_reports
from sweeps.trials.trial import Trial, TrialState

pytestmark = pytest.mark.unit


@given(st.lists(st.floats(min_value=0, max_value=100), max_size=60))
def test_reports_can_be_thinned_one_by_one(losses: list[float]) -> None:
    every = [Measured(n, n / 10, {"batch_loss": loss}, "step") for n, loss in enumerate(losses)]
    kept: tuple[Measured, ...] = ()
    for report in every:
        kept = thin_loop_reports((*kept, report))
    assert kept == thin_loop_reports(every)
    assert len(kept) <= 21
    if losses:
        assert max(report.values["batch_loss"] for report in kept) == max(losses)


@pytest.mark.parametrize(
    ("metric", "judged_by", "chance", "classes", "best_by"),
    [
        ("valid_accuracy", "accuracy", 0.5, 3, "metric"),
        ("valid_macro_f1", "macro_f1", None, 3, "metric"),
        ("valid_token_accuracy", "token_accuracy", None, None, "metric"),
        ("valid_loss", "accuracy", 0.5, 3, "loss"),
    ],
)
def test_a_trial_is_judged_by_its_objective_and_its_data(
    metric: str, judged_by: str, chance: float | None, classes: int | None, best_by: str
) -> None:
    counts = {"yes": 50, "no": 30, "maybe": 20}
    data = PreparedData(
        dataset=Dataset(DataFile("t", 1000, "a"), DataFile("v", 100, "b"), "completion", ("yes", "no", "maybe")),
        test=None,
        source="s",
        fallback_from=None,
        name="n",
        task="classification",
        separator="",
        origins={},
        label_counts={"valid": counts},
        lengths={},
        findings=(),
        digests={},
        fingerprint="f",
    )
    objectives = [Objective(metric, "minimize" if metric.endswith("loss") else "maximize")]
    measured = Measured(10, 1.0, {f"valid_{judged_by}": 0.7, "valid_loss": 1.0}, "evaluation")
    trial = Trial(1, "k", "m", {}, 1, state=TrialState.STOPPED, curve=(measured,))
    built = learning_curve_of(trial, data, objectives)
    assert built.points == (CurvePoint(1.0, 10, valid_loss=1.0, valid_metric=0.7),)
    assert (built.metric, built.chance, built.classes, built.best_by) == (judged_by, chance, classes, best_by)
    assert (built.train_examples, built.valid_examples, built.ended) == (256, 100, "stopped")
    assert learning_curve_of(trial, data, objectives, diverged=True).ended == "diverged"
