"""What is kept of a schedule and of its nights: plain values, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, Self

Tell = Literal["always", "changes", "failures"]


@dataclass(frozen=True)
class Notify:
    """Whom to tell, and when. Addresses hold secrets, so only where they are is kept: names of variables, and files.

    `when`: `always`, `changes` (the champion changed, or the data did) or `failures`; failures are told in any case.
    """

    variables: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    when: Tell = "always"

    @property
    def anyone(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self.variables or self.files)


@dataclass(frozen=True)
class Schedule:
    """When a sweep file is run. `file` and `data` are absolute paths, `created_at` is in seconds since the Unix epoch.
    `folder` is where it was added: what the sweep file names without a full path is looked for there.

    `until` is a local time of day, `HH:MM`: a night ends at the first such moment after it was planned.
    """

    name: str
    file: str
    cron: str
    tz: str
    created_at: float
    until: str | None = None
    data: str | None = None
    overrides: tuple[str, ...] = ()
    notify: Notify = field(default_factory=Notify)
    paused: bool = False
    folder: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; `from_json` inverts it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuild a schedule from `to_json`'s value."""
        notify = value["notify"]
        kept = Notify(tuple(notify["variables"]), tuple(notify["files"]), notify["when"])
        return cls(**{**value, "overrides": tuple(value["overrides"]), "notify": kept})


class NightState(StrEnum):
    """What became of a night."""

    RUNNING = "running"
    DONE = "done"
    """The sweep came to its own end."""
    PARTIAL = "partial"
    """The window closed, or the sweep ended before its finals: the next night goes on."""
    UNCHANGED = "unchanged"
    """Nothing to learn: no trial was run."""
    NO_BUDGET = "no budget"
    """What is left of the month's limit covers no trial: none was run."""
    STOPPED = "stopped"
    """Somebody stopped it, or the daemon was; the sweep can go on."""
    FAILED = "failed"
    LOST = "lost"
    """Its process vanished without a word."""
    MISSED = "missed"
    """No daemon ran, or an earlier night still did, and there was nothing left to catch up."""

    @property
    def ended(self) -> bool:
        """True for every state but `running`."""
        return self is not NightState.RUNNING

    @property
    def cut_off(self) -> bool:
        """Whether the same night is taken up again while its window is open."""
        return self in (NightState.STOPPED, NightState.LOST)

    @property
    def bad(self) -> bool:
        """Whether people must be told whatever they asked for."""
        return self in (NightState.FAILED, NightState.LOST, NightState.MISSED)


@dataclass(frozen=True)
class Night:
    """One run of a schedule. Times are seconds since the Unix epoch; `planned_at` and `attempt` name it.

    `fingerprint` is what `worth.Fingerprint.to_json` returned, `found` the numbers for the morning's summary.
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
    found: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """How people call it: its planned time, in UTC."""
        again = f" (attempt {self.attempt})" if self.attempt > 1 else ""
        return f"{datetime.fromtimestamp(self.planned_at, UTC):%Y-%m-%d %H:%M}Z{again}"

    @property
    def file_name(self) -> str:
        """What its files are called, without an ending; no other night of the schedule has the same."""
        moment = datetime.fromtimestamp(self.planned_at, UTC)
        return f"{moment:%Y-%m-%d-%H%M%S}" + (f".{self.attempt}" if self.attempt > 1 else "")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; `from_json` inverts it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuild a night from `to_json`'s value."""
        return cls(**{**value, "state": NightState(value["state"])})


def last_that_ran(nights: Sequence[Night]) -> Night | None:
    """Return the newest night that has a sweep and a fingerprint; `nights` are in the order of their times."""
    ran = [night for night in nights if night.sweep and night.fingerprint and night.state is not NightState.UNCHANGED]
    return ran[-1] if ran else None
