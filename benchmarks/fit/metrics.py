"""How good predicted classes are: precision, recall and F1 per class, macro-F1, confusion, and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.fit.records import CAUSES

Matrix = NDArray[np.int64]

RESAMPLES = 2000


@dataclass(frozen=True)
class Scores:
    """Of one class. A share of nothing is 0."""

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
    """Return counts, (true class, predicted class) in the order of `classes`."""
    place = {name: at for at, name in enumerate(classes)}
    matrix = np.zeros((len(classes), len(classes)), dtype=np.int64)
    for one, other in zip(truth, predicted, strict=True):
        matrix[place[one], place[other]] += 1
    return matrix


def per_class(matrix: Matrix) -> list[Scores]:
    """Return the scores of each class, in the matrix's order."""
    found = []
    for at in range(len(matrix)):
        hits, said, there = int(matrix[at, at]), int(matrix[:, at].sum()), int(matrix[at].sum())
        precision, recall = hits / said if said else 0.0, hits / there if there else 0.0
        found.append(Scores(precision, recall, 2 * hits / (said + there) if said + there else 0.0, there))
    return found


def macro_f1(matrix: Matrix) -> float:
    """Return the mean F1 of the classes that occur, as the truth or as a prediction."""
    scores = [s for at, s in enumerate(per_class(matrix)) if matrix[at].sum() + matrix[:, at].sum() > 0]
    return float(np.mean([each.f1 for each in scores])) if scores else 0.0


def accuracy(matrix: Matrix) -> float:
    """Return the share of right predictions."""
    total = int(matrix.sum())
    return float(np.trace(matrix)) / total if total else 0.0


def class_f1(name: str) -> Callable[[Matrix], float]:
    """Return what computes one class's F1; that of `overfit` is the F1 of telling over-fitting from all else."""
    at = CAUSES.index(name)
    return lambda matrix: per_class(matrix)[at].f1


def intervals(
    truth: Sequence[str],
    predicted: Sequence[str],
    measures: Mapping[str, Callable[[Matrix], float]],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Interval]:
    """Return measures with percentile intervals over curves drawn with replacement; the same seed, the same ones."""
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
        name: Interval(measure(whole), *(float(each) for each in np.percentile(drawn[name], [2.5, 97.5])))
        for name, measure in measures.items()
    }
