"""Nothing waits in silence: after a while without news, the screen says what is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from backends.waiting import Waiting
from sweeps.reports.formatting import moment

QUIET_S = 30.0
"""The first message comes after this long without news, the next ones after twice as long each."""

MAX_QUIET_S = 900.0


class SilenceWatch:
    """Calls `say` when there has been no news for a while. `clock` is monotonic, in seconds."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._quiet_s = QUIET_S
        self._news_at = clock()

    def news(self) -> None:
        """Take note that the user has just heard something."""
        self._news_at = self._clock()
        self._quiet_s = QUIET_S

    def look(self, reason: Callable[[], str]) -> None:
        """Say what the sweep waits for, if it is time to. `reason` says it in words."""
        silent_s = self._clock() - self._news_at
        if silent_s >= self._quiet_s:
            self._quiet_s = min(self._quiet_s * 2, self._quiet_s + MAX_QUIET_S)
            self._say(f"no news for {silent_s:.0f} s: {reason()}")


UNANSWERED_S = 8.0
"""A worker that only asks a service reports every few seconds. After this long without a report it
waits for an answer, as when the network is cut."""

UNANSWERED_AGAIN_S = 15.0

LONGEST_LOOK_S = 1.0
"""The longest silence that one look counts; a longer one means that this process was suspended."""


class AnswerWatch:
    """Notices that workers wait for an answer of their service. `clock` is monotonic, in s."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._silent_s: dict[int, float] = {}
        self._say_at_s = UNANSWERED_S
        self._looked_at = clock()

    def heard(self, trial: int) -> None:
        """Take note that the worker of a running trial has just reported."""
        self._silent_s[trial] = 0.0

    def forget(self, trial: int) -> None:
        """Take note that a trial runs no more."""
        self._silent_s.pop(trial, None)

    def look(self) -> None:
        """Say which trials wait for an answer, if it is time to."""
        now = self._clock()
        passed_s, self._looked_at = min(now - self._looked_at, LONGEST_LOOK_S), now
        for trial in self._silent_s:
            self._silent_s[trial] += passed_s
        silent = {trial: silent_s for trial, silent_s in self._silent_s.items() if silent_s >= UNANSWERED_S}
        if not silent:
            self._say_at_s = UNANSWERED_S
        elif (longest_s := max(silent.values())) >= self._say_at_s:
            self._say_at_s = longest_s + UNANSWERED_AGAIN_S
            words = "a run that has begun goes on there"
            self._say(f"{_trials(sorted(silent))} has waited {longest_s:.0f} s for an answer of the service; {words}")


LOOK_AGAIN_S = 3.0
"""How often to look whether a measurement waits."""

REPEAT_WAIT_S = 60.0


class MeasurementWatch:
    """Notices that measurements of trials wait, as for a judge that is down.

    `waits` returns why, or None. A trial in its own process cannot report while it measures.
    """

    def __init__(
        self,
        waits: Callable[[], Waiting | None],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._waits, self._say, self._clock = waits, say, clock
        self._look_at = clock()
        self._told: dict[str, float] = {}

    def look(self) -> bool:
        """Say why a measurement waits, if that is new or the wait has become much longer.

        Returns whether it said anything.
        """
        if self._clock() < self._look_at:
            return False
        self._look_at = self._clock() + LOOK_AGAIN_S
        wait = self._waits()
        if wait is None or wait.until < self._told.get(wait.reason, 0.0) + REPEAT_WAIT_S:
            return False
        self._told[wait.reason] = wait.until
        self._say(f"a measurement waits until {moment(wait.until, time.time())}: {wait.reason}")
        return True


def _trials(numbers: Sequence[int]) -> str:
    more = f" (and {len(numbers) - 1} more)" if len(numbers) > 1 else ""
    return f"trial {numbers[0]}{more}"
