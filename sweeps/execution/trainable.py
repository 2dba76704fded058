"""The Tune Trainable: drives a backend through trials, with one result per evaluation."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import ray
from ray import tune

from backends import codec, credentials, foreign_errors, registry
from backends.contract import (
    Backend,
    BackendError,
    Event,
    Failed,
    Failure,
    FailureKind,
    Finished,
    Handle,
    Measured,
    Placement,
    Started,
    Stopped,
    TrainingRequest,
)
from backends.guarded_backend import failure_of, open_guarded
from backends.waiting import SupportsWaiting, Waiting
from sweeps.errors import SweepError
from sweeps.execution import isolation, last_words, rank_group
from sweeps.execution.stored_runs import StoredRuns
from sweeps.execution.worker_files import FilesSettings, WorkerFiles, as_backend_error

REPORT_INTERVAL_S = 2.0
"""The longest time between two results, so that progress shows and a stop takes effect in the
middle of an epoch."""

STOP_AGAIN_S = 30.0
"""Time between two attempts to stop a run that its service could not stop."""

CONTACT_TIMEOUT_S = 900.0
"""How long a worker follows a run whose service answers with passing errors only."""

MAX_CONTACT_PAUSE_S = 30.0
"""The longest time between two attempts to reach that service."""

_LOG = logging.getLogger("sweeps")


@dataclass(frozen=True)
class WorkerReport:
    """What a worker tells the driver with one result.

    `events` are numbered from `first`. `unreachable` is why the worker cannot follow a run that
    continues at its service. `unfollowed` is why the worker gave up a run that may go on: an error
    in the code of the backend. `waiting` is set while the run pauses. `traceback` is that of an
    exception in the code of the backend. `memory_bytes` is what the worker process occupies. `node`
    is the identity of its machine in Ray, and `resumed_from` the machine whose checkpoint the run
    continues.
    """

    first: int
    events: tuple[Event, ...]
    handle: Handle | None = None
    unreachable: Failure | None = None
    unfollowed: Failure | None = None
    waiting: Waiting | None = None
    traceback: str = ""
    memory_bytes: int | None = None
    node: str = ""
    resumed_from: str | None = None


@cache
def _backend(
    backend_type: str, options: str, workspace: str, placement: Placement, files: FilesSettings | None
) -> Backend | StoredRuns:
    """Open the backend once per worker process, so that a loaded model serves all its trials.

    With a store it works in a folder of this machine instead of `workspace`.
    """
    # The secrets come from the worker's own environment, so that none travels through Ray.
    credentials.use_secrets_from(os.environ)
    last_words.record_exits()
    try:
        backend = registry.load(backend_type)
        settings = backend.options_model.model_validate_json(options)
    except (registry.RegistryError, ValueError) as error:
        place = f"the worker on {os.uname().nodename} cannot open the backend"
        hint = "Install the same version of finesweep and of the backend on every machine."
        raise BackendError(Failure(FailureKind.USER, f"{place}: {foreign_errors.in_one_line(error)}", hint)) from error
    if files is None:
        return open_guarded(backend, settings, Path(workspace), placement)
    try:
        worker_files = WorkerFiles(files)
    except (SweepError, OSError) as error:
        raise as_backend_error(error) from error
    isolation.guard_this_worker()
    opened = open_guarded(backend, settings, worker_files.workspace, placement)
    return StoredRuns(opened, worker_files)


def _open_part(backend_type: str, options: str, workspace: str, placement: Placement) -> Backend:
    """Open the backend for a part of a trial on another machine."""
    opened = _backend(backend_type, options, workspace, placement, None)
    assert not isinstance(opened, StoredRuns)
    return opened


class TrialRunner(tune.Trainable):
    """Runs the trial that `config` describes.

    Tune reuses the process for the next trial through `reset_config`. `config` is the result of
    `_shared_config` in the engine, with more entries for each trial: `request`, the training
    request as JSON text, `may_be_stopped`, whether a scheduler may stop the trial early, and
    `nodes`, the machines of a cluster on which it may train, as Ray calls them, or None. It trains
    on as many `machines` at once. `passed_evaluations` is for the scheduler.

    A result holds `report` (a `WorkerReport` as JSON text), the number of `evaluations` so far, and
    `ended`, whether the run has ended. After an evaluation it also holds `objective`, the value of
    the first objective, by which schedulers stop trials. A trial that no scheduler may stop never
    has it.
    """

    _backend: Backend | StoredRuns
    _unstopped: tuple[tuple[Backend | StoredRuns, Handle], ...] = ()
    """The runs that this process no longer follows and that its service could not stop yet."""
    _stop_again_at = 0.0

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Return what the trial occupies, and on which machines. Tune asks for each trial."""
        bundles = [config["resources"]] * config["machines"]
        strategy = "STRICT_SPREAD" if config["machines"] > 1 else "PACK"
        if config["nodes"] is None:
            return tune.PlacementGroupFactory(bundles, strategy=strategy)
        nodes = {"ray.io/node-id": f"in({','.join(config['nodes'])})"}
        return tune.PlacementGroupFactory(bundles, strategy=strategy, bundle_label_selector=[nodes] * len(bundles))

    def setup(self, config: dict[str, Any]) -> None:
        """Submit the run, or adopt it if the backend already knows its key."""
        self._node = str(ray.get_runtime_context().get_node_id())
        self._metric = str(config["metric"])
        self._may_be_stopped = bool(config["may_be_stopped"])
        self._next_event = self._evaluations = 0
        self._objective = float("nan")
        self._epochs = float("inf")
        self._handle: Handle | None = None
        self._ended = False
        self._unreachable: Failure | None = None
        self._unfollowed: Failure | None = None
        self._contact_errors = 0
        self._poll_again_at = 0.0
        self._contact_deadline = 0.0
        self._contact_lost: Waiting | None = None
        self._submit_error: BackendError | None = None
        self._ranks: rank_group.RankGroup | None = None
        self._traceback = ""
        try:
            files = None if config["files"] is None else FilesSettings(**config["files"])
            placement = rank_group.first_placement(config["cpus"], config["gpus"], config["machines"])
            place = (config["backend"], config["options"], config["workspace"])
            self._backend = _backend(*place, placement, files)
            self._handle = self._backend.submit(codec.from_json(TrainingRequest, json.loads(config["request"])))
            if placement.nodes > 1:
                open_part = partial(_open_part, *place)
                self._ranks = rank_group.RankGroup(open_part, placement, config["request"])
        except BackendError as error:
            self._submit_error = error

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Stop the run if it still goes on, and start the next trial in this process.

        Tune calls this after a scheduler stopped the trial, too. If the run cannot be stopped now,
        the process tries again later.
        """
        if self._handle is not None and not self._ended:
            self._unstopped = (*self._unstopped, (self._backend, self._handle))
        self._stop_runs()
        self._leave_ranks()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Return a result at the next evaluation, at the end, or after `REPORT_INTERVAL_S`."""
        if self._unstopped and time.monotonic() >= self._stop_again_at:
            self._stop_runs()
        first, events = self._next_event, tuple(self._new_events())
        result: dict[str, Any] = {
            "report": self._report(first, events),
            "evaluations": self._evaluations,
            "ended": self._ended,
            "done": self._ended,
        }
        if self._may_be_stopped and (self._ended or self._evaluated):
            result["objective"] = self._objective
        return result

    def _report(self, first: int, events: tuple[Event, ...]) -> str:
        """Return the report as JSON text. Events that have no JSON form end the run as failed."""
        waiting = self._waiting()
        try:
            report = WorkerReport(
                first,
                events,
                self._handle,
                self._unreachable,
                self._unfollowed,
                waiting,
                self._traceback,
                last_words.memory_bytes(),
                self._node,
                self._resumed_from,
            )
            return json.dumps(codec.to_json(report))
        except (ValueError, TypeError) as error:
            self._ended = True
            failure = failure_of(error, type(self._backend), "events")
            unfit = WorkerReport(first, (Failed(failure),), self._handle, traceback=foreign_errors.full_text(error))
            return json.dumps(codec.to_json(unfit))

    @property
    def _resumed_from(self) -> str | None:
        backend = getattr(self, "_backend", None)  # it may not have opened
        return backend.resumed_from if isinstance(backend, StoredRuns) else None

    def _waiting(self) -> Waiting | None:
        if self._contact_lost is not None:
            return self._contact_lost
        if self._handle is None or self._ended or not isinstance(self._backend, SupportsWaiting):
            return None
        try:
            return self._backend.waiting(self._handle)
        except BackendError:  # what it waits for is only shown; `events` reports what is wrong
            return None

    def _stop_runs(self) -> None:
        """Stop the runs that nobody follows, and remember those that cannot be stopped now."""
        remaining = []
        for backend, handle in self._unstopped:
            try:
                backend.stop(handle)
            except BackendError as error:
                _LOG.warning("run %s was not stopped: %s", handle.id, error)
                if error.failure.kind not in (FailureKind.LOST, FailureKind.BUG):
                    remaining.append((backend, handle))
        self._unstopped = tuple(remaining)
        self._stop_again_at = time.monotonic() + STOP_AGAIN_S

    def _new_events(self) -> Iterator[Event]:
        """Yield new events until the scheduler must see an evaluation, the end, or a result is due.

        The scheduler sees every evaluation separately, even if the service is already further. It
        does not see the last one before the end, because a trial that is complete must not be
        stopped early.
        """
        self._evaluated = False
        due = time.monotonic() + REPORT_INTERVAL_S
        while time.monotonic() < due and self._unreachable is None and not self._ended:
            for event in self._poll():
                self._next_event += 1
                yield event
                match event:
                    case Finished() | Failed() | Stopped():
                        self._ended = True
                        self._leave_ranks()
                        return
                    case Started(resolved=resolved):
                        self._epochs = float(resolved.get("n_epochs", self._epochs))
                    case Measured(scope="evaluation", step=step, epoch=epoch, values=values) if step > 0:
                        self._evaluations += 1
                        self._objective = values.get(self._metric, float("nan"))
                        # a metric that is missing here is not measured at every epoch: a scheduler
                        # cannot use it
                        if epoch < self._epochs and self._metric in values:
                            self._evaluated = True
                            return
            if not self._backend.capabilities.in_process:
                time.sleep(min(self._backend.capabilities.poll_s, max(0.0, due - time.monotonic())))

    def _poll(self) -> Sequence[Event]:
        if self._handle is None:
            assert self._submit_error is not None
            return [self._failed(self._submit_error)]
        if time.monotonic() < self._poll_again_at:
            return ()
        if self._ranks is not None and (failure := self._ranks.failure()) is not None:
            # The other parts wait for the failed one, some of them for half an hour.
            self._unstopped = (*self._unstopped, (self._backend, self._handle))
            self._stop_runs()
            return [Failed(failure)]
        try:
            events = self._backend.events(self._handle, self._next_event)
        except BackendError as error:
            return self._without_contact(self._handle, error)
        self._contact_errors, self._contact_lost = 0, None
        return events

    def _without_contact(self, handle: Handle, error: BackendError) -> Sequence[Event]:
        """React to an error of `events`, which says nothing about the run itself.

        After a passing error the worker asks again for `CONTACT_TIMEOUT_S`.
        """
        kind, now = error.failure.kind, time.monotonic()
        if self._backend.capabilities.in_process or kind is FailureKind.LOST:
            return [self._failed(error)]
        if kind.retryable:
            if self._contact_lost is None:
                reason = f"the service does not answer ({error.failure.message}), but the run goes on"
                self._contact_lost = Waiting(reason, time.time() + CONTACT_TIMEOUT_S)
                self._contact_deadline = now + CONTACT_TIMEOUT_S
            self._poll_again_at = now + min(MAX_CONTACT_PAUSE_S, 2.0**self._contact_errors)
            self._contact_errors += 1
            if now < self._contact_deadline:
                return []
        if kind.retryable or kind is FailureKind.USER:  # a key may have expired
            self._unreachable = error.failure
            return []
        # Nobody follows the run from now on, and it may go on and cost money.
        self._unstopped = (*self._unstopped, (self._backend, handle))
        self._stop_again_at = 0.0
        self._unfollowed, self._ended = self._failed(error).failure, True
        return []

    def _failed(self, error: BackendError) -> Failed:
        if error.__cause__ is not None:
            self._traceback = foreign_errors.full_text(error.__cause__)
        return Failed(error.failure)

    def _leave_ranks(self) -> None:
        """End the parts of the trial on other machines."""
        if self._ranks is not None:
            self._ranks.stop()
            self._ranks = None

    def cleanup(self) -> None:
        """End the parts on other machines when Tune ends this process."""
        self._leave_ranks()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing: the backend keeps its runs, and the study is the record."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Do nothing; see `save_checkpoint`."""
