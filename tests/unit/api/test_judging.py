"""`sweeps.judge` takes what people have at hand: the same numbers get the same verdict."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import sweeps
from sweeps.errors import UserInputError
from sweeps.verdicts.verdict import FitVerdict, VerdictKind

pytestmark = pytest.mark.unit

TRAIN, VALID = [0.9, 0.6, 0.4, 0.2, 0.1], [0.8, 0.6, 0.7, 0.9, 1.2]
ROWS = list(zip(TRAIN, VALID, strict=True))


def test_all_forms_of_the_same_history_get_the_same_verdict() -> None:
    trainer_log: list[dict[str, float]] = []
    for epoch, (train, valid) in enumerate(ROWS, start=1):
        trainer_log += [{"epoch": epoch, "loss": train}, {"epoch": epoch, "eval_loss": valid}]
    forms: list[Any] = [
        {"train_loss": TRAIN, "valid_loss": VALID},
        [{"train_loss": train, "val_loss": valid} for train, valid in ROWS],
        {"train_loss": np.array(TRAIN), "valid_loss": pd.Series(VALID)},
        [{"train_loss": np.float32(train), "val_loss": np.float64(valid)} for train, valid in ROWS],
        pd.DataFrame({"loss": TRAIN, "val_loss": VALID}),
        SimpleNamespace(state=SimpleNamespace(log_history=trainer_log)),  # a Trainer
        SimpleNamespace(history={"loss": TRAIN, "val_loss": VALID}, epoch=[0, 1, 2, 3, 4]),  # Keras
    ]
    verdicts = [sweeps.judge(valid_loss=VALID, train_loss=TRAIN), *map(sweeps.judge, forms)]
    for verdict in verdicts:
        assert (verdict.kind, verdict.keep_epoch) == (VerdictKind.OVERFIT, 2)
        assert verdict.confidence == verdicts[0].confidence


@pytest.mark.parametrize(
    ("arguments", "columns", "told"),
    [
        ((), {}, "there is no history"),
        (({"valid_loss": VALID},), {"valid_loss": VALID}, "there are two histories"),
        ((object(),), {}, "an object of the type object is no training history"),
        (({"valid_loss": [1, "x", object()]},), {}, "no number"),
        ((), {"beta": [1.0, 2.0]}, "no known key"),
        ((), {"valid_loss": 0.5}, "valid_loss is no list of numbers"),
        ((), {"valid_loss": "abc"}, "valid_loss is no list of numbers"),
        ((VALID,), {}, "do not say what they measure"),
        ((np.array(VALID),), {}, "do not say what they measure"),
        ((pd.Series(VALID),), {}, "do not say what they measure"),
        ((iter(VALID),), {}, "do not say what they measure"),
    ],
)
def test_what_is_no_history_is_one_error(arguments: tuple[Any, ...], columns: dict[str, Any], told: str) -> None:
    with pytest.raises(UserInputError) as caught:
        sweeps.judge(*arguments, **columns)
    assert told in str(caught.value)


def test_the_named_index_of_a_table_is_a_column() -> None:
    table = pd.DataFrame({"loss": TRAIN, "val_loss": VALID}, index=pd.Index([10, 20, 30, 40, 50], name="epoch"))
    assert sweeps.judge(table).keep_epoch == 20


def test_a_notebook_shows_a_verdict_with_its_text_escaped() -> None:
    shown = FitVerdict(VerdictKind.OVERFIT, "loss < 1 & rose", "lower n_epochs", confidence=0.9)._repr_html_()
    assert "<strong>overfit</strong> (90 % sure)" in shown
    assert "loss &lt; 1 &amp; rose" in shown
    assert "lower n_epochs" in shown


def test_a_verdict_is_one_readable_line() -> None:
    verdict = FitVerdict(VerdictKind.OVERFIT, "validation loss rose", "lower n_epochs", confidence=0.9)
    assert str(verdict) == "overfit (90 % sure): validation loss rose; advice: lower n_epochs"
