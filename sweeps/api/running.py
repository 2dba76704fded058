"""`plan` and `run`: a sweep file, or the same content as a mapping, becomes a plan or a finished
sweep.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from backends.contract import Event, Measured
from backends.waiting import Waiting
from sweeps.api.environment import environment, open_workspace
from sweeps.api.sweep import Sweep, load
from sweeps.errors import UserInputError
from sweeps.execution.observers import ProgressObserver
from sweeps.execution.outcome import Outcome
from sweeps.planning.definition_changes import problems_of
from sweeps.planning.gate import stop_at_warnings
from sweeps.planning.gathering import changes_since_last_run
from sweeps.planning.machine_limits import this_machine
from sweeps.planning.plan import plan_document
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.spec.yaml_source import Document, from_mapping, read, with_overrides
from sweeps.study.steering import Change
from sweeps.trials.trial import Trial
from sweeps.workspace import RunCommand, Workspace

Source = str | Path | Mapping[str, Any]


@dataclass(frozen=True)
class SweepEvent:
    """Something that happened during a sweep.

    `trial` is the trial's record after the event; None for `space_steered`. `measured` is set for
    `evaluated`. `text` describes `waiting` and `space_steered` events in words.
    """

    kind: Literal["trial_started", "evaluated", "waiting", "trial_ended", "space_steered"]
    trial: Trial | None = None
    measured: Measured | None = None
    text: str = ""


class CallbackObserver(ProgressObserver):
    """Passes what happens in a session to a function, one SweepEvent at a time."""

    def __init__(self, on_event: Callable[[SweepEvent], None]) -> None:
        self._on_event = on_event

    def trial_started(self, trial: Trial) -> None:
        """Report `trial_started`."""
        self._on_event(SweepEvent("trial_started", trial))

    def events_received(self, trial: Trial, first: int, events: Sequence[Event]) -> None:
        """Report `evaluated` for every evaluation among the events."""
        for event in events:
            if isinstance(event, Measured) and event.scope == "evaluation":
                self._on_event(SweepEvent("evaluated", trial, event))

    def trial_waiting(self, trial: Trial, waiting: Waiting) -> None:
        """Report `waiting` with the reason."""
        self._on_event(SweepEvent("waiting", trial, text=waiting.reason))

    def trial_ended(self, trial: Trial) -> None:
        """Report `trial_ended`."""
        self._on_event(SweepEvent("trial_ended", trial))

    def space_steered(self, change: Change, *, applied: bool) -> None:
        """Report `space_steered`."""
        text = change.text if applied else f"advised, not applied: {change.text}"
        self._on_event(SweepEvent("space_steered", text=text))


def plan(
    source: Source,
    *,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    data: str | Path | None = None,
    root: str | Path | None = None,
    estimate: bool = True,
    ray_address: str | None = None,
    strict: bool = False,
    accept: Sequence[str] = (),
) -> SweepPlan:
    """Check a sweep and return its plan: the data, the resolved space, cost and time.

    Spends nothing.

    `source` is the path of a sweep file, or its content as a mapping. `overrides` change keys, as
    `{"search.trials": 8}` or `["search.trials=8"]`. `data` is the place of the data on this
    machine. `root` is the workspace (default: SWEEP_ROOT, else `.sweep`). Without `estimate` the
    backend is not asked what a trial costs, unless the file has a limit of money or tokens.
    `ray_address` is that of the Ray cluster on which the trials will run; without one, they must
    fit on this machine. With `strict`, warnings count as mistakes, except those with the codes in
    `accept`.

    Raises UserInputError with every mistake in the file and the data, and SweepError if something
    cannot be reached.
    """
    workspace = open_workspace(root)
    environment(workspace)  # reports a bad tracking URI before anything is read
    document = with_overrides(_document(source), _as_options(overrides))
    planned = plan_document(
        document,
        workspace,
        Path(data) if data is not None else None,
        estimate=estimate,
        machine=this_machine() if ray_address in (None, "", "local") else None,
    )
    stop_at_warnings(planned.findings, strict, accept)
    return planned


def run(
    source: Source,
    *,
    on_event: Callable[[SweepEvent], None] | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    data: str | Path | None = None,
    root: str | Path | None = None,
    fresh: bool = False,
    ray_address: str | None = None,
    files: str | None = None,
    deadline: float | None = None,
    strict: bool = False,
    accept: Sequence[str] = (),
) -> Sweep:
    """Run a sweep, or continue the one of this name where it stopped, and return it.

    `source`, `overrides`, `data`, `root`, `strict` and `accept` are those of `plan`. `on_event` is
    called on this thread for everything that happens; it must return quickly and must not raise.
    With `fresh`, an earlier sweep of this name is kept under another name. `ray_address` is a Ray
    cluster's. `files` is the URL of the store by which its machines exchange files (default:
    SWEEP_FILES, else they share the workspace). The sweep starts no trial that would end after
    `deadline`, in seconds since the Unix epoch.

    Raises UserInputError and SweepError like `plan`, SweepError if the sweep fails, and
    SweepInterruptedError after Ctrl-C. Everything is recorded in all cases; call `run` again to
    continue.
    """
    planned = plan(
        source,
        overrides=overrides,
        data=data,
        root=root,
        estimate=False,
        ray_address=ray_address,
        strict=strict,
        accept=accept,
    )
    workspace = open_workspace(root)
    observer = CallbackObserver(on_event) if on_event is not None else ProgressObserver()
    outcome = run_plan(
        planned, workspace, observer, fresh=fresh, ray_address=ray_address, files=files, deadline=deadline
    )
    return load(planned.spec.name, root=workspace.root, outcome=outcome)


def run_plan(
    planned: SweepPlan,
    workspace: Workspace,
    observer: ProgressObserver,
    say: Callable[[str], None] = lambda message: None,
    *,
    fresh: bool = False,
    ray_address: str | None = None,
    files: str | None = None,
    deadline: float | None = None,
    command: RunCommand | None = None,
) -> Outcome:
    """Run a plan while holding its sweep's lock. `say` receives a message about each step.

    `sweep resume` repeats `command`. Raises what `run` raises.
    """
    from sweeps.execution import run as execution

    where, name = environment(workspace, ray_address, files), planned.spec.name
    with workspace.lock_afresh(name) if fresh else workspace.lock(name) as aside:
        if aside is not None:
            say(f"kept the earlier sweep as `{aside.name}`")
        if command is not None:
            workspace.store_command(name, command)
        changes = changes_since_last_run(planned)
        for change in changes:
            if not change.needs_new_sweep:
                say(f"changed since the last run, and the sweep can go on with it: {change}")
        if problems := problems_of(changes, name, planned.spec.document):
            raise UserInputError(problems)
        return execution.run(planned, where, observer, say, fresh=fresh, deadline=deadline)


def _document(source: Source) -> Document:
    if isinstance(source, Mapping):
        return from_mapping(source)
    return read(Path(source))


def _as_options(overrides: Mapping[str, Any] | Sequence[str]) -> Sequence[str]:
    if isinstance(overrides, Mapping):
        return [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    return overrides
