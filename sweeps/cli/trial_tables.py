"""Trials and sweeps as tables. Prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweeps.cli.live_screen import VERDICT_STYLE
from sweeps.reports.formatting import clock, short
from sweeps.spec.objective import Objective
from sweeps.study.state import SweepState, describe_best
from sweeps.trials.trial import StoppedBy, Trial, TrialState, leaderboard

LEADERBOARD_ROWS = 10
HEADING_CHARS = 8


def table(
    trials: Sequence[Trial],
    objective: Objective,
    rows: int = LEADERBOARD_ROWS,
    state_name: Callable[[Trial], str] = lambda trial: trial.state.value,
    more: str = "sweep status",
) -> RenderableType:
    """Show a leaderboard: trials with a value, best first, then the others.

    `more` is the command that shows all of them. `state_name` names a trial's state. A sweep on a
    cluster also shows where each trial trains.
    """
    ranked = leaderboard(trials, objective)
    others = [trial for trial in trials if trial.values is None and trial.duplicate_of is None]
    names = list(dict.fromkeys(name for trial in trials for name in trial.hyperparameters))
    varied = [name for name in names if len({trial.hyperparameters.get(name) for trial in trials}) > 1] or names
    shown = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    shown.add_column("trial", justify="right", no_wrap=True)
    shown.add_column(_heading(objective.metric), justify="right")
    shown.add_column("verdict", no_wrap=True)
    for name in varied:
        shown.add_column(_heading(name), justify="right")
    shown.add_column("epoch", justify="right", no_wrap=True)
    shown.add_column("time", justify="right", no_wrap=True)
    on_cluster = any(trial.machine for trial in trials)
    if on_cluster:
        shown.add_column("machine", overflow="fold")
    shown.add_column("state", overflow="fold", ratio=1, min_width=len("complete"))
    for trial in [*ranked, *others][:rows]:
        verdict = Text("" if trial.verdict is None else trial.verdict.kind.value)
        if trial.verdict is not None:
            verdict.stylize(VERDICT_STYLE[trial.verdict.kind])
        shown.add_row(
            str(trial.number),
            "" if trial.values is None else f"{trial.values[0]:.4f}",
            verdict,
            *(short(trial.hyperparameters[name]) if name in trial.hyperparameters else "" for name in varied),
            "" if trial.best_epoch is None else f"{trial.best_epoch:g}",
            clock(trial.spend.seconds) if trial.state.ended else "",
            *([trial.machine or ""] if on_cluster else ()),
            _how_it_stands(trial, state_name),
        )
    hidden = len(ranked) + len(others) - rows
    if hidden > 0:
        return Group(shown, Text(f"and {hidden} more: {more}", style="dim"))
    return shown


def _how_it_stands(trial: Trial, state_name: Callable[[Trial], str]) -> str:
    """Return the state of a trial, with the reason where it is not an ordinary one."""
    if not trial.state.ended or trial.state is TrialState.COMPLETE:
        return state_name(trial)
    is_usual = trial.stopped_by in (StoppedBy.SCHEDULER, StoppedBy.VERDICT)
    return "stopped early" if is_usual else trial.reason


def _heading(name: str) -> str:
    """Break a long name at its underscores, so that the heading does not widen its column."""
    lines = [""]
    for part in name.replace("_", "_ ").split():
        if lines[-1] and len(lines[-1] + part) > HEADING_CHARS:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def listing(states: Sequence[SweepState]) -> RenderableType:
    """Show one row per sweep."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("sweep", "data", "trials", "states", "best"):
        table.add_column(column, overflow="fold")
    for state in states:
        ended = sum(trial.state.ended for trial in state.trials)
        counted = ", ".join(f"{count} {word}" for word, count in sorted(state.counts.items()))
        best = state.best
        value = (
            ""
            if best is None or best.values is None
            else f"{state.objective.metric} {best.values[0]:.4g} ({describe_best(best)})"
        )
        table.add_row(state.name, state.data, f"{ended} of {state.planned_trials}", counted, value)
    return table
