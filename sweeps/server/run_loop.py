"""Driving one run of a backend to its end: the same loop in a thread of the server and in a worker process."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from backends import codec
from backends.contract import (
    TERMINAL_EVENTS,
    Backend,
    BackendError,
    Checkpointed,
    Event,
    Failure,
    FailureKind,
    TrainingRequest,
)

PATIENCE_S = 900.0
"""How long an operation is repeated that fails in passing; the last server's trainer may still hold the run."""

_LONGEST_PAUSE_S = 15.0

Message: TypeAlias = dict[str, Any]
"""What a run tells, JSON-able, by its `kind`: `refused`, `submitted`, `heard`, `left`, `broken`."""

_Answer = TypeVar("_Answer")


@dataclass
class Control:
    """How the server speaks to a run: end it (`stop`), or leave it where it is (`leave`)."""

    stop: threading.Event = field(default_factory=threading.Event)
    leave: threading.Event = field(default_factory=threading.Event)
    changed: threading.Event = field(default_factory=threading.Event)

    def ask_stop(self) -> None:
        """Ask for the run's end."""
        self.stop.set()
        self.changed.set()

    def ask_leave(self) -> None:
        """Ask to leave the run alone: a later one goes on with it."""
        self.leave.set()
        self.changed.set()

    def pause(self, seconds: float) -> None:
        """Wait, unless something is asked for."""
        if self.changed.wait(seconds):
            self.changed.clear()


class _Left(Exception):  # noqa: N818  no error: it was asked for
    pass


def follow(
    backend: Backend,
    request: TrainingRequest,
    after: int,
    control: Control,
    report: Callable[[Message], object],
    keep: Path,
) -> None:
    """Submit or adopt the run and report its events from number `after` on, until it ends or is left.

    A checkpoint that is a folder is copied below `keep` before training goes on, because trainers write the next one
    over it. Raises nothing: what goes wrong is reported, by the kind of failure.
    """
    try:
        if not after and (failures := backend.check(request)):
            report({"kind": "refused", "failures": [codec.to_json(failure) for failure in failures]})
            return
        handle = _patient(control, lambda: backend.submit(request), waits_for_room=True)
        report({"kind": "submitted", "handle": codec.to_json(handle)})
        stopped = False
        while not control.leave.is_set():
            if control.stop.is_set() and not stopped:
                _patient(control, lambda: backend.stop(handle))
                stopped = True
            events = _patient(control, partial(backend.events, handle, after))
            if events:
                copies = _copied(events, keep)
                told = [codec.to_json(event) for event in events]
                report({"kind": "heard", "after": after, "events": told, "copies": copies})
                after += len(events)
                if isinstance(events[-1], TERMINAL_EVENTS):
                    return
            elif not backend.capabilities.in_process:
                control.pause(max(0.02, backend.capabilities.poll_s))
        report({"kind": "left"})
    except _Left:
        report({"kind": "left"})
    except BackendError as error:
        report({"kind": "broken", "failure": codec.to_json(error.failure)})
    except OSError as error:
        failure = Failure(FailureKind.TRANSIENT, f"the disk refuses: {error.strerror or error}")
        report({"kind": "broken", "failure": codec.to_json(failure)})


def _patient(control: Control, operation: Callable[[], _Answer], *, waits_for_room: bool = False) -> _Answer:
    """Repeat what fails in passing, ever more slowly; a full service is waited for without end.

    Raises _Left where the run is to be left meanwhile.
    """
    pause_s, deadline = 0.1, time.monotonic() + PATIENCE_S
    while True:
        try:
            return operation()
        except BackendError as error:
            full = waits_for_room and error.failure.kind is FailureKind.QUOTA
            if not full and (error.failure.kind is not FailureKind.TRANSIENT or time.monotonic() > deadline):
                raise
        if control.leave.is_set():
            raise _Left
        control.pause(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _copied(events: Sequence[Event], keep: Path) -> dict[str, str]:
    """Copy the checkpoints that are folders; return where each step's copy is.

    Of several checkpoints under one name only the last one is still what it was.
    """
    last = {event.model: event for event in events if isinstance(event, Checkpointed)}
    copies = {}
    for each in last.values():
        source = Path(each.model)
        if not source.is_dir():
            continue
        target = keep / f"step-{each.step}"
        temporary = target.with_name(f"{target.name}.tmp")
        for old in (temporary, target):
            if old.exists():
                shutil.rmtree(old)
        keep.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, temporary)
        temporary.rename(target)
        copies[str(each.step)] = str(target)
    return copies
