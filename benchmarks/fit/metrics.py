"""Quality of predicted classes: precision, recall, F1, confusion and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.fit.records import CAUSES

Matrix = NDArray[np.int64]

RESAMPLES = 2000


@dataclass(frozen=True)
class ClassScores:
    """The scores of one class. An undefined share (0 / 0) is 0."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def confusion(truth: Sequence[str], predicted: Sequence[str], classes: Sequence[str] = CAUSES) -> Matrix:
    """Return the counts (true class, predicted class) in the order of `classes`."""
    index = {name: at for at, name in enumerate(classes)}
    matrix = np.zeros((len(classes), len(classes)), dtype=np.int64)
    for true_class, predicted_class in zip(truth, predicted, strict=True):
        matrix[index[true_class], index[predicted_class]] += 1
    return matrix


def per_class(matrix: Matrix) -> list[ClassScores]:
    """Return the scores of each class, in the matrix's order."""
    scores = []
    for at in range(len(matrix)):
        hits, predicted, support = int(matrix[at, at]), int(matrix[:, at].sum()), int(matrix[at].sum())
        precision, recall = hits / predicted if predicted else 0.0, hits / support if support else 0.0
        f1 = 2 * hits / (predicted + support) if predicted + support else 0.0
        scores.append(ClassScores(precision, recall, f1, support))
    return scores


def macro_f1(matrix: Matrix) -> float:
    """Return the mean F1 of all classes that occur as a truth or as a prediction."""
    scores = [s for at, s in enumerate(per_class(matrix)) if matrix[at].sum() + matrix[:, at].sum() > 0]
    return float(np.mean([score.f1 for score in scores])) if scores else 0.0


def accuracy(matrix: Matrix) -> float:
    """Return the share of correct predictions."""
    total = int(matrix.sum())
    return float(np.trace(matrix)) / total if total else 0.0


def class_f1(name: str) -> Callable[[Matrix], float]:
    """Return a function that computes one class's F1.

    That of `overfit` measures how well over-fitting is distinguished from everything else.
    """
    at = CAUSES.index(name)
    return lambda matrix: per_class(matrix)[at].f1


def intervals(
    truth: Sequence[str],
    predicted: Sequence[str],
    measures: Mapping[str, Callable[[Matrix], float]],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Interval]:
    """Return the measures with 95 % percentile intervals over curves drawn with replacement.

    The same seed gives the same intervals.
    """
    if not truth:
        return {}
    size = len(CAUSES)
    cells = np.array([CAUSES.index(a) * size + CAUSES.index(b) for a, b in zip(truth, predicted, strict=True)])
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(resamples):
        chosen = cells[rng.integers(0, len(cells), len(cells))]
        matrix = np.bincount(chosen, minlength=size * size).reshape(size, size)
        for name, measure in measures.items():
            drawn[name].append(measure(matrix))
    whole = confusion(truth, predicted)
    return {
        name: Interval(measure(whole), *(float(bound) for bound in np.percentile(drawn[name], [2.5, 97.5])))
        for name, measure in measures.items()
    }
