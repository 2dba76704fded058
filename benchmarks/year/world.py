"""The pretended world: its clock, each team's data, when the service is away, and how good every model truly is."""

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
"""A change of the data brings so many."""

SHARED = 0.6
"""The part of an example's luck that all models share: what is hard for one is mostly hard for the others."""

SEED_NOISE = 0.012
"""The deviation of a model's true quality from what its hyperparameters and data give it."""

SHIFT_COSTS = 0.03
"""So much a model loses on the truth when the world changes and it was trained before."""

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Quality:
    """How good a model is on the truth of the day on which it was trained, and after how many shifts that was."""

    team: str
    at_first: float
    shifts: int
    key: str


@dataclass
class Team:
    """Whose schedule it is: the zone, the window, the data file, the price, and what becomes of both over the year."""

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
        """The file that the sweep reads."""
        return self.folder / f"{self.name}.csv"

    @property
    def file(self) -> Path:
        """The sweep file."""
        return self.folder / f"{self.name}.yaml"

    def write(self) -> None:
        """Write the data and the sweep file as they are now."""
        rows = (f"{text(self.name, each)},{LABELS[each % 3]}" for each in range(self.examples))
        self.data.write_text("text,label\n" + "\n".join(rows) + "\n")
        self.file.write_text(_FILE.format(name=self.name, data=self.data, price=self.price))


@dataclass
class World:
    """Everything beside the product. `now` is in seconds since the Unix epoch; all luck follows from `seed`."""

    seed: int
    now: float
    teams: dict[str, Team]
    away: list[tuple[float, float]] = field(default_factory=list)
    kill_at: float | None = None
    trained: dict[str, tuple[str, int, int]] = field(default_factory=dict)

    def clock(self) -> float:
        """Return the time."""
        return self.now

    def moment(self) -> datetime:
        """Return the time as a moment."""
        return datetime.fromtimestamp(self.now, UTC)

    def is_away(self) -> bool:
        """Return whether the training service is out of reach."""
        return any(start <= self.now < end for start, end in self.away)

    def truth(self, model: Quality) -> float:
        """Return the share of all examples there could be that a model gets right today."""
        return _clipped(model.at_first - SHIFT_COSTS * (self.teams[model.team].shifts - model.shifts))

    def right(self, model: Quality, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Return which examples a model gets right; the same answer whenever it is asked under the same truth."""
        wanted = _NORMAL.inv_cdf(self.truth(model))
        hard = np.array([_hardness(self.seed, each) for each in texts])
        start = int.from_bytes(hashlib.blake2b(f"{self.seed} {model.key}".encode(), digest_size=8).digest())
        places = np.array([_place(each) for each in texts])
        own = np.random.default_rng(start).standard_normal(int(places.max()) + 1)[places]
        return np.asarray(math.sqrt(SHARED) * hard + math.sqrt(1 - SHARED) * own < wanted)


def quality(point: Mapping[str, object], epoch: float, key: str, trained: tuple[str, int, int]) -> Quality:
    """Return how good a model is: by its epochs, its rate, the data, and the luck of its seed."""
    team, examples, shifts = trained
    rate = float(point.get("learning_rate_multiplier", 0.05))  # type: ignore[arg-type]
    skill = 1 - 0.5 * math.log10(rate / 0.08) ** 2 - 0.12 * abs(epoch - 3)
    grown = 0.05 * math.log10(examples / FIRST_EXAMPLES)
    at_first = 0.60 + 0.14 * max(0.0, skill) + grown + SEED_NOISE * _luck(f"seed {key}@{epoch:g}")
    return Quality(team, _clipped(at_first), shifts, f"{key}@{epoch:g}")


def text(team: str, number: int) -> str:
    """Return an example's text; it stays the same over the year."""
    return f"{team} item {number} about {('rain', 'ships', 'music', 'bread')[number % 4]} and {number * 7919 % 1000}"


def label_of(example: str) -> str:
    """Return the right label of a text."""
    return LABELS[int(example.split()[2]) % 3]


@dataclass(frozen=True)
class Events:
    """What happens to a team and its scheduler on the days of a year, drawn once from a seed."""

    data_changes: frozenset[int]
    shifts: frozenset[int]
    prices: Mapping[int, float]
    deaths: frozenset[int]
    scheduler_away: frozenset[int]


def events(seed: int, days: int, changing: float = 0.3) -> Events:
    """Draw a year: new data on that share of the days, shifts, prices, killed nights, days without a scheduler."""
    chance = random.Random(f"year {seed}")
    outages = frozenset(day for start in chance.sample(range(days), max(1, days // 60)) for day in (start, start + 1))
    shifts = frozenset(chance.sample(range(days), max(1, days // 90)))
    return Events(
        data_changes=frozenset(day for day in range(days) if chance.random() < changing) | shifts,
        shifts=shifts,
        prices={day: chance.uniform(0.5e-5, 3e-5) for day in chance.sample(range(days), max(1, days // 90))},
        deaths=frozenset(chance.sample(range(days), max(2, days // 30))),
        scheduler_away=outages,
    )


def outages(seed: int, start: float, days: int) -> list[tuple[float, float]]:
    """Draw when the training service is away: some times for a part of a night, some for days."""
    chance = random.Random(f"outages {seed}")
    found = []
    for _ in range(max(2, days // 25)):
        begin = start + chance.uniform(0, days * 86400)
        found.append((begin, begin + timedelta(hours=chance.choice([2, 6, 30])).total_seconds()))
    return found


def local_day(team: Team, moment: float) -> int:
    """Return the day of the year of a moment in the team's zone, counted from 0."""
    return datetime.fromtimestamp(moment, UTC).astimezone(ZoneInfo(team.tz)).timetuple().tm_yday - 1


@lru_cache(maxsize=100_000)
def _hardness(seed: int, example: str) -> float:
    return _luck(f"{seed} {example}")


@lru_cache(maxsize=100_000)
def _place(example: str) -> int:
    return int(example.split()[2])


def _luck(words: str) -> float:
    """Return a standard normal number that belongs to these words."""
    number = int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest())
    return _NORMAL.inv_cdf((number + 0.5) / 2**64)


def _clipped(share: float) -> float:
    return min(0.99, max(0.34, share))


_FILE = """\
name: {name}
data: {{source: {data}, prompt: "{{text}}", completion: " {{label}}", validation: 0.25, test: 0.35}}
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
