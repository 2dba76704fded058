"""A background thread that writes projections run by run, and retries while the receiver is
unreachable.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from sweeps.tracking.projection import Point, Projection

PAUSE_S = 1.0
"""The pause between two rounds. Changes that arrive during it are written together."""

FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 15.0

MOST_POINTS = 1_000_000
"""The most points that wait, some 200 MB.

Beyond it, a run's oldest points are dropped and noted.
"""


class UnreachableError(Exception):
    """The receiver did not answer, or is out of order. The same write may succeed later."""


class RejectedError(Exception):
    """The receiver will never accept this write."""


class Outbox:
    """Accepts projections of runs at once and writes them later, in the order of the first waiting
    change.

    `write(key, projection)` raises UnreachableError or RejectedError, and is called on one thread
    only. After an error it is called again with what it left in the projection, so each part of a
    write must be idempotent.
    """

    def __init__(self, write: Callable[[str, Projection], None], name: str) -> None:
        self._write = write
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, Projection] = OrderedDict()
        self._writing = False
        self._closing = False
        self._points = 0
        self._problems: dict[str, None] = {}
        self._unreachable: str | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start to write."""
        self._thread.start()

    def put(self, key: str, projection: Projection) -> None:
        """Accept a change of the run `key`. Returns at once."""
        with self._changed:
            self._points += len(projection.points)
            waiting = self._waiting.get(key)
            if waiting is None:
                self._waiting[key] = projection
            else:
                waiting.add(projection)
            if self._points > MOST_POINTS:
                self._drop_oldest(key)
            self._changed.notify()

    def close(self, timeout_s: float, unreachable_s: float) -> bool:
        """Write what waits, then end.

        Gives up after `timeout_s`, or after `unreachable_s` if the receiver does not answer then.
        Returns whether everything was written. Idempotent.
        """
        began = time.monotonic()
        with self._changed:
            self._closing = True
            self._changed.notify()
        while self._thread.is_alive():
            self._thread.join(0.1)
            waited = time.monotonic() - began
            if waited > timeout_s or (waited > unreachable_s and self._unreachable is not None):
                break
        with self._changed:
            return not self._waiting and not self._writing

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
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                keys = list(self._waiting)
            for key in keys:
                if self._write_one(key):
                    retry_s = FIRST_RETRY_S
                else:
                    self._sleep(retry_s, even_if_closing=True)
                    retry_s = min(2 * retry_s, LONGEST_RETRY_S)
                    break
            else:
                self._sleep(PAUSE_S)

    def _write_one(self, key: str) -> bool:
        with self._changed:
            projection = self._waiting.pop(key)
            self._points -= len(projection.points)
            self._writing = True
        unreachable: str | None = None
        try:
            self._write(key, projection)
        except UnreachableError as error:
            unreachable = str(error)
        except RejectedError as error:
            self.note(str(error))
        except Exception as error:  # noqa: BLE001 - a bug here must not end a sweep; it is noted
            self.note(f"{type(error).__name__}: {error}")
        with self._changed:
            self._writing = False
            self._unreachable = unreachable
            if unreachable is not None:
                self._put_back(key, projection)
        return unreachable is None

    def _put_back(self, key: str, projection: Projection) -> None:
        later = self._waiting.pop(key, None)
        self._points += len(projection.points)
        if later is not None:
            projection.add(later)
        # at the end, so that a run that keeps failing does not hold up the others
        self._waiting[key] = projection

    def _sleep(self, seconds: float, *, even_if_closing: bool = False) -> None:
        until = time.monotonic() + seconds
        with self._changed:
            while (left := until - time.monotonic()) > 0 and (even_if_closing or not self._closing):
                self._changed.wait(min(left, 0.5) if even_if_closing else left)

    def _drop_oldest(self, key: str) -> None:
        projection = self._waiting[key]
        kept: list[Point] = projection.points[len(projection.points) // 2 :]
        self._points -= len(projection.points) - len(kept)
        projection.points = kept
        self._problems["the receiver was unreachable for so long that early values of some runs were dropped"] = None
