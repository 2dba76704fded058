"""Simulated sweeps: under every schedule of faults a sweep ends, complete and within its limits.

`make chaos` runs other seeds, and more of them.
"""

from __future__ import annotations

import pytest

from tests.simulation.schedule import KINDS, run_schedule

pytestmark = pytest.mark.unit

FIRST_SEED = 1_000_000
SCHEDULES_PER_KIND = 1000


@pytest.mark.parametrize("kind_number", range(len(KINDS)), ids=KINDS)
def test_a_sweep_survives_its_schedules_of_faults(kind_number: int) -> None:
    first = FIRST_SEED - FIRST_SEED % len(KINDS) + kind_number
    seeds = range(first, first + SCHEDULES_PER_KIND * len(KINDS), len(KINDS))
    for seed in seeds:
        result = run_schedule(seed)
        assert not result.faults, f"{result.faults}\nrepeat: python -m tests.simulation --seed {seed}"


def test_the_same_seed_gives_the_same_schedule() -> None:
    for seed in (3, 1_000_003):
        first, second = (run_schedule(seed) for _ in range(2))
        assert first.log == second.log
