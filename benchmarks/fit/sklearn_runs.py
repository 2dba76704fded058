"""Training of scikit-learn models: pass by pass, and gradient boosting tree by tree."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor

from benchmarks.fit.datasets import TEXTS, Array, Data, Part, word_counts
from benchmarks.fit.tracing import ExampleScores, State


@dataclass(frozen=True)
class SklearnSettings:
    """The settings of a run.

    `passes` is the number of passes over the data, or of trees, between two evaluations. `width` is
    also a tree's depth.
    """

    model: Literal["mlp", "sgd", "boosting"]
    width: int
    rate: float
    decay: float = 1e-4
    batch: int = 16
    passes: int = 1
    later_rate: float = 1.0
    subsample: float = 1.0


class SteppedLearner:
    """A perceptron or a linear model, with one call of `partial_fit` per pass."""

    def __init__(self, data: Data, settings: SklearnSettings, seed: int) -> None:
        self._parts = [_features(part, data) for part in (data.train, data.valid, data.oracle)]
        self._classes, self._settings, self._model = data.classes, settings, _stepped(data, settings, seed)
        self._rng = np.random.default_rng([seed, 5])
        self._epoch = 0

    def advance(self) -> bool:
        train = self._parts[0]
        first = {} if self._classes is None else {"classes": np.arange(self._classes)}
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                for _ in range(self._settings.passes):
                    order = self._rng.permutation(len(train))
                    self._model.partial_fit(train.x[order], train.y[order], **first)
        except ValueError as error:  # scikit-learn reports non-finite weights in this way
            if not any(word in str(error) for word in ("finite", "infinity", "NaN", "Floating-point")):
                raise
            return False
        self._epoch += self._settings.passes
        return True

    def start_continuation(self) -> None:
        rate = self._settings.rate * self._settings.later_rate
        if self._settings.model == "mlp":
            self._model.learning_rate_init = rate
            self._model._optimizer.learning_rate_init = rate
        else:
            self._model.eta0 = rate

    def state(self) -> State:
        if self._epoch == 0:
            return _constant(self._parts, self._classes)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            scores = [self._scores(part) for part in self._parts]
        steps = -(-len(self._parts[0]) // self._settings.batch) if self._settings.model == "mlp" else 1
        return State(float(self._epoch), self._epoch * steps, *scores)

    def _scores(self, part: Part) -> ExampleScores:
        if self._classes is None:
            return ExampleScores((self._model.predict(part.x).astype(np.float64) - part.y) ** 2, None)
        if self._settings.model == "mlp":
            return _classification_scores(self._model.predict_proba(part.x), part.y)
        margin = self._model.decision_function(part.x)
        logits = np.column_stack([np.zeros_like(margin), margin]) if margin.ndim == 1 else margin
        shifted = logits - logits.max(1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        return ExampleScores(-logs[np.arange(len(part)), part.y], (logs.argmax(1) == part.y).astype(np.float64))


class BoostedLearner:
    """Gradient boosting. It is fitted once with all trees; the states are its stages."""

    def __init__(self, data: Data, settings: SklearnSettings, evaluations: int, seed: int) -> None:
        kind = GradientBoostingRegressor if data.classes is None else GradientBoostingClassifier
        self._classes, self._passes = data.classes, settings.passes
        self._parts = [_features(part, data) for part in (data.train, data.valid, data.oracle)]
        model = kind(
            n_estimators=evaluations * settings.passes,
            learning_rate=settings.rate,
            max_depth=settings.width,
            subsample=settings.subsample,
            random_state=seed,
        )
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            model.fit(self._parts[0].x, self._parts[0].y)
        staged = model.staged_predict if data.classes is None else model.staged_predict_proba
        self._stages: list[Iterator[Array]] = [staged(part.x) for part in self._parts]
        self._now: list[Array] = []
        self._trees = 0

    def advance(self) -> bool:
        with np.errstate(all="ignore"):
            for _ in range(self._passes):
                self._now = [next(stage) for stage in self._stages]
        self._trees += self._passes
        return True

    def start_continuation(self) -> None:
        """Change nothing: the next trees are already fitted."""

    def state(self) -> State:
        if not self._now:
            return _constant(self._parts, self._classes)
        scores = [
            ExampleScores((out - part.y) ** 2, None) if self._classes is None else _classification_scores(out, part.y)
            for out, part in zip(self._now, self._parts, strict=True)
        ]
        return State(float(self._trees), self._trees, *scores)


def _constant(parts: list[Part], classes: int | None) -> State:
    """Return the state of the best constant prediction, because no model exists before the first
    pass or tree.
    """
    y = parts[0].y
    if classes is None:
        return State(0.0, 0, *(ExampleScores((part.y - y.mean()) ** 2, None) for part in parts))
    shares = (np.bincount(y, minlength=classes) + 1) / (len(y) + classes)
    return State(0.0, 0, *(_classification_scores(np.tile(shares, (len(part), 1)), part.y) for part in parts))


def _classification_scores(probabilities: Array, y: Array) -> ExampleScores:
    chosen = np.asarray(probabilities, dtype=np.float64)[np.arange(len(y)), y]
    return ExampleScores(-np.log(np.maximum(chosen, 1e-15)), (probabilities.argmax(1) == y).astype(np.float64))


def _features(part: Part, data: Data) -> Part:
    return word_counts(part) if data.name in TEXTS else part


def _stepped(data: Data, settings: SklearnSettings, seed: int) -> Any:
    if settings.model == "sgd":
        options = {"learning_rate": "constant", "eta0": settings.rate, "alpha": settings.decay, "random_state": seed}
        return SGDRegressor(**options) if data.classes is None else SGDClassifier(loss="log_loss", **options)
    kind = MLPRegressor if data.classes is None else MLPClassifier
    return kind(
        hidden_layer_sizes=(settings.width,),
        learning_rate_init=settings.rate,
        alpha=settings.decay,
        batch_size=min(settings.batch, len(data.train)),
        random_state=seed,
    )
