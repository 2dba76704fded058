"""A worker's backend in a sweep with a store: each run is taken from the store, and kept there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from backends.contract import TERMINAL_EVENTS, Backend, BackendError, Capabilities, Event, Handle, TrainingRequest
from backends.relocation import SupportsRelocation
from backends.waiting import SupportsWaiting, Waiting
from sweeps.errors import SweepError
from sweeps.execution.worker_files import RunFiles, WorkerFiles, as_backend_error

RETRY_STORE_S = 2.0
"""Time between two attempts to reach a store that is away."""

SHOWN_WAIT_S = 60.0
"""How far ahead the end of such a wait is shown; nobody knows it."""


class StoredRuns:
    """The part of a backend that a worker needs, for runs that train here and live in a store.

    While the store is away, or the disk of this machine is full, a run neither starts nor reports:
    `events` returns nothing, `waiting` says why, and training pauses at the next event. Nothing is
    lost then.
    """

    def __init__(self, backend: Backend, files: WorkerFiles, sleep: Callable[[float], None] = time.sleep) -> None:
        self.capabilities: Capabilities = backend.capabilities
        self._backend, self._files, self._sleep = backend, files, sleep
        self._requests: dict[str, TrainingRequest] = {}
        self._run: RunFiles | None = None
        self._unsaved: tuple[int, Sequence[Event]] | None = None
        self._waiting: Waiting | None = None

    @property
    def resumed_from(self) -> str | None:
        """The machine whose checkpoint the present run continues, or None."""
        return None if self._run is None else self._run.resumed_on

    def submit(self, request: TrainingRequest) -> Handle:
        """Prepare the run. Its files are fetched by the first call of `events`, which can wait."""
        self._close_run()
        if isinstance(self._backend, SupportsRelocation):
            handle = self._backend.run_of(request.key)
            self._requests = {handle.id: request}
            return handle
        try:
            self._run = self._files.begin(self._backend, request)
        except SweepError as error:
            raise as_backend_error(error) from error
        return self._run.handle

    def events(self, handle: Handle, after: int) -> Sequence[Event]:
        """Return new events once the store holds what they report; see the class."""
        try:
            if self._run is None:
                self._run = self._files.begin(self._backend, self._requests[handle.id])
            if self._unsaved is None or self._unsaved[0] != after:
                self._unsaved = after, self._backend.events(handle, after)
            events = self._run.after(self._unsaved[1])
        except (SweepError, OSError) as error:
            until = time.time() + SHOWN_WAIT_S if self._waiting is None else self._waiting.until
            self._waiting = Waiting(as_backend_error(error).failure.message, until)
            self._sleep(RETRY_STORE_S)
            return ()
        except BackendError:
            self._close_run()
            raise
        self._unsaved = self._waiting = None
        if events and isinstance(events[-1], TERMINAL_EVENTS):
            self._close_run()
        return events

    def waiting(self, handle: Handle) -> Waiting | None:
        """Return why the run pauses, or None."""
        if self._waiting is not None or not isinstance(self._backend, SupportsWaiting):
            return self._waiting
        return self._backend.waiting(handle)

    def stop(self, handle: Handle) -> None:
        """Stop the run here. What the store has of it stays until the driver discards it."""
        if self._run is not None and self._run.handle == handle:
            try:
                self._backend.stop(handle)
            finally:
                self._close_run()

    def _close_run(self) -> None:
        run, self._run, self._unsaved, self._waiting = self._run, None, None, None
        if run is not None:
            run.close()
