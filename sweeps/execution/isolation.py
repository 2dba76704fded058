"""A worker that is cut off from its cluster ends itself, before another takes up its run."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import ray

CUT_OFF_S = 20.0
"""After this long without an answer of Ray's control service a worker is cut off. Ray declares a
machine dead that does not answer after 5 checks of up to 13 s, so the worker has ended by then."""

ASK_EVERY_S = 3.0


class IsolationGuard:
    """Asks the control service again and again, and calls `end` once it has been silent too long.

    `ask` returns whether this machine is still a member of the cluster. It may block or raise. A
    machine that Ray has declared dead is cut off, too.
    """

    def __init__(
        self, ask: Callable[[], bool], end: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask, self._end, self._clock = ask, end, clock
        self._heard_at = clock()
        self._is_member = True

    def ask_once(self) -> None:
        """Ask, and remember the answer."""
        try:
            is_member = self._ask()
        except (ray.exceptions.RayError, OSError, RuntimeError):  # no answer
            return
        self._is_member = is_member
        self._heard_at = self._clock()

    def check(self) -> None:
        """End the worker if it is cut off."""
        if not self._is_member:
            self._end("Ray has declared this machine dead")
        elif self._clock() - self._heard_at > CUT_OFF_S:
            self._end(f"no answer of Ray's control service for {CUT_OFF_S:.0f} s")

    def start(self) -> None:
        """Do both for the rest of the process, on threads of their own, as `ask` may block."""
        threading.Thread(target=self._repeat, args=(self.ask_once,), name="isolation-ask", daemon=True).start()
        threading.Thread(target=self._repeat, args=(self.check,), name="isolation-check", daemon=True).start()

    def _repeat(self, action: Callable[[], None]) -> None:
        while True:
            action()
            time.sleep(ASK_EVERY_S)


def guard_this_worker() -> None:
    """End this worker process once it is cut off from the cluster."""
    node = ray.get_runtime_context().get_node_id()

    def is_member() -> bool:
        return any(known["NodeID"] == node and known["Alive"] for known in ray.nodes())  # type: ignore[no-untyped-call]

    def end(reason: str) -> None:
        os.write(2, f"\nsweep worker: {reason}, so another machine may take up its run\n".encode())
        os._exit(70)

    IsolationGuard(is_member, end).start()
