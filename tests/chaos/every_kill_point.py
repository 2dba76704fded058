"""Kills sweeps at every durable write, one scenario after the other: `python -m tests.chaos.every_kill_point`.

Arguments are the names of scenarios; none means all. Prints one line per fault and a summary; ends
with 1 if there is a fault.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from killed_sweep import SCENARIOS, KilledSweep


def main(names: Sequence[str]) -> int:
    """Kill at every point and print what is wrong."""
    faults = kills = 0
    for name in names or tuple(SCENARIOS):
        began, found_here = time.monotonic(), 0
        with tempfile.TemporaryDirectory(prefix="every-kill-point-") as folder:
            sweep = KilledSweep(SCENARIOS[name], Path(folder))
            try:
                points = sweep.kill_points()
            except AssertionError as error:
                print(f"{name}: FAULT {error}", flush=True)
                faults += 1
                continue
            for point in points:
                case_began = time.monotonic()
                found = sweep.case(point, seed=0)
                slow = time.monotonic() - case_began
                if slow > 15:
                    found.append(f"the resume took {slow:.0f} s")
                found_here += bool(found)
                for sentence in found:
                    written = sweep.writes.names[point.write].replace(folder, "")
                    print(f"{name} {point.write} {point.moment} [{written}]: {sentence}", flush=True)
        kills += len(points)
        faults += found_here
        seconds = time.monotonic() - began
        print(f"{name}: {len(points)} kills, {found_here} with a fault, {seconds:.0f} s", flush=True)
    print(f"{kills} kills, {faults} with a fault")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
