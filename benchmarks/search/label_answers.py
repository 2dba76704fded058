"""Which examples of a labelled file models get right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from backends.contract import Backend, DataFile, Dataset, PredictOptions
from sweeps.champions.answer_scoring import labels_of
from sweeps.data.store import read_lines


def correct_answers(backend: Backend, models: Sequence[str], file: DataFile, dataset: Dataset) -> NDArray[np.bool_]:
    """Return an array (models, examples): whether a model's most probable label is correct."""
    lines = read_lines(file)
    truth, options = labels_of(lines, dataset), PredictOptions(labels=dataset.labels, stop=dataset.stop)
    rows = []
    for model in models:
        answers = backend.predict(model, lines, options)
        rows.append([answer.text == label for answer, label in zip(answers, truth, strict=True)])
    return np.array(rows, dtype=np.bool_)
