"""One night of a schedule, as the database stores it: its state and results. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from sweeps.workspace import Workspace


class NightState(StrEnum):
    """How far a night got, or how it ended.

    The database stores the value, so an existing value must not change.
    """

    RUNNING = "running"
    DONE = "done"
    """The sweep is complete."""
    PARTIAL = "partial"
    """The window closed, or the sweep ended before its finals. The next night continues."""
    UNCHANGED = "unchanged"
    """Nothing changed since the last complete night, so the night ran no trial."""
    NO_BUDGET = "no budget"
    """The rest of the monthly limit covers no trial, so the night ran none."""
    STOPPED = "stopped"
    """A user stopped the night or its scheduler. The sweep can continue."""
    FAILED = "failed"
    LOST = "lost"
    """The process vanished without storing an outcome."""
    MISSED = "missed"
    """The night never started: no scheduler ran, or an earlier night still ran, until it was too
    late to catch up."""

    @property
    def ended(self) -> bool:
        """True for every state but `running`."""
        return self is not NightState.RUNNING

    @property
    def interrupted(self) -> bool:
        """Whether the scheduler makes another attempt at this night while its window is open."""
        return self in (NightState.STOPPED, NightState.LOST)

    @property
    def is_failure(self) -> bool:
        """Whether people are notified in any case, whatever the schedule's settings say."""
        return self in (NightState.FAILED, NightState.LOST, NightState.MISSED)


@dataclass(frozen=True)
class Night:
    """One run of a schedule. Times are in seconds since the Unix epoch.

    `planned_at` and `attempt` identify a night within its schedule. `fingerprint` is the JSON value
    of a `fingerprint.Fingerprint`, and empty until the night has computed it. `results` holds plain
    JSON values for the summary and the history; its JSON name, `found`, is that of version 0.1.
    """

    schedule: str
    planned_at: int
    attempt: int = 1
    manual: bool = False
    state: NightState = NightState.RUNNING
    started_at: float | None = None
    ended_at: float | None = None
    sweep: str | None = None
    reason: str = ""
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    results: Annotated[Mapping[str, Any], Field(alias="found")] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, int]:
        """The planned time and the attempt: what identifies the night within its schedule."""
        return self.planned_at, self.attempt

    @property
    def label(self) -> str:
        """The planned time in UTC, for people."""
        again = f" (attempt {self.attempt})" if self.attempt > 1 else ""
        return f"{datetime.fromtimestamp(self.planned_at, UTC):%Y-%m-%d %H:%M}Z{again}"

    @property
    def file_name(self) -> str:
        """The name of the night's files, without suffix; unique within the schedule."""
        moment = datetime.fromtimestamp(self.planned_at, UTC)
        return f"{moment:%Y-%m-%d-%H%M%S}" + (f".{self.attempt}" if self.attempt > 1 else "")


def last_executed(nights: Sequence[Night]) -> Night | None:
    """Return the newest night that began or continued a sweep; `nights` are in time order."""
    executed = [
        night for night in nights if night.sweep and night.fingerprint and night.state is not NightState.UNCHANGED
    ]
    return executed[-1] if executed else None


def nights_folder(workspace: Workspace, schedule: str) -> Path:
    """The folder with the summaries, drift reports and logs of a schedule's nights."""
    return workspace.root / "nights" / schedule
