"""The nearest training example by TF-IDF cosine: whose answer a lazy model would repeat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sweeps.data.baselines.text_features import vectors

_ROWS = 256
"""Questions that are compared with all training examples at once, which bounds the memory."""


def nearest_examples(texts: Sequence[str], questions: Mapping[str, Sequence[str]]) -> dict[str, list[int | None]]:
    """Return for each question the index of the most similar text, the first one on a tie.

    None where a question shares no word with any text. Deterministic.
    """
    import numpy

    vectorized = vectors(texts, questions)
    if vectorized is None:
        return {part: [None] * len(asked) for part, asked in questions.items()}
    known, asked_vectors = vectorized
    columns = known.T.tocsr()
    found: dict[str, list[int | None]] = {}
    for part, asked in asked_vectors.items():
        found[part] = []
        for start in range(0, asked.shape[0], _ROWS):
            similarity = (asked[start : start + _ROWS] @ columns).tocsr()
            # The order of the sum decides the last digits; rounded, equal texts stay equal.
            similarity.data = similarity.data.round(9)
            best = similarity.max(axis=1).toarray().ravel()
            rows = numpy.asarray(similarity.argmax(axis=1)).ravel()
            found[part] += [int(row) if value > 0 else None for value, row in zip(best, rows, strict=True)]
    return found
