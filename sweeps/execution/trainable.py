"""The Tune Trainable: drives a backend through one trial after another, one result an evaluation."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ray import tune

from backends import codec, credentials, registry
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
from backends.waiting import Waiter

REPORT_EVERY_S = 2.0
"""A result is due at least this often, so that progress is seen and a stop is heeded in the middle of an epoch."""


@cache
def _backend(backend_type: str, options: str, workspace: str, cpus: float, gpus: float) -> Backend:
    """Open the backend once a worker process: what it has loaded stays warm from trial to trial."""
    credentials.hand_in(os.environ)  # a worker's own, so that no secret travels through Ray
    backend = registry.load(backend_type)
    return backend.open(backend.options_model.model_validate_json(options), Path(workspace), Placement(cpus, gpus))


class TrialRunner(tune.Trainable):
    """Runs the trial that `config` describes (see `engine.trial_config`); reused for the next one by `reset_config`.

    A result carries `events` (JSON, numbered from `first`), the `handle`, how many `evaluations` there were, whether
    the run has `ended`, why it cannot be followed although it goes on (`unreachable`), what it waits for (`waiting`),
    and after an evaluation the first objective's value as `objective`, by which schedulers stop trials; one that
    nothing may stop early leaves it out.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Submit the run, or adopt it where the backend knows its key."""
        self._metric = str(config["metric"])
        self._may_be_stopped = bool(config["may_be_stopped"])
        self._cursor = self._evaluations = 0
        self._objective = float("nan")
        self._epochs = float("inf")
        self._handle: Handle | None = None
        self._ended = False
        self._unreachable: Failure | None = None
        self._early_failure: BackendError | None = None
        try:
            self._backend = _backend(
                config["backend"], config["options"], config["workspace"], config["cpus"], config["gpus"]
            )
            self._handle = self._backend.submit(codec.from_json(TrainingRequest, json.loads(config["request"])))
        except BackendError as error:
            self._early_failure = error

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Stop what still runs, as its scheduler decided, and take up the next trial in the same process."""
        if self._handle is not None and not self._ended:
            self._backend.stop(self._handle)
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Return at the next evaluation, at the end, or when a sign of life is due."""
        first, events = self._cursor, list(self._next_events())
        result: dict[str, Any] = {
            "first": first,
            "events": json.dumps([codec.to_json(each) for each in events]),
            "handle": codec.to_json(self._handle) if self._handle else None,
            "evaluations": self._evaluations,
            "ended": self._ended,
            "unreachable": codec.to_json(self._unreachable) if self._unreachable else None,
            "waiting": self._waiting(),
            "done": self._ended,
        }
        if self._may_be_stopped and (self._ended or self._evaluated):
            result["objective"] = self._objective
        return result

    def _waiting(self) -> dict[str, Any] | None:
        if self._handle is None or self._ended or not isinstance(self._backend, Waiter):
            return None
        found = self._backend.waiting(self._handle)
        return None if found is None else codec.to_json(found)

    def _next_events(self) -> Iterator[Event]:
        """Yield events up to the end, or up to an evaluation that the scheduler should see, or until a result is due.

        It sees each one by itself, even where a service is further on already; but not the last: a trial that has come
        to its end is not stopped early.
        """
        self._evaluated = False
        due = time.monotonic() + REPORT_EVERY_S
        while time.monotonic() < due and self._unreachable is None:
            for event in self._fresh_events():
                self._cursor += 1
                yield event
                match event:
                    case Finished() | Failed() | Stopped():
                        self._ended = True
                        return
                    case Started(resolved=resolved):
                        self._epochs = float(resolved.get("n_epochs", self._epochs))
                    case Measured(scope="evaluation", step=step, epoch=epoch, values=values) if step > 0:
                        self._evaluations += 1
                        self._objective = values.get(self._metric, float("nan"))
                        # what is not measured at every epoch says nothing to a scheduler before the end
                        if epoch < self._epochs and self._metric in values:
                            self._evaluated = True
                            return
            if not self._backend.capabilities.in_process:
                time.sleep(min(self._backend.capabilities.poll_s, max(0.0, due - time.monotonic())))

    def _fresh_events(self) -> Sequence[Event]:
        if self._handle is None:
            assert self._early_failure is not None
            return [Failed(self._early_failure.failure)]
        try:
            return self._backend.events(self._handle, self._cursor)
        except BackendError as error:
            if error.failure.kind is FailureKind.USER and not self._backend.capabilities.in_process:
                self._unreachable = error.failure  # a key that has expired, say: the service goes on with the run
                return []
            return [Failed(error.failure)]

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Keep nothing: the backend keeps its runs, and the study is the record."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Do nothing; see `save_checkpoint`."""
