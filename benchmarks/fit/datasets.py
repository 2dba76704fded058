"""Data for small models, drawn for each run: training, validation and oracle examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import datasets as sk

from sweeps.data.builtin.nli import generate

Array = NDArray[Any]

ORACLE = 2000
"""The most oracle examples. Smaller data sets give all the remaining ones."""

TOKENS, VOCABULARY = 40, 600
"""The length of a text in words, and the size of the vocabulary. Word 0 is padding."""


@dataclass(frozen=True)
class Part:
    """Examples: features (N, ...) and targets (N,)."""

    x: Array
    y: Array

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Data:
    """A draw of a data set. `classes` is None for regression."""

    name: str
    train: Part
    valid: Part
    oracle: Part
    classes: int | None

    @property
    def prior_loss(self) -> float:
        """The loss of the best constant prediction on the oracle's examples: label entropy in nats,
        or target variance.
        """
        if self.classes is None:
            return float(np.var(self.oracle.y))
        shares = np.bincount(self.oracle.y, minlength=self.classes) / len(self.oracle)
        return -float(sum(share * np.log(share) for share in shares if share > 0))

    @property
    def chance(self) -> float | None:
        """The share of the most frequent label among the validation examples, or None for
        regression.
        """
        return None if self.classes is None else float(np.bincount(self.valid.y).max() / len(self.valid))


def _generated(make: Callable[..., tuple[Array, Array]], **fixed: Any) -> Callable[[int, int], tuple[Array, Array]]:
    return lambda examples, seed: make(n_samples=examples, random_state=seed, **fixed)


def _loaded(load: Callable[..., tuple[Array, Array]]) -> Callable[[int, int], tuple[Array, Array]]:
    return lambda examples, seed: load(return_X_y=True)


def _circles(examples: int, seed: int) -> tuple[Array, Array]:
    return sk.make_circles(n_samples=examples, noise=0.15, factor=0.5, random_state=seed)


_CLASSIFICATION: dict[str, Callable[[int, int], tuple[Array, Array]]] = {
    "digits": _loaded(sk.load_digits),
    "cancer": _loaded(sk.load_breast_cancer),
    "wine": _loaded(sk.load_wine),
    "blobs": _generated(sk.make_classification, n_features=20, n_informative=8, n_classes=4, class_sep=1.2),
    "sparse": _generated(sk.make_classification, n_features=60, n_informative=6, n_redundant=4, class_sep=1.0),
    "moons": _generated(sk.make_moons, noise=0.25),
    "circles": _circles,
    "quantiles": _generated(sk.make_gaussian_quantiles, n_features=6, n_classes=3),
}
_REGRESSION: dict[str, Callable[[int, int], tuple[Array, Array]]] = {
    "friedman1": _generated(sk.make_friedman1, noise=1.0),
    "friedman2": _generated(sk.make_friedman2, noise=60.0),
    "diabetes": _loaded(sk.load_diabetes),
    "linear": _generated(sk.make_regression, n_features=15, n_informative=6, noise=30.0),
}
TEXTS = ("nli-words",)
REGRESSIONS = tuple(_REGRESSION)


def draw(
    name: str,
    seed: int,
    train: int,
    valid: int,
    *,
    noise: float = 0.0,
    later_noise: float = 0.0,
    random_labels: bool = False,
) -> Data:
    """Draw the examples of a data set, standardised by the training part.

    `noise` is the share of labels that are replaced at random in every part, `later_noise` the
    share in the validation and oracle parts only. `random_labels` replaces all labels (for
    regression, it shuffles the targets).
    """
    rng = np.random.default_rng([seed, 17])
    if name in TEXTS:
        x, y = _texts(train + valid + ORACLE, seed)
    else:
        x, y = {**_CLASSIFICATION, **_REGRESSION}[name](train + valid + ORACLE, seed)
    order = rng.permutation(len(y))
    x, y = np.asarray(x)[order], np.asarray(y)[order]
    classes = None if name in _REGRESSION else int(y.max()) + 1
    if classes is None:
        y = y.astype(np.float64)
        y = rng.permutation(y) if random_labels else y
    else:
        random_label = rng.integers(0, classes, len(y))
        share = np.full(len(y), 1.0 if random_labels else noise)
        share[train:] = np.maximum(share[train:], later_noise)
        y = np.where(rng.random(len(y)) < share, random_label, y).astype(np.int64)
    if name not in TEXTS:
        mean, deviation = x[:train].mean(0), x[:train].std(0)
        x = (x - mean) / np.where(deviation > 0, deviation, 1.0)
        x = np.clip(x, -10, 10).astype(np.float32)
    if classes is None:
        y = ((y - y[:train].mean()) / y[:train].std()).astype(np.float32)
    cuts = [slice(0, train), slice(train, train + valid), slice(train + valid, train + valid + ORACLE)]
    return Data(name, *(Part(x[cut], y[cut]) for cut in cuts), classes)


def _texts(examples: int, seed: int) -> tuple[Array, Array]:
    """Return texts (N, TOKENS) as frequency ranks of their words, 0 for padding, and their labels
    (N,).
    """
    pairs = [pair for pair in generate("train", round(1.5 * examples), seed) if pair["label"] != "neutral"]
    rows = [(f"{pair['premise']} | {pair['hypothesis']}", pair["label"] == "entailment") for pair in pairs[:examples]]
    split = [[word.strip(".,!?") for word in text.lower().split()] for text, _ in rows]
    words, counts = np.unique([word for text in split for word in text], return_counts=True)
    order = np.argsort(-counts, kind="stable")[: VOCABULARY - 1]
    rank_of_word = {str(words[at]): rank + 1 for rank, at in enumerate(order)}
    x = np.zeros((len(rows), TOKENS), dtype=np.int64)
    for row, text in enumerate(split):
        known = [rank_of_word[word] for word in text if word in rank_of_word][:TOKENS]
        x[row, : len(known)] = known
    return x, np.array([label for _, label in rows], dtype=np.int64)


def word_counts(part: Part) -> Part:
    """Return texts as word counts (N, VOCABULARY), for models that ignore word order."""
    x = np.zeros((len(part), VOCABULARY), dtype=np.float32)
    for row, text in enumerate(part.x):
        np.add.at(x[row], text[text > 0], 1.0)
    return Part(x, part.y)
