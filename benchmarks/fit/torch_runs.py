"""Training of small torch models: perceptrons, a convolution, bags of embeddings and a GRU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.fit.datasets import TOKENS, VOCABULARY, Data, Part
from benchmarks.fit.tracing import ExampleScores, State

Net = Literal["linear", "mlp", "cnn", "bag", "gru"]
Schedule = Literal["constant", "cosine", "drop", "hump", "bump", "blow-up"]

DROP_AT, HUMP_FROM, HUMP_TO, BUMP_TO, BLOW_UP_AT = 0.6, 0.3, 0.45, 0.15, 0.5


@dataclass(frozen=True)
class TorchSettings:
    """The settings of a run.

    `passes` is the number of epochs between two evaluations, below 1 for several evaluations per
    epoch.
    """

    net: Net
    width: int
    rate: float
    optimizer: Literal["adam", "sgd"] = "adam"
    batch: int = 16
    depth: int = 1
    decay: float = 0.0
    dropout: float = 0.0
    schedule: Schedule = "constant"
    strength: float = 10.0
    passes: float = 1.0
    later_rate: float = 1.0


def rate_factor(settings: TorchSettings, done: float) -> float:
    """Return the factor of the rate after the share `done` of the run; from 1.0 on it is that of
    the continuation.
    """
    anneal = 0.05 + 0.95 * (1 + math.cos(math.pi * min(done, 1.0))) / 2
    match settings.schedule:
        case "constant":
            return 1.0
        case "cosine":
            return anneal
        case "drop":
            return 1.0 if done < DROP_AT else 1 / settings.strength
        case "hump":
            return settings.strength if HUMP_FROM <= done < HUMP_TO else anneal
        case "bump":
            return settings.strength if done < BUMP_TO else anneal
        case "blow-up":
            return 1.0 if done < BLOW_UP_AT else settings.strength


class TorchLearner:
    """A model in training. The same seed gives the same states."""

    def __init__(self, data: Data, settings: TorchSettings, evaluations: int, seed: int) -> None:
        torch.manual_seed(seed)
        self._data, self._settings, self._evaluations = data, settings, evaluations
        outputs = data.classes or 1
        self._net = _network(settings, data.train.x.shape[1:], outputs)
        kind = {"adam": torch.optim.AdamW, "sgd": torch.optim.SGD}[settings.optimizer]
        extra: dict[str, Any] = {"momentum": 0.9} if settings.optimizer == "sgd" else {}
        self._optimizer = kind(
            self._net.parameters(), lr=settings.rate, weight_decay=settings.decay, fused=True, **extra
        )
        self._x, self._y = torch.from_numpy(data.train.x), torch.from_numpy(data.train.y)
        self._rng = np.random.default_rng([seed, 3])
        self._step, self._done, self._later = 0, 0, 1.0
        self._order = np.zeros(0, dtype=np.int64)
        self._batch_loss: float | None = None

    @property
    def _steps_per_epoch(self) -> int:
        return math.ceil(len(self._y) / self._settings.batch)

    def advance(self) -> bool:
        settings = self._settings
        rate = settings.rate * self._later * rate_factor(settings, self._done / self._evaluations)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        losses = [self._train_batch() for _ in range(max(1, round(settings.passes * self._steps_per_epoch)))]
        self._batch_loss = float(np.mean(losses))
        self._done += 1
        return True

    def start_continuation(self) -> None:
        self._later = self._settings.later_rate

    def _train_batch(self) -> float:
        if not len(self._order):
            self._order = self._rng.permutation(len(self._y))
        chosen = torch.from_numpy(self._order[: self._settings.batch])
        self._order = self._order[self._settings.batch :]
        self._net.train()
        loss = _losses(self._net(self._x[chosen]), self._y[chosen]).mean()
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._step += 1
        return float(loss.detach())

    def state(self) -> State:
        self._net.eval()
        parts = [self._scores(part) for part in (self._data.train, self._data.valid, self._data.oracle)]
        return State(self._step / self._steps_per_epoch, self._step, *parts, self._batch_loss)

    @torch.no_grad()
    def _scores(self, part: Part) -> ExampleScores:
        out, y = self._net(torch.from_numpy(part.x)), torch.from_numpy(part.y)
        correct = None if self._data.classes is None else (out.argmax(1) == y).double().numpy()
        return ExampleScores(_losses(out, y).double().numpy(), correct)


def _losses(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    if y.dtype == torch.int64:
        return functional.cross_entropy(out, y, reduction="none")
    return (out.squeeze(1) - y) ** 2


def _network(settings: TorchSettings, shape: tuple[int, ...], outputs: int) -> nn.Module:
    width = settings.width
    match settings.net:
        case "linear":
            return nn.Linear(shape[0], outputs)
        case "mlp":
            layers: list[nn.Module] = []
            size = shape[0]
            for _ in range(settings.depth):
                layers += [nn.Linear(size, width), nn.ReLU(), nn.Dropout(settings.dropout)]
                size = width
            return nn.Sequential(*layers, nn.Linear(size, outputs))
        case "cnn":
            return nn.Sequential(
                nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(width, width, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(settings.dropout),
                nn.Linear(4 * width, outputs),
            )  # fmt: skip
        case "bag":
            return _Bag(width, outputs, settings.dropout)
        case "gru":
            return _Recurrent(width, outputs)


class _Bag(nn.Module):
    """The mean of the words' embeddings, and two layers on it."""

    def __init__(self, width: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(VOCABULARY, width, mode="mean", padding_idx=0)
        self.rest = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, TOKENS) -> (B, outputs)
        return self.rest(self.words(x))  # type: ignore[no-any-return]


class _Recurrent(nn.Module):
    """A GRU over the first words."""

    LENGTH = min(TOKENS, 14)

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, width, padding_idx=0)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.out = nn.Linear(width, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, TOKENS) -> (B, outputs)
        states, _ = self.gru(self.words(x[:, : self.LENGTH]))
        return self.out(states.mean(1))  # type: ignore[no-any-return]
