"""Driving a run to its end, and comparing what it said."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backends.contract import TERMINAL, Backend, DataFile, Event, Handle, Measured, TrainingRequest, event_to_json

_MIN_PAUSE_S = 0.005


def drain(backend: Backend, handle: Handle, timeout_s: float, after: int = 0) -> list[Event]:
    """Return the events from number `after` to the terminal one, pausing as the capabilities say.

    Raises TimeoutError where the run does not end in time, AssertionError where an in-process backend gives nothing
    although the run goes on.
    """
    seen: list[Event] = []
    for batch in _polls(backend, handle, timeout_s, after):
        seen.extend(batch)
    return seen


def _polls(backend: Backend, handle: Handle, timeout_s: float, after: int = 0) -> Iterator[Sequence[Event]]:
    """Yield what each further call of `events` returns, the one with the terminal event last."""
    deadline = time.monotonic() + timeout_s
    while True:
        batch = backend.events(handle, after)
        after += len(batch)
        yield batch
        if any(isinstance(each, TERMINAL) for each in batch):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{handle.id} did not end within {timeout_s:g} s; {after} events so far")
        if not backend.capabilities.in_process:
            time.sleep(max(backend.capabilities.poll_s, 0.0 if batch else _MIN_PAUSE_S))
        else:
            assert batch, "an in-process backend trains until there is an event, unless the run has ended"


def read_until(backend: Backend, handle: Handle, kind: type[Event], timeout_s: float) -> list[Event]:
    """Return the events from the first on, as soon as one of `kind` is among them. Fails where the run ends before."""
    seen: list[Event] = []
    for batch in _polls(backend, handle, timeout_s):
        seen.extend(batch)
        if any(isinstance(each, kind) for each in seen):
            return seen
    pytest.fail(f"the run ended without a {kind.kind} event: {seen[-1]}")


def written(events: Sequence[Event]) -> list[str]:
    """Return each event as JSON text: comparable even where a value is not a number."""
    return [json.dumps(event_to_json(each), sort_keys=True) for each in events]


def write_jsonl(path: Path, lines: Sequence[Mapping[str, Any]]) -> DataFile:
    """Write a prepared data file and return its description."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return DataFile(str(path.resolve()), len(lines), hashlib.sha256(path.read_bytes()).hexdigest())


@dataclass(frozen=True)
class CompleteRun:
    """A run that was driven to its end, by an instance that is closed now."""

    workspace: Path
    request: TrainingRequest
    handle: Handle
    events: tuple[Event, ...]

    @property
    def evaluations(self) -> list[Measured]:
        """The evaluations after training began, the base model's own score left out."""
        return evaluations(self.events)


def evaluations(events: Sequence[Event]) -> list[Measured]:
    """Return the evaluations of a run in order, without that of the base model."""
    return [each for each in events if isinstance(each, Measured) and each.scope == "evaluation" and each.epoch > 0]
