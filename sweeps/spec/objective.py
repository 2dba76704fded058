"""What a sweep optimizes: a metric and the direction that is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SPEND_METRICS = ("usd", "tokens", "seconds")
"""Objectives that count what the whole trial took. They need a measured objective before them."""


@dataclass(frozen=True)
class Objective:
    """A metric of an evaluation or one of `SPEND_METRICS`, and the direction that is better."""

    metric: str
    direction: Literal["maximize", "minimize"]

    def better(self, candidate: float, incumbent: float) -> bool:
        """Return whether `candidate` is strictly better than `incumbent`."""
        return candidate > incumbent if self.direction == "maximize" else candidate < incumbent
