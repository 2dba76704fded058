"""A linear classifier of texts: TF-IDF and logistic regression."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from sweeps.data.baselines.text_features import MAX_FEATURES, vectors

INVERSE_REGULARISATION = 10.0
"""scikit-learn's C. With 1, a small set with rare labels gets the most frequent answer only; 10 and
100 differ by chance. See docs/guide/baselines.md."""

MAX_ITERATIONS = 100
"""More steps of the optimiser move no answer on the sets that we measured."""

TOLERANCE = 1e-3

MAX_WEIGHTS = 1_000_000
"""The most weights, one for each label and n-gram. The optimiser keeps about 20 copies of them: 160
MB."""

Columns = Sequence[Sequence[str]]
"""The texts of a part, column by column: one for each field of the prompts."""


def predicted_labels(
    columns: Columns, labels: Sequence[str], questions: Mapping[str, Columns]
) -> tuple[dict[str, list[str]], list[dict[str, list[str]]]]:
    """Learn labels from texts, and return the predicted labels of each part.

    The first result uses all columns together, where a word counts by the column that it is in; the
    others use one column each, and there are none for a single column. Deterministic. The commonest
    label is predicted where there is nothing to learn from: a single label, or texts without words.
    """
    max_features = min(MAX_FEATURES, MAX_WEIGHTS // len(set(labels))) // len(columns)
    matrices = []
    for number, column in enumerate(columns):
        matrices.append(vectors(column, {part: asked[number] for part, asked in questions.items()}, max_features))
    commonest = max(sorted(set(labels)), key=labels.count)
    constant = {part: [commonest] * len(asked[0]) for part, asked in questions.items()}
    alone = [_predicted(matrix, labels) or constant for matrix in matrices] if len(columns) > 1 else []
    return _predicted(_side_by_side(matrices), labels) or constant, alone


def _side_by_side(matrices: Sequence[tuple[Any, Mapping[str, Any]] | None]) -> tuple[Any, Mapping[str, Any]] | None:
    from scipy.sparse import hstack

    known = [matrix for matrix in matrices if matrix is not None]
    if len(known) < 2:
        return known[0] if known else None
    asked = {part: hstack([questions[part] for _, questions in known], format="csr") for part in known[0][1]}
    return hstack([texts for texts, _ in known], format="csr"), asked


def _predicted(matrices: tuple[Any, Mapping[str, Any]] | None, labels: Sequence[str]) -> dict[str, list[str]] | None:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if matrices is None or len(set(labels)) < 2:
        return None
    texts, questions = matrices
    model = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=MAX_ITERATIONS, tol=TOLERANCE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(texts, list(labels))
    return {part: [str(label) for label in model.predict(asked)] for part, asked in questions.items()}
