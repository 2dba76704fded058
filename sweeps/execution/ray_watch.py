"""Watches whether Ray still lives, so that a lost Ray ends the sweep in one sentence.

Ray's own code waits for a lost head for a minute and then ends the process without a word. A lost
raylet, its process on this machine, leaves the driver waiting for minutes.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

import ray

from sweeps.errors import SweepError

LOOK_EVERY_S = 1.0
"""Time between two looks at Ray."""

CONNECT_TIMEOUT_S = 2.0

LOST_LOOKS = 4
"""A process of Ray on this machine is lost after this many looks in a row without an answer."""

LOST_CLUSTER_S = 60.0
"""The head of a cluster may be restarted, so the sweep waits longer for it, and says so."""

WAKE_SIGNAL = signal.SIGUSR2
"""Interrupts the main thread. Tune itself takes SIGUSR1."""

UNWIND_TIMEOUT_S = 15.0
"""How long the main thread may take to leave Ray's code before the process is ended."""

RESUME_HINT = "run the same command again: every result is recorded, and running trials resume"

_LOG = logging.getLogger("sweeps")


class RayLostError(BaseException):
    """Raised in the main thread once Ray is lost.

    Not an Exception, so that Tune does not try to clean up a Ray that is no more.
    """


@dataclass(frozen=True)
class Endpoint:
    """A process of Ray that listens at an address: what it is in words, and where.

    It is lost after `LOST_LOOKS` looks in a row and `patience_s` without an answer.
    """

    title: str
    host: str
    port: int
    patience_s: float = 0.0

    def answers(self) -> bool:
        """Return whether something accepts a connection there."""
        try:
            with socket.create_connection((self.host, self.port), timeout=CONNECT_TIMEOUT_S):
                return True
        except OSError:
            return False


class RayWatch:
    """Looks at Ray's head and at the raylet of this machine from a thread of its own.

    `lost` is None while both answer.
    """

    def __init__(
        self, endpoints: tuple[Endpoint, ...], *, say: Callable[[str], None], on_lost: Callable[[], None]
    ) -> None:
        self.lost: SweepError | None = None
        self._endpoints = endpoints
        self._say, self._on_lost = say, on_lost
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ray-watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking. Idempotent."""
        self._ended.set()

    def _run(self) -> None:
        misses = dict.fromkeys(self._endpoints, 0)
        silent_s = dict.fromkeys(self._endpoints, 0.0)
        looked_at = time.monotonic()
        while not self._ended.wait(LOOK_EVERY_S):
            for endpoint in self._endpoints:
                answers = endpoint.answers()
                misses[endpoint] = 0 if answers else misses[endpoint] + 1
            now = time.monotonic()
            # A look counts no more than it can take: a process that was suspended has missed none.
            passed_s = min(now - looked_at, LOOK_EVERY_S + len(self._endpoints) * CONNECT_TIMEOUT_S)
            looked_at = now
            for endpoint in self._endpoints:
                silent_s[endpoint] = silent_s[endpoint] + passed_s if misses[endpoint] else 0.0
                left_s = endpoint.patience_s - silent_s[endpoint]
                if misses[endpoint] == LOST_LOOKS and left_s > 0:
                    self._say(f"{endpoint.title} does not answer; waiting up to {left_s:.0f} s for it")
                if misses[endpoint] >= LOST_LOOKS and left_s <= 0 and not self._ended.is_set():
                    self.lost = SweepError(f"{endpoint.title} is gone", RESUME_HINT)
                    _LOG.error("%s at %s:%d is gone", endpoint.title, endpoint.host, endpoint.port)
                    self._on_lost()
                    return


@contextmanager
def watched_ray(
    say: Callable[[str], None], on_error: Callable[[SweepError], None], abandon: Callable[[], None]
) -> Iterator[None]:
    """Watch the connected Ray during the block.

    Once Ray is lost, `on_error` receives the error from the thread of the watch. The main thread is
    then interrupted, and any other thread ends by itself; the block raises the error. A main thread
    that cannot leave Ray's code in time is ended together with the process, after `abandon` has
    removed what Ray left: every result is recorded, and Ray would do the same later and without a
    word.
    """
    unwound = threading.Event()
    in_main_thread = threading.current_thread() is threading.main_thread()

    def on_lost() -> None:
        assert watch.lost is not None
        on_error(watch.lost)
        if not in_main_thread:
            return
        with suppress(ProcessLookupError):
            signal.pthread_kill(threading.main_thread().ident or 0, WAKE_SIGNAL)
        if not unwound.wait(UNWIND_TIMEOUT_S):
            say(f"error: {watch.lost.message}\n  {watch.lost.hint[0].upper()}{watch.lost.hint[1:]}")
            abandon()
            os._exit(1)

    def raise_lost(number: int, frame: FrameType | None) -> None:
        if not unwound.is_set() and watch.lost is not None:
            raise RayLostError

    watch = RayWatch(_endpoints(), say=say, on_lost=on_lost)
    previous = signal.signal(WAKE_SIGNAL, raise_lost) if in_main_thread else None
    try:
        watch.start()
        yield
    except BaseException as error:
        if watch.lost is not None:  # Ray's own code turns RayLostError into others
            raise watch.lost from error
        raise
    finally:
        unwound.set()
        watch.stop()
        if in_main_thread:
            signal.signal(WAKE_SIGNAL, previous)


def _endpoints() -> tuple[Endpoint, ...]:
    """Return the processes of Ray that this driver needs."""
    node: Any = ray._private.worker._global_node
    if node is None:  # a client of a remote Ray, which has no process here
        return ()
    started_here = bool(node.all_processes)
    where = "of Ray on this machine" if started_here else f"of the Ray cluster at {node.gcs_address}"
    host, _, port = node.gcs_address.rpartition(":")
    patience_s = 0.0 if started_here else LOST_CLUSTER_S
    endpoints = [Endpoint(f"the head process {where}", host.strip("[]"), int(port), patience_s)]
    here = ray.get_runtime_context().get_node_id()
    for known in ray.nodes():  # type: ignore[no-untyped-call]
        if known["NodeID"] == here:
            title = "the process of Ray on this machine (the raylet)"
            address = (known["NodeManagerAddress"], known["NodeManagerPort"])
            endpoints.append(Endpoint(title, *address))
    return tuple(endpoints)
