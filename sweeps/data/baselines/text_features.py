"""Texts -> TF-IDF vectors: of words and word pairs, or of characters where words are not separated.

Imports scikit-learn and SciPy only when it is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MAX_FEATURES = 50_000
"""The most frequent n-grams that count; more cost time and gain nothing measurable."""

LONG_WORD = 16
"""A mean distance between spaces from which a text counts as written without spaces: Chinese has
20 to 40 characters between punctuation marks, German words about 6."""

MAX_CHARACTERS = 2_000
"""The part of a text that counts, so that a few long documents cannot take minutes."""

_WORD = r"(?u)\w+|[^\w\s]"
"""Words of one character and punctuation marks count too: "I", "2", "!"."""


def vectors(
    texts: Sequence[str], questions: Mapping[str, Sequence[str]], max_features: int = MAX_FEATURES
) -> tuple[Any, dict[str, Any]] | None:
    """Return sparse vectors of length 1 of the texts, and of the questions of each part.

    Only the most frequent `max_features` n-grams of the texts count. None if the texts have no
    word.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    known = _shortened(texts)
    if _is_written_without_spaces(known):
        vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True, max_features=max_features)
    else:
        vectorizer = TfidfVectorizer(
            token_pattern=_WORD, ngram_range=(1, 2), sublinear_tf=True, max_features=max_features
        )
    try:
        matrix = vectorizer.fit_transform(known)
    except ValueError:  # "empty vocabulary"
        return None
    return matrix, {part: vectorizer.transform(_shortened(asked)) for part, asked in questions.items()}


def _shortened(texts: Sequence[str]) -> list[str]:
    return [text[:MAX_CHARACTERS] for text in texts]


def _is_written_without_spaces(texts: Sequence[str]) -> bool:
    words = characters = 0
    for text in texts[:1000]:
        words += len(text.split())
        characters += len(text)
    return words > 0 and characters > LONG_WORD * words
