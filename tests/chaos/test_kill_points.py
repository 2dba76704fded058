"""A sweep that is killed before, in or after any durable write ends complete after it is resumed.

The short version kills at a sample of the writes. `make chaos` kills at every one: `python -m
tests.chaos.kill_points`.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from durable_writes import KillPoint
from killed_night import NIGHTS, KilledNight
from killed_sweep import SCENARIOS, KilledSweep

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

SEED = 20261130
"""Chooses the sample, and what else is killed."""

SAMPLE, SAMPLE_WITH_MLFLOW, SAMPLE_OF_NIGHT = 4, 2, 1
"""Kill points of one scenario in the short version."""


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_killed_sweep_resumes_and_ends_complete(name: str, tmp_path: Path) -> None:
    sweep = KilledSweep(SCENARIOS[name], tmp_path)
    points = sweep.writes.kill_points()
    count = SAMPLE_WITH_MLFLOW if SCENARIOS[name].mlflow else SAMPLE
    for point in random.Random(f"{name} {SEED}").sample(points, min(count, len(points))):
        found = sweep.case(point, SEED)
        repeat = f"python -m tests.chaos.kill_points {name} --at {point.write} {point.moment} --seed {SEED}"
        assert not found, f"{found}\nthe write: {sweep.writes.names[point.write]}\nrepeat: {repeat}"


@pytest.mark.parametrize("name", NIGHTS)
def test_a_killed_night_is_tried_again_and_ends_complete(name: str, tmp_path: Path) -> None:
    night = KilledNight(NIGHTS[name], tmp_path)
    points = random.Random(f"{name} {SEED}").sample(night.writes.kill_points(), SAMPLE_OF_NIGHT)
    for point in [*_around_the_creation_of_the_study(night), *points]:
        found = night.case(point, SEED)
        repeat = f"python -m tests.chaos.kill_points {name} --at {point.write} {point.moment} --seed {SEED}"
        assert not found, f"{found}\nthe write: {night.writes.names[point.write]}\nrepeat: {repeat}"


def _around_the_creation_of_the_study(night: KilledNight) -> list[KillPoint]:
    """Before it, a month's limit and the points of the warm start could be lost for good.

    Between it and the note of the night about it, its name could be taken by itself.
    """
    creation = next(number for number, text in enumerate(night.writes.names) if text.startswith("pwrite study.journal"))
    return [KillPoint(creation, "before"), KillPoint(creation, "after")]
