"""Scores on the test split: which examples a version or a baseline predicts correctly."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.contract import Backend, BackendError, FailureKind, PredictOptions
from sweeps.champions.winner import SweepWinner
from sweeps.data.store import read_lines
from sweeps.errors import SweepError
from sweeps.tracking.model_files import LoadedVersion

TIMED_PREDICTIONS = 20
"""The number of single predictions whose median time is the latency. One more is not counted."""


@dataclass(frozen=True)
class LabelledExamples:
    """Test examples: as lines of the data file, as rows of columns, and with their labels.

    `labels` are the labels as the data file has them, `label_names` as the predictions have them.
    """

    lines: Sequence[Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]]
    labels: tuple[str, ...]
    label_names: tuple[str, ...]

    @classmethod
    def test_split(cls, winner: SweepWinner) -> LabelledExamples:
        """Read the test split of the winner's sweep. The plan has made sure that there is one."""
        data, card = winner.plan.data, winner.card
        assert data.test is not None
        lines = read_lines(data.test)
        chat = data.dataset.layout == "chat"
        labels = tuple(line["messages"][-1]["content"] if chat else line["completion"] for line in lines)
        label_names = tuple(card.label_names[data.dataset.labels.index(label)] for label in labels)
        return cls(lines, [card.row_of_line(line) for line in lines], labels, label_names)


@dataclass(frozen=True)
class Opponent:
    """The model that a challenger has to beat, and which test examples it predicts correctly."""

    name: str
    correct: NDArray[np.bool_]


def correct_predictions(version: LoadedVersion, examples: LabelledExamples) -> NDArray[np.bool_]:
    """Return which test examples a version predicts correctly.

    Raises SweepError if it cannot predict, or if the test examples lack one of its columns.
    """
    missing = [column for column in version.card.columns if column not in examples.rows[0]]
    if missing:
        raise SweepError(f"it needs the column {missing[0]!r}, which today's test examples do not have")
    predictions = version.predict(examples.rows)
    return np.array(
        [
            prediction["label"] == label_name
            for prediction, label_name in zip(predictions, examples.label_names, strict=True)
        ],
        dtype=np.bool_,
    )


def measure_latency_ms(version: LoadedVersion, rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the median time of single predictions in this process, without a network."""
    version.predict(rows[:1])
    times_ms = []
    for number in range(TIMED_PREDICTIONS):
        started_s = time.perf_counter()
        version.predict([rows[number % len(rows)]])
        times_ms.append((time.perf_counter() - started_s) * 1000)
    return median(times_ms)


def baseline(winner: SweepWinner, backend: Backend, examples: LabelledExamples) -> Opponent:
    """Return the opponent of a challenger where there is no champion yet.

    It is the base model without fine-tuning, or the most frequent label of the training examples,
    whichever is correct more often. Raises SweepError if the base model should be able to predict
    and does not.
    """
    data, card = winner.plan.data, winner.card
    dataset = data.dataset
    label = Counter(data.label_counts["train"]).most_common(1)[0][0]
    majority_name = card.label_names[dataset.labels.index(label)]
    majority = Opponent(
        f"always predicting `{majority_name}`",
        np.array([name == majority_name for name in examples.label_names], dtype=np.bool_),
    )
    options = PredictOptions(labels=dataset.labels, stop=dataset.stop)
    try:
        predictions = backend.predict(winner.trial.base_model, examples.lines, options)
    except BackendError as error:
        if error.failure.kind is FailureKind.USER:
            # an encoder without a classification head for these labels cannot predict
            return majority
        raise SweepError(f"the base model cannot predict: {error.failure.message}", error.failure.detail) from error
    correct = [prediction.text == label for prediction, label in zip(predictions, examples.labels, strict=True)]
    base_model = Opponent("the base model", np.array(correct, dtype=np.bool_))
    return base_model if base_model.correct.mean() > majority.correct.mean() else majority
