"""Seeded random choices of a run's settings."""

from __future__ import annotations

import random
from typing import Any


class Draws:
    """The random choices of one run. The same arguments give the same choices."""

    def __init__(self, family: str, detail: str, number: int, long: bool) -> None:
        self.rng = random.Random(f"{family} {detail} {number} {long}")
        self.long = long

    def one(self, *values: Any) -> Any:
        return self.rng.choice(values)

    def size(self, low: float, high: float) -> int:
        return round(self.log(low, high))

    def log(self, low: float, high: float) -> float:
        return float(low * (high / low) ** self.rng.random())

    def evaluations(self) -> int:
        if self.long:
            return int(self.one(50, 60, 80, 100, 100, 150, 200, 300))
        return int(self.one(2, 3, 3, 4, 4, 5, 5, 6))
