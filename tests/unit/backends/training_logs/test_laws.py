"""The laws of reading histories: what was written comes back, and nothing that is not a history gets through."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.training_logs import read
from backends.training_logs.learning_curve import CurvePoint
from backends.training_logs.table import TrainingLogError
from sweeps.verdicts.advice import Advice
from sweeps.verdicts.judge import judge

pytestmark = pytest.mark.unit

known = st.floats(min_value=0, max_value=1e6) | st.sampled_from([math.nan, math.inf])
losses = st.none() | known
shares = st.none() | st.floats(min_value=0, max_value=1)


@st.composite
def evaluations(draw: st.DrawFn) -> list[CurvePoint]:
    """A curve with an evaluation an epoch; the first has a training loss, else it could be the untrained model's."""
    count = draw(st.integers(2, 30))
    return [
        CurvePoint(n + 1.0, 7 * (n + 1), draw(losses if n else known), draw(known), draw(shares), draw(shares))
        for n in range(count)
    ]


def as_csv(points: Sequence[CurvePoint], header: str, cells: Callable[[CurvePoint], Sequence[object]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(header.split(","))
    writer.writerows(["" if each is None else each for each in cells(point)] for point in points)
    return stream.getvalue()


def result_file(points: Sequence[CurvePoint]) -> str:
    header = "step,train_loss,train_mean_token_accuracy,full_valid_loss,full_valid_mean_token_accuracy"
    return as_csv(points, header, lambda p: (p.step, p.train_loss, p.train_metric, p.valid_loss, p.valid_metric))


def generic(points: Sequence[CurvePoint]) -> str:
    header = "epoch,step,train_loss,train_accuracy,valid_loss,valid_accuracy"
    cells = ("epoch", "step", "train_loss", "train_metric", "valid_loss", "valid_metric")
    return as_csv(points, header, lambda p: [getattr(p, each) for each in cells])


def keras(points: Sequence[CurvePoint]) -> str:
    header = "epoch,accuracy,loss,val_accuracy,val_loss"
    return as_csv(
        points, header, lambda p: (int(p.epoch) - 1, p.train_metric, p.train_loss, p.valid_metric, p.valid_loss)
    )


def trainer_state(points: Sequence[CurvePoint]) -> str:
    log: list[dict[str, object]] = []
    for each in points:
        log.append(
            {"epoch": each.epoch, "step": each.step, "loss": each.train_loss, "train_accuracy": each.train_metric}
        )
        log.append(
            {"epoch": each.epoch, "step": each.step, "eval_loss": each.valid_loss, "eval_accuracy": each.valid_metric}
        )
    return json.dumps({"log_history": log, "global_step": points[-1].step, "max_steps": points[-1].step})


def lists(points: Sequence[CurvePoint]) -> str:
    names = {
        "train_loss": "train_loss",
        "val_loss": "valid_loss",
        "train_acc": "train_metric",
        "val_acc": "valid_metric",
    }
    return json.dumps({name: [getattr(each, field) for each in points] for name, field in names.items()})


FORMATS = [result_file, generic, keras, trainer_state, lists]


@pytest.mark.parametrize("write", FORMATS, ids=lambda each: each.__name__)
@given(points=evaluations())
def test_a_curve_that_was_written_is_read_back(
    write: Callable[[Sequence[CurvePoint]], str], points: list[CurvePoint]
) -> None:
    [found] = read(write(points).encode())

    def said(each: CurvePoint) -> tuple[str, ...]:  # as text, in which NaN equals itself
        return tuple(map(repr, (each.epoch, each.train_loss, each.valid_loss, *metrics(each))))

    def metrics(each: CurvePoint) -> tuple[float | None, ...]:
        has_metric = any(point.valid_metric is not None for point in points)  # a metric is told by its validation
        return (each.train_metric, each.valid_metric) if has_metric else ()

    assert [said(each) for each in found.curve.points] == [said(each) for each in points]
    if write in (result_file, generic, trainer_state):
        assert [each.step for each in found.curve.points] == [each.step for each in points]


def judged_or_explained(content: bytes) -> list[str]:
    """The evidence on each curve, or the remedy for each mistake. No other exception gets through."""
    try:
        return [judge(each.curve, Advice()).evidence for each in read(content)]
    except TrainingLogError as error:
        return [error.hint]


@given(st.binary(max_size=300) | st.text('{}[],:"\n;. 0123456789eE-+nauloss_vi', max_size=200).map(str.encode))
def test_any_bytes_are_a_history_or_an_error_of_the_user(content: bytes) -> None:
    assert all(judged_or_explained(content))


KEYS = (
    *("loss", "val_loss", "val_acc", "epoch", "step", "trials", "curve", "values", "scope", "kind", "data", "name"),
    *("log_history", "metrics", "history", "object", "hyperparameters", "number"),
)

json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=6,
        )
    ),
    max_leaves=25,
)


@given(json_values)
def test_any_json_is_a_history_or_an_error_of_the_user(value: object) -> None:
    assert all(judged_or_explained(json.dumps(value).encode()))
