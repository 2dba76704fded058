"""Simulated sweeps: under every schedule of faults a sweep ends, complete and within its limits.

The short version runs other seeds every day. `make chaos` runs ten thousand and more.
"""

from __future__ import annotations

import datetime

import pytest

from tests.simulation.schedule import KINDS, run_schedule

pytestmark = pytest.mark.unit

SCHEDULES_PER_KIND = 100


@pytest.mark.parametrize("kind_number", range(len(KINDS)), ids=KINDS)
def test_a_sweep_survives_its_schedules_of_faults(kind_number: int) -> None:
    first = datetime.date.today().toordinal() * 1000
    seeds = range(first - first % len(KINDS) + kind_number, first + SCHEDULES_PER_KIND * len(KINDS), len(KINDS))
    for seed in seeds:
        result = run_schedule(seed)
        assert not result.faults, f"{result.faults}\nrepeat: python -m tests.simulation --seed {seed}"


def test_the_same_seed_gives_the_same_schedule() -> None:
    for seed in (3, 1_000_003):
        first, second = (run_schedule(seed) for _ in range(2))
        assert first.log == second.log
