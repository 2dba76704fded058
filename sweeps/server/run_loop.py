"""The loop that drives one run of a backend, in a thread of the server or in a worker process."""

from __future__ import annotations

import itertools
import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

from backends.contract import (
    TERMINAL_EVENTS,
    Backend,
    BackendError,
    Checkpointed,
    Event,
    Failure,
    FailureKind,
    Handle,
    TrainingRequest,
)

_LOG = logging.getLogger("sweeps.server")

RETRY_FOR_S = 900.0
"""How long the loop retries an operation that fails temporarily.

The trainer of a previous server may still hold the run.
"""

_LONGEST_PAUSE_S = 15.0

_Result = TypeVar("_Result")


# ------------------------------------------------------------------------------------------ reports
@dataclass(frozen=True)
class RunRefused:
    """The backend does not accept the request. The last report."""

    failures: Sequence[Failure]
    kind: Literal["refused"] = field(default="refused", kw_only=True)


@dataclass(frozen=True)
class RunSubmitted:
    """The backend has accepted or adopted the run."""

    handle: Handle
    kind: Literal["submitted"] = field(default="submitted", kw_only=True)


@dataclass(frozen=True)
class EventsReported:
    """The backend's events numbered `first`, `first + 1`, ...; the last report if they end the run.

    `checkpoint_copies` maps the step of each copied checkpoint (as text) to the path of its copy.
    """

    first: int
    events: Sequence[Event]
    checkpoint_copies: Mapping[str, str]
    kind: Literal["events"] = field(default="events", kw_only=True)


@dataclass(frozen=True)
class RunDetached:
    """The loop has left the run where it is, as it was asked to. The last report."""

    kind: Literal["detached"] = field(default="detached", kw_only=True)


@dataclass(frozen=True)
class RunBroken:
    """The backend, or the disk, failed. The last report."""

    failure: Failure
    kind: Literal["broken"] = field(default="broken", kw_only=True)


RunReport: TypeAlias = RunRefused | RunSubmitted | EventsReported | RunDetached | RunBroken


# --------------------------------------------------------------------------------------------- loop
@dataclass
class RunControl:
    """How other threads control a run: they stop it for good, or detach from it until later."""

    stop: threading.Event = field(default_factory=threading.Event, init=False)
    detach: threading.Event = field(default_factory=threading.Event, init=False)
    _changed: threading.Event = field(default_factory=threading.Event, init=False)

    def request_stop(self) -> None:
        """Ask the loop to stop the run for good."""
        self.stop.set()
        self._changed.set()

    def request_detach(self) -> None:
        """Ask the loop to leave the run where it is; a later loop resumes it."""
        self.detach.set()
        self._changed.set()

    def pause(self, seconds: float) -> None:
        """Wait for some seconds, or until the next request."""
        if self._changed.wait(seconds) and not self.detach.is_set():
            self._changed.clear()


class Detached(Exception):  # noqa: N818  not an error
    """Another thread has asked to leave the run where it is."""


def drive_run(
    backend: Backend,
    request: TrainingRequest,
    first_event: int,
    control: RunControl,
    report: Callable[[RunReport], object],
    checkpoints_folder: Path,
) -> None:
    """Submit or adopt a run, and report its events until it ends or is detached.

    The first event to report is number `first_event`. A checkpoint that is a folder is copied into
    `checkpoints_folder` before training continues, because the trainers overwrite it with the next
    one. Raises nothing: failures are reported.
    """
    try:
        if not first_event and (failures := backend.check(request)):
            report(RunRefused(failures))
            return
        handle = retry(control, lambda: backend.submit(request), wait_for_quota=True)
        report(RunSubmitted(handle))
        is_stopped = False
        while not control.detach.is_set():
            if control.stop.is_set() and not is_stopped:
                retry(control, lambda: backend.stop(handle))
                is_stopped = True
            events = retry(control, partial(backend.events, handle, first_event))
            if events:
                copies = retry(control, partial(_copy_checkpoints, events, checkpoints_folder))
                report(EventsReported(first_event, events, copies))
                first_event += len(events)
                if isinstance(events[-1], TERMINAL_EVENTS):
                    return
            elif not backend.capabilities.in_process:
                control.pause(max(0.02, backend.capabilities.poll_s))
        report(RunDetached())
    except Detached:
        report(RunDetached())
    except BackendError as error:
        report(RunBroken(error.failure))
    except OSError as error:
        report(RunBroken(Failure(FailureKind.TRANSIENT, f"a file operation failed: {error.strerror or error}")))


def retry(control: RunControl, operation: Callable[[], _Result], *, wait_for_quota: bool = False) -> _Result:
    """Return the operation's result. Repeat it while it fails temporarily.

    The pauses get longer and longer. `wait_for_quota`: also repeat it, without end, while the
    service has no room. Raises BackendError for any other failure and after `RETRY_FOR_S`, and
    Detached if another thread asks to detach meanwhile.
    """
    pause_s, deadline = 0.1, time.monotonic() + RETRY_FOR_S
    for attempt in itertools.count(1):
        try:
            return operation()
        except BackendError as error:
            has_no_room = wait_for_quota and error.failure.kind is FailureKind.QUOTA
            may_retry = error.failure.kind is FailureKind.TRANSIENT and time.monotonic() <= deadline
            if not has_no_room and not may_retry:
                raise
            if attempt & (attempt - 1) == 0:  # 1, 2, 4, 8, ...: neither silent nor a flood
                _LOG.warning("attempt %d failed, the server tries again: %s", attempt, error)
        if control.detach.is_set():
            raise Detached
        control.pause(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    raise AssertionError("the loop has no end")


def _copy_checkpoints(events: Sequence[Event], folder: Path) -> dict[str, str]:
    """Copy the checkpoints that are folders. Return the path of the copy by step.

    If several checkpoints have the same path, only the last of them is still there to copy. A copy
    of another one remains from an earlier server that ended before it could report the copy. Raises
    BackendError (transient) if the disk is full, for example.
    """
    checkpoints = [event for event in events if isinstance(event, Checkpointed)]
    last_at_path = {event.model: event for event in checkpoints}
    copies = {}
    try:
        for checkpoint in checkpoints:
            source, target = Path(checkpoint.model), folder / f"step-{checkpoint.step}"
            if last_at_path[checkpoint.model] is checkpoint and source.is_dir():
                _copy_folder(source, target)
            if source.is_absolute() and target.is_dir():
                copies[str(checkpoint.step)] = str(target)
    except OSError as error:
        message = f"cannot copy a checkpoint: {error.strerror or error}"
        raise BackendError(Failure(FailureKind.TRANSIENT, message)) from error
    return copies


def _copy_folder(source: Path, target: Path) -> None:
    """Copy a folder. Under the name of the target is the complete copy, or nothing."""
    temporary = target.with_name(f"{target.name}.tmp")
    for leftover in (temporary, target):
        if leftover.exists():
            shutil.rmtree(leftover)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, temporary)
    temporary.rename(target)
