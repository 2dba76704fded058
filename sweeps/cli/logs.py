"""The command `sweep logs`: the log of a sweep, and the output of a trial's program."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backends import credentials
from backends.program_output import SupportsProgramOutput
from sweeps.cli.terminal import relative
from sweeps.errors import Problem, SweepError, UserInputError
from sweeps.workspace import Workspace

if TYPE_CHECKING:
    from sweeps.trials.trial import Trial

FOLLOW_EVERY_S = 0.5
LOOK_EVERY_S = 2.0
"""How often the study is asked whether the trial has ended."""

_END_OF_LINE = re.compile(r"[\r\n]")


@click.command()
@click.argument("name")
@click.argument("trial", type=click.IntRange(0), required=False)
@click.option("--lines", "-n", type=click.IntRange(0), default=50, show_default=True, help="How many lines to show.")
@click.option("--follow", "-f", is_flag=True, help="Show new lines until the sweep or the trial ends.")
@click.pass_obj
def logs(workspace: Workspace, name: str, trial: int | None, lines: int, follow: bool) -> None:
    """Show the log of the sweep NAME: messages of libraries, and errors with tracebacks.

    With the number of a TRIAL, show what the program of that trial has printed. Ctrl-C ends
    --follow.
    """
    from sweeps.api.environment import storage
    from sweeps.study.state import is_running, require_sweep

    require_sweep(workspace, name)
    try:
        if trial is not None:
            _show_program(workspace, name, trial, lines, follow)
            return
        file = workspace.log_file(name)
        if not file.exists():
            raise SweepError(f"{relative(file)} does not exist", "The sweep has not started yet.")
        _show(file, lines, None if not follow else lambda: not is_running(workspace, name, storage()))
    except KeyboardInterrupt:
        if not follow:
            raise


def _show_program(workspace: Workspace, name: str, number: int, lines: int, follow: bool) -> None:
    from sweeps.api.environment import storage
    from sweeps.spec.loading import load
    from sweeps.study.state import is_running

    trial = _trial(workspace, name, number)
    spec = load(workspace.sweep_folder(name) / "sweep.yaml")
    backend = spec.backend_class
    if not issubclass(backend, SupportsProgramOutput):
        run = f"run {trial.handle.id} of " if trial.handle is not None else ""
        hint = f"Messages of its training are in the log of the sweep: sweep logs {name}"
        raise SweepError(f"trial {number} is {run}backend `{spec.backend_type}`, which runs no program here", hint)

    def is_over() -> bool:
        return _trial(workspace, name, number).state.ended or not is_running(workspace, name, storage())

    file = backend.output_file(workspace.sweep_folder(name), trial.key)
    while follow and not file.exists() and not is_over():
        time.sleep(FOLLOW_EVERY_S)
    if not file.exists():
        raise SweepError(f"the program of trial {number} has printed nothing yet", f"state: {trial.state.value}")
    _show(file, lines, is_over if follow else None)


def _trial(workspace: Workspace, name: str, number: int) -> Trial:
    """Return the trial of this number, also a failed attempt that was repeated."""
    from sweeps.api.environment import storage
    from sweeps.study.stored_study import read_study

    study = read_study(storage() or workspace.study_file(name), workspace.study_name(name), curves=False)
    trials = {trial.number: trial for trial in study.attempts}
    if number not in trials:
        known = ", ".join(map(str, sorted(trials)))
        hint = f"Its trials are {known}." if known else "It has no trial yet."
        raise UserInputError([Problem("", f"sweep `{name}` has no trial {number}", hint)])
    return trials[number]


def _show(file: Path, lines: int, is_over: Callable[[], bool] | None) -> None:
    """Print the last lines of a file, and then what is added until `is_over`. Hides secrets."""
    with file.open(encoding="utf-8", errors="replace", newline="") as log:
        last = deque(log, maxlen=lines) if lines else deque[str]()
        if not lines:
            log.read()
        click.echo(credentials.masked("".join(last)), nl=False)
        rest, look_at = "", 0.0
        while is_over is not None:
            is_last = time.monotonic() >= look_at and is_over()
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + LOOK_EVERY_S
            text = rest + log.read()
            end = len(text) if is_last else max((found.end() for found in _END_OF_LINE.finditer(text)), default=0)
            click.echo(credentials.masked(text[:end]), nl=False)
            rest = text[end:]
            if is_last:
                return
            time.sleep(FOLLOW_EVERY_S)
