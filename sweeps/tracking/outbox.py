"""A background thread that writes projections run by run, and retries while the receiver is
unreachable.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import islice
from typing import TypeAlias

from sweeps.tracking.projection import Point, Projection

PAUSE_S = 1.0
"""The pause between two rounds. Changes that arrive during it are written together."""

GROUP = 50
"""How many runs are taken out together, so that new ones can be written in one transaction."""

FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 15.0

MOST_POINTS = 1_000_000
"""The most points that wait, some 200 MB.

Beyond it, a run's oldest points are dropped and noted.
"""

NOTICE_S, NOTICE_INTERVAL_S = 2.0, 10.0
"""When `close` first says that it waits, and how often it says it again."""

SAID_AWAY_S = 1.0
"""An outage is said once it has lasted for this long, counted from the write that failed first."""

Waiting: TypeAlias = Projection | Callable[[], Projection]


class UnreachableError(Exception):
    """The receiver did not answer, or is out of order. The same write may succeed later."""


class RejectedError(Exception):
    """The receiver will never accept this write."""


def _write_one_by_one(_projections: Mapping[str, Projection]) -> None:
    """Write nothing together."""


class Outbox:
    """Accepts projections of runs at once and writes them later, in the order of the first waiting
    change.

    `write(key, projection)` raises UnreachableError or RejectedError. After an error it is called
    again with what it left in the projection, so each part of a write must be idempotent.
    `write_together(projections)` is called before, and takes from the projections what it can
    write at once; it raises nothing. Both are called on one thread only.
    """

    def __init__(
        self,
        write: Callable[[str, Projection], None],
        name: str,
        write_together: Callable[[Mapping[str, Projection]], None] = _write_one_by_one,
        say: Callable[[str], None] = lambda message: None,
    ) -> None:
        """`say` receives a sentence when the receiver is away, and when it is back."""
        self._write = write
        self._write_together = write_together
        self._say = say
        self._away_since: float | None = None
        self._said_away = False
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, Waiting] = OrderedDict()
        self._writing: dict[str, None] = {}
        self._rejected: dict[str, None] = {}
        self._closing = False
        self._abandoned = False
        self._points = 0
        self._problems: dict[str, None] = {}
        self._unreachable: str | None = None
        self._succeeded_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start to write."""
        self._thread.start()

    def put(self, key: str, projection: Projection) -> None:
        """Accept a change of the run `key`. Returns at once."""
        with self._changed:
            self._points += len(projection.points)
            waiting = self._waiting.get(key)
            if callable(waiting):
                waiting = self._waiting[key] = waiting()
                self._points += len(waiting.points)
            if waiting is None:
                self._waiting[key] = projection
            else:
                waiting.add(projection)
            if self._points > MOST_POINTS:
                self._drop_oldest(key)
            self._changed.notify()

    def put_lazily(self, key: str, make: Callable[[], Projection]) -> None:
        """Accept a change that `make` builds when its turn comes, so that no copy of it waits.

        It replaces what waits for this run.
        """
        with self._changed:
            replaced = self._waiting.get(key)
            self._points -= len(replaced.points) if isinstance(replaced, Projection) else 0
            self._waiting[key] = make
            self._changed.notify()

    def close(self, timeout_s: float, unreachable_s: float, say: Callable[[str], None] = lambda message: None) -> bool:
        """Write what waits, then end.

        Gives up `timeout_s` after the last write that succeeded, or `unreachable_s` after it if the
        receiver does not answer. Ctrl-C ends the waiting too. `say` receives sentences about the
        waiting. Returns whether everything was written. Idempotent.
        """
        began = time.monotonic()
        told_at = began + NOTICE_S - NOTICE_INTERVAL_S
        with self._changed:
            self._closing = True
            self._succeeded_at = max(self._succeeded_at, began)
            self._changed.notify()
        try:
            while self._thread.is_alive():
                self._thread.join(0.1)
                now = time.monotonic()
                stuck_s, unreachable = now - self._succeeded_at, self._unreachable
                limit_s = timeout_s if unreachable is None else unreachable_s
                if stuck_s > limit_s:
                    break
                if now - told_at > NOTICE_INTERVAL_S:
                    told_at = now
                    reason = f" ({unreachable})" if unreachable else ""
                    count = len(self._waiting) + len(self._writing)
                    say(f"waiting for MLflow, at most {limit_s - stuck_s:.0f} s: {count} runs are not written{reason}")
        except KeyboardInterrupt:
            say("stopped waiting for MLflow")
        with self._changed:
            return not self._waiting and not self._writing

    def abandon(self) -> None:
        """Write nothing any more, except for what is being written now.

        What a later process writes would otherwise be doubled. Idempotent.
        """
        with self._changed:
            self._abandoned = True
            self._changed.notify()

    def waits(self, key: str) -> bool:
        """Return whether a change of the run `key` waits to be written."""
        with self._changed:
            return key in self._waiting

    @property
    def unwritten(self) -> tuple[str, ...]:
        """The keys of the runs that the receiver does not have as they should be."""
        with self._changed:
            return tuple(dict.fromkeys((*self._rejected, *self._writing, *self._waiting)))

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be written, and what still waits because the receiver is unreachable."""
        with self._changed:
            still_waiting = [f"{self._unreachable} ({len(self._waiting)} runs wait)"] if self._unreachable else []
            return (*self._problems, *still_waiting)

    def note(self, problem: str) -> None:
        """Remember that something could not be written."""
        with self._changed:
            self._problems[problem] = None

    def _run(self) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing or self._abandoned)
                if not self._waiting or self._abandoned:
                    return
                left = len(self._waiting)
            while left > 0 and not self._abandoned:
                left -= GROUP
                if self._write_group():
                    retry_s = FIRST_RETRY_S
                else:
                    self._sleep(retry_s, even_if_closing=True)
                    retry_s = min(2 * retry_s, LONGEST_RETRY_S)
                    break
            else:
                self._sleep(PAUSE_S)

    def _write_group(self) -> bool:
        """Write the runs that have waited longest. Returns whether the receiver answered."""
        with self._changed:
            waiting = {key: self._waiting.pop(key) for key in list(islice(self._waiting, GROUP))}
            self._points -= sum(len(change.points) for change in waiting.values() if isinstance(change, Projection))
            self._writing = dict.fromkeys(waiting)
        group: dict[str, Projection] = {}
        for key, change in waiting.items():
            try:
                group[key] = change() if callable(change) else change
            except Exception as error:  # noqa: BLE001 - a bug here must not end a sweep; it is noted
                self._reject(key, error)
        self._write_together(group)
        for key, projection in group.items():
            if self._abandoned or not self._write_one(key, projection):
                self._put_back(group, failed=key)
                return False
        return True

    def _write_one(self, key: str, projection: Projection) -> bool:
        unreachable: str | None = None
        began = time.monotonic()
        try:
            self._write(key, projection)
        except UnreachableError as error:
            unreachable = str(error)
        except Exception as error:  # noqa: BLE001 - a bug here must not end a sweep; it is noted
            self._reject(key, error)
        with self._changed:
            self._unreachable = unreachable
            if unreachable is None:
                self._succeeded_at = time.monotonic()
                self._writing.pop(key, None)
            is_closing = self._closing
        self._tell_whether_away(unreachable, began, is_closing=is_closing)
        return unreachable is None

    def _tell_whether_away(self, unreachable: str | None, began: float, *, is_closing: bool) -> None:
        """Say once per outage that it has begun, if it lasts, and that it is over.

        `began` is when the last write began.
        """
        if unreachable is None:
            if self._said_away:
                self._say("MLflow answers again")
            self._away_since, self._said_away = None, False
            return
        self._away_since = began if self._away_since is None else self._away_since
        if not self._said_away and not is_closing and time.monotonic() - self._away_since >= SAID_AWAY_S:
            self._said_away = True
            self._say(f"{unreachable}; the study has everything, and MLflow gets the rest once it answers")

    def _reject(self, key: str, error: Exception) -> None:
        self.note(str(error) if isinstance(error, RejectedError) else f"{type(error).__name__}: {error}")
        with self._changed:
            self._rejected[key] = None
            self._writing.pop(key, None)

    def _put_back(self, group: Mapping[str, Projection], failed: str) -> None:
        """Let the unwritten runs of a group wait again, as the first ones.

        The failed one waits as the last one, so that it does not hold up the others.
        """
        with self._changed:
            for key in reversed(list(self._writing)):
                later = self._waiting.pop(key, None)
                projection = group[key]
                self._points += len(projection.points)
                if isinstance(later, Projection):  # its points are counted already
                    projection.add(later)
                self._waiting[key] = projection
                self._waiting.move_to_end(key, last=key == failed)
            self._writing = {}

    def _sleep(self, seconds: float, *, even_if_closing: bool = False) -> None:
        until = time.monotonic() + seconds
        with self._changed:
            while (left := until - time.monotonic()) > 0 and not self._abandoned:
                if self._closing and not even_if_closing:
                    return
                self._changed.wait(min(left, 0.5) if even_if_closing else left)

    def _drop_oldest(self, key: str) -> None:
        projection = self._waiting[key]
        if not isinstance(projection, Projection):
            return
        kept: list[Point] = projection.points[len(projection.points) // 2 :]
        self._points -= len(projection.points) - len(kept)
        projection.points = kept
        self._rejected[key] = None
        self._problems["MLflow was unreachable for so long that early values of some runs were dropped"] = None
