"""Drives a session over the fake backend, as the engine does, but in this process and without
Ray.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from backends.contract import Event, Measured, Started
from backends.waiting import Waiting
from sweeps.execution.environment import Environment, open_study
from sweeps.execution.observers import Observer
from sweeps.execution.running_trial import TrialEnd
from sweeps.execution.session import Session
from sweeps.planning.plan import make_plan
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.spec.loading import from_document
from sweeps.spec.yaml_source import parse, with_overrides
from sweeps.study.steering import Change
from sweeps.trials.trial import Trial
from sweeps.workspace import Workspace

FILE = """\
name: pairs
data: {checks: quick, source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 120, valid_examples: 60, test_examples: 30}
backend: {type: fake, model: fake-small}
space:
  n_epochs: [2, 3, 4]
  batch_size: {low: 1, high: 8}
  learning_rate_multiplier: {low: 0.01, high: 0.4, log: true}
search: {sampler: random, trials: 5, concurrency: 2}
objective: {maximize: valid_accuracy}
"""


class Recorder(Observer):
    """An observer that records every call."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.ended: list[Trial] = []
        self.events: dict[str, list[Event]] = {}
        self.waited: list[tuple[int, Waiting]] = []
        self.steered: list[tuple[Change, bool]] = []

    def trial_started(self, trial: Trial) -> None:
        self.started.append(trial.number)

    def events_received(self, trial: Trial, first: int, events: Sequence[Event]) -> None:
        """Record the events, which must follow the recorded ones without a gap or a repetition."""
        recorded = self.events.setdefault(trial.key, [])
        assert len(recorded) == first
        recorded += events

    def trial_ended(self, trial: Trial) -> None:
        self.ended.append(trial)

    def trial_waiting(self, trial: Trial, waiting: Waiting) -> None:
        self.waited.append((trial.number, waiting))

    def space_steered(self, change: Change, *, applied: bool) -> None:
        self.steered.append((change, applied))


def planned(folder: Path, *overrides: str) -> SweepPlan:
    """Plan the sweep of `FILE` with `overrides`, in the workspace `folder`."""
    document = with_overrides(parse(FILE, "f.yaml"), overrides)
    return make_plan(from_document(document), Workspace(folder), estimate=False)


def open_session(
    folder: Path,
    *overrides: str,
    observer: Observer | None = None,
    clock: Callable[[], float] = lambda: 100.0,
    deadline: float | None = None,
) -> Session:
    """Open a session on the study in `folder`.

    A second call resumes the sweep, as a second process would.
    """
    plan = planned(folder, *overrides)
    study = open_study(plan, Environment(Workspace(folder), "unused"))
    return Session(plan, study, [observer] if observer else [], clock, deadline=deadline)


def start_next(session: Session) -> Trial:
    """Return the next trial. There must be one to start now."""
    trial = session.next_trial()
    assert isinstance(trial, Trial)
    return trial


def drive(session: Session, until: Callable[[], bool] = lambda: False) -> None:
    """Run trials until there are no more, or until `until` holds in the middle of a trial."""
    with closing(session.plan.open_backend()) as backend:
        while isinstance(trial := session.next_trial(), Trial):
            handle = backend.submit(session.plan.request(trial))
            events = backend.events(handle, 0)
            half = len(events) // 2
            session.observe(trial.number, handle, 0, events[:half])
            if until():
                return
            # The first half comes again, and the session must skip it.
            session.observe(trial.number, handle, 0, events)
            session.trial_ended(trial.number, TrialEnd.ITSELF)


def fault(kind: str, times: int = 100, on: str = "train") -> str:
    """Return the override that makes the fake backend fail after the first epoch."""
    return "backend.faults=" + json.dumps([{"on": on, "kind": kind, "times": times, "after_epoch": 1}])


def evaluations(*losses: tuple[float, float], accuracy: float = 0.6) -> list[Event]:
    """Return the events of a run without its end.

    `losses` are the (training, validation) losses, one pair per epoch.
    """
    base = {"valid_accuracy": 0.33, "train_accuracy": 0.33}
    events: list[Event] = [Started({}), Measured(0, 0.0, {"train_loss": 2.0, "valid_loss": 2.0, **base}, "evaluation")]
    for epoch, (train, valid) in enumerate(losses, start=1):
        values = {"train_loss": train, "valid_loss": valid, "valid_accuracy": accuracy, "train_accuracy": accuracy}
        events.append(Measured(10 * epoch, float(epoch), values, "evaluation"))
    return events
