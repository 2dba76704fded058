"""Laws of reading training logs: written curves are read back, other input is a clear error."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.training_logs import TrainingLogError, read
from backends.training_logs.learning_curve import CurvePoint
from sweeps.verdicts.advice import Advice
from sweeps.verdicts.judge import judge

pytestmark = pytest.mark.unit

known = st.floats(min_value=0, max_value=1e6) | st.sampled_from([math.nan, math.inf])
losses = st.none() | known
shares = st.none() | st.floats(min_value=0, max_value=1)


@st.composite
def evaluations(draw: st.DrawFn) -> list[CurvePoint]:
    """A curve with one evaluation per epoch.

    The first has a training loss: else it could be the untrained model's. No number follows a
    validation loss of NaN: else it could be a blank.
    """
    count = draw(st.integers(2, 30))
    points = [
        CurvePoint(n + 1.0, 7 * (n + 1), draw(losses if n else known), draw(known), draw(shares), draw(shares))
        for n in range(count)
    ]
    broken = next((n for n, point in enumerate(points) if math.isnan(point.valid_loss or 0.0)), count)
    return points[:broken] + [replace(point, valid_loss=math.nan) for point in points[broken:]]


def as_csv(points: Sequence[CurvePoint], header: str, cells: Callable[[CurvePoint], Sequence[object]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(header.split(","))
    writer.writerows(["" if cell is None else cell for cell in cells(point)] for point in points)
    return stream.getvalue()


def result_file(points: Sequence[CurvePoint]) -> str:
    header = "step,train_loss,train_mean_token_accuracy,full_valid_loss,full_valid_mean_token_accuracy"
    return as_csv(points, header, lambda p: (p.step, p.train_loss, p.train_metric, p.valid_loss, p.valid_metric))


def generic(points: Sequence[CurvePoint]) -> str:
    header = "epoch,step,train_loss,train_accuracy,valid_loss,valid_accuracy"
    cells = ("epoch", "step", "train_loss", "train_metric", "valid_loss", "valid_metric")
    return as_csv(points, header, lambda p: [getattr(p, field) for field in cells])


def keras(points: Sequence[CurvePoint]) -> str:
    header = "epoch,accuracy,loss,val_accuracy,val_loss"
    return as_csv(
        points, header, lambda p: (int(p.epoch) - 1, p.train_metric, p.train_loss, p.valid_metric, p.valid_loss)
    )


def trainer_state(points: Sequence[CurvePoint]) -> str:
    log: list[dict[str, object]] = []
    for point in points:
        log.append(
            {"epoch": point.epoch, "step": point.step, "loss": point.train_loss, "train_accuracy": point.train_metric}
        )
        log.append(
            {
                "epoch": point.epoch,
                "step": point.step,
                "eval_loss": point.valid_loss,
                "eval_accuracy": point.valid_metric,
            }
        )
    return json.dumps({"log_history": log, "global_step": points[-1].step, "max_steps": points[-1].step})


def lists(points: Sequence[CurvePoint]) -> str:
    names = {
        "train_loss": "train_loss",
        "val_loss": "valid_loss",
        "train_acc": "train_metric",
        "val_acc": "valid_metric",
    }
    return json.dumps({name: [getattr(point, field) for point in points] for name, field in names.items()})


FORMATS = [result_file, generic, keras, trainer_state, lists]


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
@given(points=evaluations())
def test_a_written_curve_is_read_back(write: Callable[[Sequence[CurvePoint]], str], points: list[CurvePoint]) -> None:
    [imported] = read(write(points).encode())

    has_metric = any(point.valid_metric is not None for point in points)  # only validated metrics are read

    def as_text(point: CurvePoint) -> tuple[str, ...]:  # in which NaN equals itself
        metrics = (point.train_metric, point.valid_metric) if has_metric else ()
        return tuple(map(repr, (point.epoch, point.train_loss, point.valid_loss, *metrics)))

    assert [as_text(point) for point in imported.curve.points] == [as_text(point) for point in points]
    if write in (result_file, generic, trainer_state):
        assert [point.step for point in imported.curve.points] == [point.step for point in points]


def evidence_or_remedy(content: bytes) -> list[str]:
    """Return the evidence for the verdict on each curve, or the remedy of the error.

    Any other exception escapes.
    """
    try:
        return [judge(imported.curve, Advice()).evidence for imported in read(content)]
    except TrainingLogError as error:
        return [error.hint]


@given(st.binary(max_size=300) | st.text('{}[],:"\n;. 0123456789eE-+nauloss_vi', max_size=200).map(str.encode))
def test_any_bytes_are_a_log_or_raise_a_training_log_error(content: bytes) -> None:
    assert all(evidence_or_remedy(content))


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
def test_any_json_is_a_log_or_raises_a_training_log_error(value: object) -> None:
    assert all(evidence_or_remedy(json.dumps(value).encode()))
