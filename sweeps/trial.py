"""The Tune Trainable: drives a backend through one trial after another, one result an evaluation."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from ray import tune

from backends import registry
from backends.contract import (
    TERMINAL,
    Backend,
    BackendError,
    Event,
    Failed,
    Handle,
    Measured,
    Placement,
    TrainingRequest,
    event_to_json,
)

REPORT_EVERY_S = 2.0
"""A result is due at least this often, so that progress is seen and a stop is heeded in the middle of an epoch."""


@cache
def _backend(backend_type: str, options: str, workspace: str, cpus: float, gpus: float) -> Backend:
    """Open the backend once a worker process: what it has loaded stays warm from trial to trial."""
    backend = registry.load(backend_type)
    return backend.open(backend.options_model.model_validate_json(options), Path(workspace), Placement(cpus, gpus))


class TrialRunner(tune.Trainable):  # type: ignore[misc]
    """Runs the trial that `config` describes (see `engine.trial_config`); reused for the next one by `reset_config`.

    A result carries `events` (JSON, numbered from `first`), the `handle`, how many `evaluations` there were, whether
    the run has `ended`, and after an evaluation the first objective's value as `objective`.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Submit the run, or adopt it where the backend knows its key."""
        self._metric = str(config["metric"])
        self._cursor = self._evaluations = 0
        self._objective = float("nan")
        self._handle: Handle | None = None
        self._ended = False
        self._early_failure: BackendError | None = None
        try:
            self._backend = _backend(
                config["backend"], config["options"], config["workspace"], config["cpus"], config["gpus"]
            )
            self._handle = self._backend.submit(TrainingRequest.from_json(json.loads(config["request"])))
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
        first, events = self._cursor, self._next_events()
        result: dict[str, Any] = {
            "first": first,
            "events": json.dumps([event_to_json(each) for each in events]),
            "handle": asdict(self._handle) if self._handle else None,
            "evaluations": self._evaluations,
            "ended": self._ended,
            "done": self._ended,
        }
        if self._ended or any(_is_evaluation(each) for each in events):
            result["objective"] = self._objective
        return result

    def _next_events(self) -> list[Event]:
        if self._handle is None:
            self._ended = True
            assert self._early_failure is not None
            return [Failed(self._early_failure.failure)]
        due = time.monotonic() + REPORT_EVERY_S
        events: list[Event] = []
        while time.monotonic() < due:
            try:
                fresh = list(self._backend.events(self._handle, self._cursor))
            except BackendError as error:
                fresh = [Failed(error.failure)]
            for each in fresh:
                self._cursor += 1
                events.append(each)
                if isinstance(each, TERMINAL):
                    self._ended = True
                    return events
                if isinstance(each, Measured) and _is_evaluation(each):
                    self._evaluations += 1
                    self._objective = each.values.get(self._metric, float("nan"))
                    return events  # the scheduler decides after each one, even where the service is further on
            if not self._backend.capabilities.in_process:
                time.sleep(min(self._backend.capabilities.poll_s, max(0.0, due - time.monotonic())))
        return events

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Keep nothing: the backend keeps its runs, and the study is the record."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Do nothing; see `save_checkpoint`."""


def _is_evaluation(event: Event) -> bool:
    return isinstance(event, Measured) and event.scope == "evaluation" and event.step > 0
