"""Kills sweeps at every durable write: `python -m tests.chaos.kill_points [SCENARIO ...]`.

`--list` lists the durable writes of the scenarios. `--at 14 before` repeats one case of a scenario.
What is stored after a write is also stored before the next one, so `--moments before torn` meets
every stored state once.
Prints one line for each violation and a summary; ends with 1 if there is one.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from durable_writes import KillPoint
from killed_night import NIGHTS, KilledNight
from killed_sweep import SCENARIOS, KilledSweep

NAMES = (*SCENARIOS, *NIGHTS)
"""The scenarios: sweeps, and nights of a schedule."""

SLOW_S = 20.0
"""A case that takes longer waits for something, such as a lock that nobody holds.

More than that for each process that shares a processor with this one.
"""


def main() -> int:
    """Kill at every point, or at the one that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.kill_points", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(NAMES))
    parser.add_argument("--list", action="store_true", help="list the durable writes")
    parser.add_argument("--at", nargs=2, metavar=("WRITE", "MOMENT"), help="kill only here: before, torn or after")
    parser.add_argument("--seed", type=int, default=0, help="decides about further kills of the resumed sweep")
    parser.add_argument("--jobs", type=int, default=1, help="scenarios at the same time")
    parser.add_argument("--moments", nargs="+", default=("before", "torn", "after"), help="kill only at these")
    parser.add_argument("--part", type=_part, default=(1, 1), metavar="K/N", help="every N-th kill, from the K-th")
    options = parser.parse_args()
    names = options.scenarios or list(NAMES)
    if options.list or options.at:
        return _one(names[0], options.at, options.seed)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("fork")) as pool:
        all_points = partial(_all_points, seed=options.seed, moments=options.moments, part=options.part)
        results = list(pool.map(all_points, names))
    kills, wrong = (sum(numbers) for numbers in zip(*results, strict=True))
    print(f"{kills} kills, {wrong} with a violation")
    return 1 if wrong else 0


def _part(text: str) -> tuple[int, int]:
    part, parts = map(int, text.split("/"))
    return part, parts


def killed(name: str, folder: Path) -> KilledSweep | KilledNight:
    """Return the scenario of this name, prepared in `folder`."""
    if name in NIGHTS:
        return KilledNight(NIGHTS[name], folder)
    return KilledSweep(SCENARIOS[name], folder)


def _one(name: str, at: Sequence[str] | None, seed: int) -> int:
    folder = Path(tempfile.mkdtemp(prefix="kill-points-"))
    sweep = killed(name, folder)
    if at is None:
        print(*(f"{number} {text}" for number, text in enumerate(sweep.writes.names)), sep="\n")
        return 0
    found = sweep.case(KillPoint(int(at[0]), at[1]), seed)  # type: ignore[arg-type]
    print(*found or ["ok"], f"folder: {folder}", sep="\n")
    return 1 if found else 0


def _all_points(name: str, seed: int, moments: Sequence[str], part: tuple[int, int]) -> tuple[int, int]:
    """Return the number of kills of a scenario, and how many of them end in a violation."""
    began, wrong = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="kill-points-") as folder:
        sweep = killed(name, Path(folder))
        try:
            points = [point for point in sweep.writes.kill_points() if point.moment in moments][part[0] - 1 :: part[1]]
        except AssertionError as error:
            print(f"{name}: {error}", flush=True)
            return 1, 1
        for point in points:
            case_began = time.monotonic()
            found = sweep.case(point, seed)
            seconds = time.monotonic() - case_began
            if seconds > SLOW_S * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)):
                found.append(f"the case took {seconds:.0f} s")
            wrong += bool(found)
            for sentence in found:
                written = sweep.writes.names[point.write].replace(folder, "")
                print(f"{name} --at {point.write} {point.moment} [{written}]: {sentence}", flush=True)
    print(f"{name}: {len(points)} kills, {wrong} with a violation, {time.monotonic() - began:.0f} s", flush=True)
    return len(points), wrong


if __name__ == "__main__":
    sys.exit(main())
