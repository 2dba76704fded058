"""Helpers that drive a run to its end and compare its events."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backends import codec
from backends.contract import TERMINAL_EVENTS, Backend, DataFile, Event, Generated, Handle, Measured, TrainingRequest

_MIN_PAUSE_S = 0.005


def drain(backend: Backend, handle: Handle, timeout_s: float, seen: Sequence[Event] = ()) -> list[Event]:
    """Return all events of a run, the terminal one last.

    Between two calls, the function pauses as the capabilities say. `seen` are the first events, if
    they have been read already. Raises TimeoutError if the run does not end in time, and
    AssertionError if an in-process backend returns no event although the run has not ended.
    """
    events = list(seen)
    deadline = time.monotonic() + timeout_s
    while not has_ended(events):
        _poll(backend, handle, events)
        if time.monotonic() > deadline and not has_ended(events):
            raise TimeoutError(f"{handle.id} did not end within {timeout_s:g} s; {len(events)} events so far")
    return events


def read_until(backend: Backend, handle: Handle, event_type: type[Event], timeout_s: float) -> list[Event]:
    """Return the events from the first one on, as soon as they include one of `event_type`.

    Fails the test if the run ends before.
    """
    events: list[Event] = []
    deadline = time.monotonic() + timeout_s
    while not any(isinstance(event, event_type) for event in events):
        if has_ended(events):
            pytest.fail(f"the run ended without a {event_type.__name__} event: {events[-1]}")
        _poll(backend, handle, events)
        if time.monotonic() > deadline and not has_ended(events):
            raise TimeoutError(f"{handle.id} gave no {event_type.__name__} event within {timeout_s:g} s")
    return events


def has_ended(events: Sequence[Event]) -> bool:
    """Return whether the events include a terminal one."""
    return any(isinstance(event, TERMINAL_EVENTS) for event in events)


def _poll(backend: Backend, handle: Handle, events: list[Event]) -> None:
    """Append the new events, and pause if the backend is a service."""
    batch = backend.events(handle, len(events))
    events.extend(batch)
    if backend.capabilities.in_process:
        assert batch, "an in-process backend trains until there is an event, unless the run has ended"
    elif not has_ended(events):
        time.sleep(max(backend.capabilities.poll_s, 0.0 if batch else _MIN_PAUSE_S))


def events_as_text(events: Sequence[Event]) -> list[str]:
    """Return each event as JSON text, which can be compared even if a value is NaN."""
    return [json.dumps(codec.to_json(event), sort_keys=True) for event in events]


def write_jsonl(path: Path, lines: Sequence[Mapping[str, Any]]) -> DataFile:
    """Write a prepared data file and return its description."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return DataFile(str(path.resolve()), len(lines), hashlib.sha256(path.read_bytes()).hexdigest())


@dataclass(frozen=True)
class CompletedRun:
    """A run that has reached its end. The backend instance that drove it is closed."""

    workspace: Path
    request: TrainingRequest
    handle: Handle
    events: tuple[Event, ...]

    @property
    def evaluations(self) -> list[Measured]:
        """The evaluations of the run in order, without that of the base model."""
        return evaluations(self.events)


def evaluations(events: Sequence[Event]) -> list[Measured]:
    """Return the evaluations among `events` in order, without that of the base model."""
    measured = (event for event in events if isinstance(event, Measured))
    return [event for event in measured if event.scope == "evaluation" and event.epoch > 0]


def texts_of(run: CompletedRun) -> list[Generated]:
    """Return the events with generated texts in order."""
    return [event for event in run.events if isinstance(event, Generated)]
