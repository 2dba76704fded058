"""The simulated world: clock, data, outages, and the true quality of every model."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

LABELS = ("no", "maybe", "yes")
FIRST_EXAMPLES = 450
NEW_EXAMPLES = 4
"""The number of examples that a change of the data adds."""

SHARED = 0.6
"""The share of an example's difficulty that is common to all models.

The rest is specific to a model.
"""

SEED_NOISE = 0.012
"""The standard deviation of a model's true quality around the value from its hyperparameters and
data.
"""

SHIFT_COST = 0.03
"""The loss of true quality of a model, trained before a shift, when the data shifts."""

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Quality:
    """The quality of a model: its accuracy on the day of its training, and the number of shifts
    before that day.
    """

    team: str
    at_first: float
    shifts: int
    key: str


@dataclass
class Team:
    """A team: its time zone, schedule and folder, and the present state of its data and price."""

    name: str
    tz: str
    cron: str
    until: str | None
    folder: Path
    examples: int = FIRST_EXAMPLES
    shifts: int = 0
    price: float = 1e-5

    @property
    def data(self) -> Path:
        """The data file that the sweep reads."""
        return self.folder / f"{self.name}.csv"

    @property
    def file(self) -> Path:
        """The sweep file."""
        return self.folder / f"{self.name}.yaml"

    def write(self) -> None:
        """Write the data file and the sweep file in their present state."""
        rows = (f"{text(self.name, number)},{LABELS[number % 3]}" for number in range(self.examples))
        self.data.write_text("text,label\n" + "\n".join(rows) + "\n")
        self.file.write_text(_FILE.format(name=self.name, data=self.data, price=self.price))


@dataclass
class World:
    """Everything outside the product.

    `now` is in seconds since the Unix epoch. All chance follows from `seed`.
    """

    seed: int
    now: float
    teams: dict[str, Team]
    outages: list[tuple[float, float]] = field(default_factory=list)
    kill_at: float | None = None
    trained: dict[str, tuple[str, int, int]] = field(default_factory=dict)

    def clock(self) -> float:
        """Return the simulated time in seconds since the Unix epoch."""
        return self.now

    def moment(self) -> datetime:
        """Return the simulated time as a datetime."""
        return datetime.fromtimestamp(self.now, UTC)

    def is_service_down(self) -> bool:
        """Return whether the training service is unreachable."""
        return any(start <= self.now < end for start, end in self.outages)

    def true_quality(self, model: Quality) -> float:
        """Return the share of all possible examples that a model answers correctly today."""
        return _clipped(model.at_first - SHIFT_COST * (self.teams[model.team].shifts - model.shifts))

    def correct(self, model: Quality, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Return (N,) whether a model answers each text correctly.

        The same true quality gives the same answers.
        """
        threshold = _NORMAL.inv_cdf(self.true_quality(model))
        hardness = np.array([_hardness(self.seed, text) for text in texts])
        start = int.from_bytes(hashlib.blake2b(f"{self.seed} {model.key}".encode(), digest_size=8).digest())
        numbers = np.array([_number(text) for text in texts])
        own = np.random.default_rng(start).standard_normal(int(numbers.max()) + 1)[numbers]
        return np.asarray(math.sqrt(SHARED) * hardness + math.sqrt(1 - SHARED) * own < threshold)


def quality(point: Mapping[str, object], epoch: float, key: str, trained: tuple[str, int, int]) -> Quality:
    """Return a model's quality from its epochs, its learning rate, the data, and the luck of its
    seed.
    """
    team, examples, shifts = trained
    rate = float(point.get("learning_rate_multiplier", 0.05))  # type: ignore[arg-type]
    skill = 1 - 0.5 * math.log10(rate / 0.08) ** 2 - 0.12 * abs(epoch - 3)
    data_gain = 0.05 * math.log10(examples / FIRST_EXAMPLES)
    at_first = 0.60 + 0.14 * max(0.0, skill) + data_gain + SEED_NOISE * _luck(f"seed {key}@{epoch:g}")
    return Quality(team, _clipped(at_first), shifts, f"{key}@{epoch:g}")


def text(team: str, number: int) -> str:
    """Return an example's text, which never changes."""
    return f"{team} item {number} about {('rain', 'ships', 'music', 'bread')[number % 4]} and {number * 7919 % 1000}"


def label_of(example: str) -> str:
    """Return the correct label of a text."""
    return LABELS[int(example.split()[2]) % 3]


@dataclass(frozen=True)
class YearEvents:
    """The events of a year for a team and its scheduler, by day (0, 1, ...)."""

    data_changes: frozenset[int]
    shifts: frozenset[int]
    prices: Mapping[int, float]
    killed_nights: frozenset[int]
    days_without_scheduler: frozenset[int]


def draw_events(seed: int, days: int, changing: float = 0.3) -> YearEvents:
    """Draw the events of a year. `changing` is the share of days with new data."""
    chance = random.Random(f"year {seed}")
    days_without_scheduler = frozenset(
        day for start in chance.sample(range(days), max(1, days // 60)) for day in (start, start + 1)
    )
    shifts = frozenset(chance.sample(range(days), max(1, days // 90)))
    return YearEvents(
        data_changes=frozenset(day for day in range(days) if chance.random() < changing) | shifts,
        shifts=shifts,
        prices={day: chance.uniform(0.5e-5, 3e-5) for day in chance.sample(range(days), max(1, days // 90))},
        killed_nights=frozenset(chance.sample(range(days), max(2, days // 30))),
        days_without_scheduler=days_without_scheduler,
    )


def draw_outages(seed: int, start: float, days: int) -> list[tuple[float, float]]:
    """Draw the service's outages as (begin, end): some for a part of a night, some for days."""
    chance = random.Random(f"outages {seed}")
    outages = []
    for _ in range(max(2, days // 25)):
        begin = start + chance.uniform(0, days * 86400)
        outages.append((begin, begin + timedelta(hours=chance.choice([2, 6, 30])).total_seconds()))
    return outages


def local_day(team: Team, moment: float) -> int:
    """Return the day of the year of a moment in the team's zone, counted from 0."""
    return datetime.fromtimestamp(moment, UTC).astimezone(ZoneInfo(team.tz)).timetuple().tm_yday - 1


@lru_cache(maxsize=100_000)
def _hardness(seed: int, example: str) -> float:
    return _luck(f"{seed} {example}")


@lru_cache(maxsize=100_000)
def _number(example: str) -> int:
    return int(example.split()[2])


def _luck(words: str) -> float:
    """Return a standard normal number that is a function of `words`."""
    number = int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest())
    return _NORMAL.inv_cdf((number + 0.5) / 2**64)


def _clipped(share: float) -> float:
    return min(0.99, max(0.34, share))


_FILE = """\
name: {name}
data: {{checks: quick, source: {data}, prompt: "{{text}}", completion: " {{label}}", validation: 0.25, test: 0.35}}
backend: {{type: year, model: fake-small, seconds_per_epoch: 600, price_usd_per_token: {price}}}
space:
  n_epochs: [2, 3, 4]
  learning_rate_multiplier: {{low: 0.01, high: 0.4, log: true}}
search: {{sampler: random, scheduler: none, trials: 5, concurrency: 2, retries: 1, stop_by_verdict: false}}
steering: "off"
objective: {{maximize: valid_accuracy}}
finals: {{candidates: 2, seeds: 2}}
champion: {{}}
budget: {{monthly_usd: 30}}
"""
MONTHLY_USD = 30.0
