"""Whether a trial finds room on one of Ray's machines: checked before the first trial waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from sweeps.errors import SweepError

Machine = Mapping[str, float]
"""What a machine has in all, by the names of Ray: CPU, GPU and others."""

SAY_EVERY_S = 10.0
"""Time between two messages while the sweep waits for a machine."""

LOOK_EVERY_S = 1.0


def require_room(
    needs: Mapping[str, float],
    machines: Callable[[], Sequence[Machine]],
    *,
    grow: Callable[[Mapping[str, float] | None], None] | None,
    say: Callable[[str], None],
    should_end: Callable[[], bool],
    count: int = 1,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return once a trial that needs this much fits on one machine, or once `should_end` is true.

    A trial that spans several machines needs this much on `count` of them. If there are too few,
    `grow` asks for a machine with this much, and takes the request back with None in the end; the
    user hears what the sweep waits for. A Ray that cannot grow (None) raises SweepError at once.
    """
    if needs.get("GPU", 0.0) > 1 and needs["GPU"] % 1:
        hint = "set `resources: {gpus_per_trial: ...}` to a whole number, or to a fraction below 1"
        raise SweepError(f"a trial needs {needs['GPU']:g} GPU, but Ray shares only one GPU between trials", hint)
    said_at = None
    where = "one machine" if count == 1 else f"each of {count} machines"
    while fitting(needs, found := machines()) < count and not should_end():
        has = machines_in_words(found) if count == 1 else f"{fitting(needs, found)} such machines"
        if grow is None:
            raise SweepError(
                f"a trial needs {in_words(needs)} on {where}, but Ray has {has}",
                "lower `resources:` in the sweep file, or pass `--address` of a Ray cluster with a larger machine",
            )
        if said_at is None:
            grow(needs)
        if said_at is None or clock() - said_at >= SAY_EVERY_S:
            said_at = clock()
            say(f"waiting for a machine with {in_words(needs)}; Ray has {has} (Ctrl-C stops)")
        sleep(LOOK_EVERY_S)
    if said_at is not None and grow is not None:
        grow(None)


def in_words(needs: Mapping[str, float]) -> str:
    """Return what a trial occupies, as in `2 CPU and 1 GPU`."""
    shown = {name: needs.get(name, 0.0) for name in ("CPU", "GPU") if needs.get(name, 0.0) > 0}
    return " and ".join(f"{amount:g} {name}" for name, amount in shown.items()) or "no CPU"


def fitting(needs: Mapping[str, float], machines: Sequence[Machine]) -> int:
    """Return on how many of the machines a trial fits, each given by what it has in all."""
    amounts = {name: needs.get(name, 0.0) for name in ("CPU", "GPU")}
    return sum(
        all(machine.get(name, 0.0) >= amount for name, amount in amounts.items() if amount > 0) for machine in machines
    )


def machines_in_words(machines: Sequence[Machine]) -> str:
    """Return what the machines have, as in `a machine with 2 CPU`."""
    kinds = sorted({in_words(machine) for machine in machines})
    return ", ".join(f"a machine with {kind}" for kind in kinds) or "no machine"
