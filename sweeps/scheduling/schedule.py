"""A schedule: which sweep file runs, when, and who is notified. Plain values, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

NotifyWhen = Literal["always", "changes", "failures"]


@dataclass(frozen=True)
class NotificationSettings:
    """Where the notification addresses are, and which nights to report.

    Addresses contain secrets. Only their location is stored: the names of environment variables,
    and the paths of files. `when` is `always`, `changes` (the data or another input of the sweep
    changed, or the champion did) or `failures`. Failures are reported in any case.
    """

    variables: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    when: NotifyWhen = "always"

    @property
    def has_recipients(self) -> bool:
        """Whether there is anyone to notify."""
        return bool(self.variables or self.files)


@dataclass(frozen=True)
class Schedule:
    """The times at which a sweep file runs.

    `file` and `data` are absolute paths. `folder` is the folder where the schedule was added;
    relative paths in the sweep file are relative to it. `created_at` is in seconds since the Unix
    epoch; nights are planned from then on. `until` is a local time of day, `HH:MM`: the window of a
    night closes at the first such moment after its planned time.
    """

    name: str
    file: str
    cron: str
    tz: str
    created_at: float
    until: str | None = None
    data: str | None = None
    overrides: tuple[str, ...] = ()
    notify: NotificationSettings = field(default_factory=NotificationSettings)
    paused: bool = False
    folder: str | None = None
