"""The data that small models are trained on: drawn anew for each run, into training, validation and oracle examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import datasets as sk

from sweeps.data.nli import generate

Array = NDArray[Any]

ORACLE = 2000
"""Examples of the oracle, where the data has so many; else all that are left."""

TOKENS, VOCABULARY = 40, 600
"""Length of a text and number of words of it that are told apart; word 0 is the empty one."""


@dataclass(frozen=True)
class Part:
    """Examples: features (N, ...) and targets (N,)."""

    x: Array
    y: Array

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Data:
    """A draw of a data set. `classes` is None for regression; `prior_loss` is that of the best constant prediction."""

    name: str
    train: Part
    valid: Part
    oracle: Part
    classes: int | None

    @property
    def prior_loss(self) -> float:
        """Entropy of the labels in nats, or the variance of the targets, of the oracle's examples."""
        if self.classes is None:
            return float(np.var(self.oracle.y))
        shares = np.bincount(self.oracle.y, minlength=self.classes) / len(self.oracle)
        return -float(sum(share * np.log(share) for share in shares if share > 0))

    @property
    def chance(self) -> float | None:
        """The share of the commonest label among the validation examples."""
        return None if self.classes is None else float(np.bincount(self.valid.y).max() / len(self.valid))


def _made(make: Callable[..., tuple[Array, Array]], **fixed: Any) -> Callable[[int, int], tuple[Array, Array]]:
    return lambda examples, seed: make(n_samples=examples, random_state=seed, **fixed)


def _loaded(load: Callable[..., tuple[Array, Array]]) -> Callable[[int, int], tuple[Array, Array]]:
    return lambda examples, seed: load(return_X_y=True)


def _circles(examples: int, seed: int) -> tuple[Array, Array]:
    return sk.make_circles(n_samples=examples, noise=0.15, factor=0.5, random_state=seed)


_CLASSIFICATION: dict[str, Callable[[int, int], tuple[Array, Array]]] = {
    "digits": _loaded(sk.load_digits),
    "cancer": _loaded(sk.load_breast_cancer),
    "wine": _loaded(sk.load_wine),
    "blobs": _made(sk.make_classification, n_features=20, n_informative=8, n_classes=4, class_sep=1.2),
    "sparse": _made(sk.make_classification, n_features=60, n_informative=6, n_redundant=4, class_sep=1.0),
    "moons": _made(sk.make_moons, noise=0.25),
    "circles": _circles,
    "quantiles": _made(sk.make_gaussian_quantiles, n_features=6, n_classes=3),
}
_REGRESSION: dict[str, Callable[[int, int], tuple[Array, Array]]] = {
    "friedman1": _made(sk.make_friedman1, noise=1.0),
    "friedman2": _made(sk.make_friedman2, noise=60.0),
    "diabetes": _loaded(sk.load_diabetes),
    "linear": _made(sk.make_regression, n_features=15, n_informative=6, noise=30.0),
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
    """Draw examples of a data set, standardised by the training part.

    `noise` is the share of labels that are drawn anew in every part, `later_noise` that in validation and oracle
    only. `random_labels` draws all of them anew (for regression: shuffles the targets).
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
        fresh = rng.integers(0, classes, len(y))
        share = np.full(len(y), 1.0 if random_labels else noise)
        share[train:] = np.maximum(share[train:], later_noise)
        y = np.where(rng.random(len(y)) < share, fresh, y).astype(np.int64)
    if name not in TEXTS:
        mean, spread = x[:train].mean(0), x[:train].std(0)
        x = (x - mean) / np.where(spread > 0, spread, 1.0)
        x = np.clip(x, -10, 10).astype(np.float32)
    if classes is None:
        y = ((y - y[:train].mean()) / y[:train].std()).astype(np.float32)
    cuts = [slice(0, train), slice(train, train + valid), slice(train + valid, train + valid + ORACLE)]
    return Data(name, *(Part(x[each], y[each]) for each in cuts), classes)


def _texts(examples: int, seed: int) -> tuple[Array, Array]:
    """Return texts as numbers of words, (N, TOKENS), by how common they are; 0 where there is none."""
    told = [each for each in generate("train", round(1.5 * examples), seed) if each["label"] != "neutral"]
    rows = [(f"{each['premise']} | {each['hypothesis']}", each["label"] == "entailment") for each in told[:examples]]
    split = [[each.strip(".,!?") for each in text.lower().split()] for text, _ in rows]
    words, counts = np.unique([each for text in split for each in text], return_counts=True)
    common = {
        str(words[at]): place + 1 for place, at in enumerate(np.argsort(-counts, kind="stable")[: VOCABULARY - 1])
    }
    x = np.zeros((len(rows), TOKENS), dtype=np.int64)
    for row, text in enumerate(split):
        known = [common[each] for each in text if each in common][:TOKENS]
        x[row, : len(known)] = known
    return x, np.array([label for _, label in rows], dtype=np.int64)


def counted(part: Part) -> Part:
    """Return texts as counts of words, for models that know no order."""
    x = np.zeros((len(part), VOCABULARY), dtype=np.float32)
    for row, text in enumerate(part.x):
        np.add.at(x[row], text[text > 0], 1.0)
    return Part(x, part.y)
