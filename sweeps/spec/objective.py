"""What a sweep optimizes: a measured metric or what a trial took, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SPEND_METRICS = ("usd", "tokens", "seconds")
"""Objectives that are not measured on data: what the whole trial took. They can stand beside a measured one."""


@dataclass(frozen=True)
class Objective:
    """A metric of an evaluation, or one of `SPEND_METRICS`, and which way is better."""

    metric: str
    direction: Literal["maximize", "minimize"]

    def better(self, candidate: float, incumbent: float) -> bool:
        """Return whether `candidate` is strictly better than `incumbent`."""
        return candidate > incumbent if self.direction == "maximize" else candidate < incumbent
