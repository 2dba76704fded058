"""Scores on the test split: how well a version or a baseline answers each example."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.contract import Backend, BackendError, FailureKind
from sweeps.champions.answer_scoring import AnswerScoring, labels_of
from sweeps.champions.winner import SweepWinner
from sweeps.data.store import read_lines
from sweeps.errors import SweepError
from sweeps.tracking.model_files import LoadedVersion

TIMED_PREDICTIONS = 20
"""The number of single predictions whose median time is the latency. One more is not counted."""


@dataclass(frozen=True)
class TestExamples:
    """Test examples: as lines of the data file, and as rows of columns.

    `label_names` are the correct labels as predictions have them; empty if a metric of free text
    decides.
    """

    __test__ = False  # the name is no reason for pytest to collect it

    lines: Sequence[Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]]
    label_names: tuple[str, ...]

    @classmethod
    def of(cls, winner: SweepWinner) -> TestExamples:
        """Read the test split of the winner's sweep. The plan has made sure that there is one."""
        data, card = winner.plan.data, winner.card
        assert data.test is not None
        lines = read_lines(data.test)
        labels = labels_of(lines, data.dataset) if card.label_names else ()
        label_names = tuple(card.label_names[data.dataset.labels.index(label)] for label in labels)
        return cls(lines, [card.row_of_line(line) for line in lines], label_names)


@dataclass(frozen=True)
class Opponent:
    """The model that a challenger has to beat, and its score on each test example."""

    name: str
    scores: NDArray[np.float64]


def version_scores(version: LoadedVersion, examples: TestExamples, scoring: AnswerScoring) -> NDArray[np.float64]:
    """Return the score of a version on each test example.

    Raises SweepError if it cannot predict, or if the test examples lack one of its columns.
    """
    missing = [column for column in version.card.columns if column not in examples.rows[0]]
    if missing:
        raise SweepError(f"it needs the column {missing[0]!r}, which today's test examples do not have")
    answers = [str(prediction["label"]) for prediction in version.predict(examples.rows)]
    if examples.label_names:
        right = [answer == name for answer, name in zip(answers, examples.label_names, strict=True)]
        return np.array(right, dtype=np.float64)
    return _example_scores(scoring, answers, examples.lines)


def _example_scores(
    scoring: AnswerScoring, answers: Sequence[str], lines: Sequence[Mapping[str, Any]]
) -> NDArray[np.float64]:
    try:
        scores = scoring.score(answers, lines).per_example
    except BackendError as error:
        raise SweepError(error.failure.message, error.failure.detail) from error
    if scores is None:  # the plan has refused such a metric
        raise SweepError(f"the metric {scoring.name} has no value for a single example")
    return scores


def measure_latency_ms(version: LoadedVersion, rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the median time of single predictions in this process, without a network."""
    version.predict(rows[:1])
    times_ms = []
    for number in range(TIMED_PREDICTIONS):
        started_s = time.perf_counter()
        version.predict([rows[number % len(rows)]])
        times_ms.append((time.perf_counter() - started_s) * 1000)
    return median(times_ms)


def baseline(winner: SweepWinner, backend: Backend, examples: TestExamples, scoring: AnswerScoring) -> Opponent:
    """Return the opponent of a challenger where there is no champion yet.

    It is the base model without fine-tuning or, with labels, the most frequent label of the
    training examples, whichever is better. Raises SweepError if the base model should be able to
    predict and does not.
    """
    majority = _majority(winner, examples) if examples.label_names else None
    try:
        predictions = backend.predict(winner.trial.base_model, examples.lines, scoring.options())
    except BackendError as error:
        if error.failure.kind is FailureKind.USER and majority is not None:
            # an encoder without a classification head for these labels cannot predict
            return majority
        raise SweepError(f"the base model cannot predict: {error.failure.message}", error.failure.detail) from error
    answers = [prediction.text for prediction in predictions]
    base_model = Opponent("the base model", _example_scores(scoring, answers, examples.lines))
    return base_model if majority is None or base_model.scores.mean() > majority.scores.mean() else majority


def _majority(winner: SweepWinner, examples: TestExamples) -> Opponent:
    data = winner.plan.data
    label = Counter(data.label_counts["train"]).most_common(1)[0][0]
    name = winner.card.label_names[data.dataset.labels.index(label)]
    right = np.array([truth == name for truth in examples.label_names], dtype=np.float64)
    return Opponent(f"always predicting `{name}`", right)
