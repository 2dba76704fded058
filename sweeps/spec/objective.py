"""What a sweep optimizes: a metric and the direction that is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SPEND_METRICS = ("usd", "tokens", "seconds")
"""Objectives that count what the whole trial took. They need a measured objective before them."""


_LOWER_IS_BETTER = ("loss", "perplexity", "error", "wer", "cer")
_HIGHER_IS_BETTER = ("accuracy", "f1", "precision", "recall", "mcc", "auc", "bleu")


def better_direction(metric: str) -> Literal["maximize", "minimize"] | None:
    """Return the direction in which a metric is better, by the last word of its name.

    None for a metric that only its backend knows.
    """
    word = metric.rpartition("_")[2]
    if word in _LOWER_IS_BETTER or metric in SPEND_METRICS:
        return "minimize"
    return "maximize" if word in _HIGHER_IS_BETTER else None


@dataclass(frozen=True)
class Objective:
    """A metric of an evaluation or one of `SPEND_METRICS`, and the direction that is better."""

    metric: str
    direction: Literal["maximize", "minimize"]

    def better(self, candidate: float, incumbent: float) -> bool:
        """Return whether `candidate` is strictly better than `incumbent`."""
        return candidate > incumbent if self.direction == "maximize" else candidate < incumbent
