"""One claimed night with everything that it needs: schedule, claim, store, environment."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from sweeps.execution.environment import Environment
from sweeps.scheduling.claims import Claim
from sweeps.scheduling.schedule import Schedule
from sweeps.scheduling.store import ScheduleStore


@dataclass(frozen=True)
class NightContext:
    """The arguments that every step of a night shares.

    `say` receives messages about each step. `clock` returns seconds since the Unix epoch.
    """

    schedule: Schedule
    claim: Claim
    store: ScheduleStore
    environment: Environment
    say: Callable[[str], None]
    clock: Callable[[], float] = time.time
