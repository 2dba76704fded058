"""Runs schedules: `python -m tests.simulation --seed 123`, or `--first 0 --count 10000`."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from tests.simulation.schedule import run_schedule

CHUNK = 50
"""Schedules that a process takes at once."""


def main() -> int:
    """Run one seed with its log, or a range of seeds with a summary."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="repeat this seed and print what happened")
    parser.add_argument("--first", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--count", type=int, default=10_000, help="how many seeds")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args()
    if options.seed is not None:
        result = run_schedule(options.seed)
        print(f"a sweep of the kind `{result.kind}`", *result.log, sep="\n")
        print(*[f"WRONG: {fault}" for fault in result.faults] or ["ok"], sep="\n")
        return 1 if result.faults else 0
    began, wrong, processes = time.monotonic(), 0, 0
    seeds = range(options.first, options.first + options.count)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("fork")) as pool:
        for result in pool.map(run_schedule, seeds, chunksize=CHUNK):
            processes += result.processes
            if result.faults:
                wrong += 1
                last_line = result.faults[0].strip().splitlines()[-1]
                print(f"--seed {result.seed} ({result.kind}): {last_line}", flush=True)
    seconds = time.monotonic() - began
    print(f"{options.count} schedules, {processes} processes, {wrong} with a violation, {seconds:.1f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
