"""Driving a run to its end, and comparing what it said."""

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
from backends.contract import TERMINAL_EVENTS, Backend, DataFile, Event, Handle, Measured, TrainingRequest

_MIN_PAUSE_S = 0.005


def drain(backend: Backend, handle: Handle, timeout_s: float, seen: Sequence[Event] = ()) -> list[Event]:
    """Return all events of a run, the terminal one last, pausing between calls as the capabilities say.

    `seen` are the first events, where they have been read already. Raises TimeoutError where the run does not end in
    time, AssertionError where an in-process backend gives nothing although the run goes on.
    """
    events = list(seen)
    deadline = time.monotonic() + timeout_s
    while not ended(events):
        _poll(backend, handle, events)
        if time.monotonic() > deadline and not ended(events):
            raise TimeoutError(f"{handle.id} did not end within {timeout_s:g} s; {len(events)} events so far")
    return events


def read_until(backend: Backend, handle: Handle, kind: type[Event], timeout_s: float) -> list[Event]:
    """Return the events from the first on, as soon as one of `kind` is among them. Fails where the run ends before."""
    events: list[Event] = []
    deadline = time.monotonic() + timeout_s
    while not any(isinstance(each, kind) for each in events):
        if ended(events):
            pytest.fail(f"the run ended without a {kind.kind} event: {events[-1]}")
        _poll(backend, handle, events)
        if time.monotonic() > deadline and not ended(events):
            raise TimeoutError(f"{handle.id} gave no {kind.kind} event within {timeout_s:g} s")
    return events


def ended(events: Sequence[Event]) -> bool:
    """Return whether a run has said that it is over."""
    return any(isinstance(each, TERMINAL_EVENTS) for each in events)


def _poll(backend: Backend, handle: Handle, events: list[Event]) -> None:
    """Append what is new, and pause where the backend is a service."""
    batch = backend.events(handle, len(events))
    events.extend(batch)
    if backend.capabilities.in_process:
        assert batch, "an in-process backend trains until there is an event, unless the run has ended"
    elif not ended(events):
        time.sleep(max(backend.capabilities.poll_s, 0.0 if batch else _MIN_PAUSE_S))


def written(events: Sequence[Event]) -> list[str]:
    """Return each event as JSON text: comparable even where a value is not a number."""
    return [json.dumps(codec.to_json(each), sort_keys=True) for each in events]


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
