"""The lease of a study in a shared database: at most one process, on any machine, runs a sweep.

A journal file needs none: the lock of the sweep's folder protects it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import optuna

from backends import codec
from sweeps.errors import SweepError
from sweeps.process_identity import Process, boot_id, this_process
from sweeps.spec.objective import Objective
from sweeps.study import attributes
from sweeps.study.storage import close_storage, open_storage

LEASE_S = 30.0
"""A process that has not renewed its lease for this long is dead."""

RENEW_EVERY_S = 5.0

CONTEST_S = 1.0
"""After this pause, of two processes that took a free lease at once only the later one has it."""

_POLL_S = 1.0


@dataclass(frozen=True)
class Holder:
    """The process that runs a sweep, as the database names it.

    `token` identifies the run, and `renewals` grows as long as the process lives. `renewed_at`
    (seconds since the Unix epoch, by the clock of that machine) is only for people.
    """

    token: str
    host: str
    process: Process
    boot: str
    renewals: int = 0
    renewed_at: float = 0.0

    @property
    def is_gone_from_here(self) -> bool:
        """Whether it was a process of this machine, and does not run any more."""
        return self.host == socket.gethostname() and (self.boot != boot_id() or not self.process.is_alive)

    def __str__(self) -> str:
        return f"process {self.process.pid} on {self.host}"


class StudyLease:
    """The attribute of a study that names the process that runs it.

    Other machines judge by their own monotonic clocks whether the holder still renews it, so their
    times of day need not agree.
    """

    def __init__(
        self,
        storage: optuna.storages.BaseStorage,
        study_id: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._storage, self._study_id = storage, study_id
        self._clock, self._sleep = clock, sleep
        self._own = Holder(uuid.uuid4().hex, socket.gethostname(), this_process(), boot_id())

    def holder(self) -> Holder | None:
        """Return the process that holds the lease, alive or not; None after it was released."""
        stored = self._storage.get_study_user_attrs(self._study_id).get(attributes.LEASE)
        return codec.from_json(Holder | None, stored)

    def acquire(self, say: Callable[[str], None]) -> None:
        """Take the lease. Waits up to `LEASE_S` for the lease of a process that may be dead.

        Raises SweepError if another process runs the sweep.
        """
        known, seen_at = self.holder(), self._clock()
        if known is not None and not known.is_gone_from_here:
            say(f"{known} may still run this sweep: waiting up to {LEASE_S:g} s for a sign of life")
            while self._clock() - seen_at < LEASE_S:
                self._sleep(_POLL_S)
                current = self.holder()
                if current is None:
                    break
                if current != known:
                    raise _already_running(current)
        self._store(self._own)
        self._sleep(CONTEST_S)
        current = self.holder()
        if current is None or current.token != self._own.token:
            raise _already_running(current or self._own)

    def renew(self) -> bool:
        """Show that this process lives. Returns False if another process has taken the lease."""
        current = self.holder()
        if current is None or current.token != self._own.token:
            return False
        self._store(replace(current, renewals=current.renewals + 1))
        return True

    def release(self) -> None:
        """Give the lease back, if this process still has it."""
        current = self.holder()
        if current is not None and current.token == self._own.token:
            self._storage.set_study_user_attr(self._study_id, attributes.LEASE, None)

    def _store(self, holder: Holder) -> None:
        value = codec.to_json(replace(holder, renewed_at=time.time()))
        self._storage.set_study_user_attr(self._study_id, attributes.LEASE, value)


@contextlib.contextmanager
def leased(
    location: str | Path,
    study_name: str,
    objectives: Sequence[Objective],
    say: Callable[[str], None],
    stop_sweep: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGINT),
) -> Iterator[None]:
    """Hold the lease of a study in a database during the block; do nothing for a journal file.

    If another process takes the lease, or it cannot be renewed for `LEASE_S`, `stop_sweep` is
    called, so that the sweep stops cleanly, and the block ends with a SweepError. Raises SweepError
    if another process runs the sweep.
    """
    if isinstance(location, Path):
        yield
        return
    storage = open_storage(location)
    with contextlib.suppress(optuna.exceptions.DuplicatedStudyError):
        directions = [optuna.study.StudyDirection[objective.direction.upper()] for objective in objectives]
        storage.create_new_study(directions, study_name)
    lease = StudyLease(storage, storage.get_study_id_from_name(study_name))
    lease.acquire(say)
    ended, lost = threading.Event(), threading.Event()

    def renew_repeatedly() -> None:
        renewed_at = time.monotonic()
        while not ended.wait(RENEW_EVERY_S):
            try:
                if lease.renew():
                    renewed_at = time.monotonic()
                    continue
            except SweepError:
                if time.monotonic() - renewed_at < LEASE_S - RENEW_EVERY_S:
                    continue
            lost.set()
            stop_sweep()
            return

    thread = threading.Thread(target=renew_repeatedly, name="study-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if lost.is_set():
            raise SweepError(
                f"this process lost sweep `{study_name}`: the database was away for {LEASE_S:g} s, or another"
                " process took over",
                "run the same command again: it resumes where the sweep stopped",
            )
        with contextlib.suppress(SweepError):
            lease.release()
        close_storage(storage)


def _already_running(holder: Holder) -> SweepError:
    return SweepError(
        f"{holder} is already running this sweep", "wait for it, stop it there, or give this sweep another `name:`"
    )
