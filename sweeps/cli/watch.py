"""The command `sweep watch`: the live screen of a sweep that another terminal or machine runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from sweeps.cli.live_screen import MAX_ROWS, VERDICT_STYLE, LiveScreen
from sweeps.cli.terminal import out, show
from sweeps.workspace import Workspace

if TYPE_CHECKING:
    from sweeps.study.state import SweepState

LOOK_EVERY_S = 2.0
"""How often the study is read, at least; a long study is read less often."""

READING_SHARE = 5
"""A look that took a second is repeated after this many seconds: watching must cost little."""


@click.command()
@click.argument("name", required=False)
@click.pass_obj
def watch(workspace: Workspace, name: str | None) -> None:
    """Watch the sweep NAME while it runs (default: the latest).

    Reads the study, so the sweep may run in another terminal, or on another machine that shares its
    storage. Ends with the sweep. Ctrl-C ends only the watching. Without a terminal it prints the
    screen once.
    """
    from sweeps.api.environment import storage
    from sweeps.errors import SweepError
    from sweeps.study.state import read_state

    name = name or next(iter(workspace.sweep_names()), None)
    if name is None:
        raise SweepError("there is no sweep here", "Start one: sweep run FILE")

    def look() -> SweepState:
        return read_state(workspace, name, storage())

    state = look()
    if not out.is_terminal or not state.is_running:
        show(screen(state))
        return
    try:
        with Live(screen(state), console=out, auto_refresh=False) as live:
            while state.is_running:
                began = time.monotonic()
                state = look()
                live.update(screen(state), refresh=True)
                time.sleep(max(LOOK_EVERY_S, READING_SHARE * (time.monotonic() - began)))
    except KeyboardInterrupt:
        return


def screen(state: SweepState) -> RenderableType:
    """Show a stored sweep as `sweep run` shows it while it runs."""
    ended = sorted((trial for trial in state.trials if trial.state.ended), key=lambda trial: trial.ended_at or 0.0)
    repeated = sum(repeat.state.ended for repeat in state.repeats)
    counted = f"{len(ended)} of {state.planned_trials} trials"
    if state.repeats:
        counted += f", finals {repeated} of {len(state.repeats)}"
    names = dict.fromkeys(name for trial in state.trials for name in trial.hyperparameters)
    searched = [name for name in names if len({trial.hyperparameters.get(name) for trial in state.trials}) > 1]
    open_trials = [trial for trial in (*state.trials, *state.repeats) if not trial.state.ended]
    shown = LiveScreen(
        name=state.name,
        done=min(len(ended), state.planned_trials) + repeated,
        total=state.planned_trials + len(state.repeats),
        progress=f"{counted} · {'running' if state.is_running else 'not running'}",
        best=_best(state),
        facts=[fact for fact in (_verdicts(state), _costs(state)) if fact],
        running=open_trials,
        ended=ended[::-1][:MAX_ROWS],
        doing={trial.number: state.state_name(trial) for trial in open_trials},
        objective=state.objective,
        searched=searched or list(names),
    )
    is_complete = len(ended) >= state.planned_trials and not open_trials
    if state.is_running or is_complete:
        return shown
    return Group(shown, Text(f"no process runs `{state.name}`; to go on: sweep resume {state.name}", style="dim"))


def _best(state: SweepState) -> Text:
    from sweeps.study.state import describe_best
    from sweeps.trials.point_name import point_name

    best = state.best
    if best is None or best.values is None:
        return Text("no trial has ended yet", style="dim")
    value = (f"best {state.objective.metric} {best.values[0]:.4g}", "bold")
    return Text.assemble(value, f" ({describe_best(best)}): {point_name(best.hyperparameters)}")


def _verdicts(state: SweepState) -> Text:
    counts: dict[str, int] = {}
    styles = {kind.value: style for kind, style in VERDICT_STYLE.items()}
    for trial in state.trials:
        if trial.verdict is not None and trial.state.ended:
            counts[trial.verdict.kind.value] = counts.get(trial.verdict.kind.value, 0) + 1
    return Text(" · ").join(Text(f"{count} {kind}", style=styles[kind]) for kind, count in sorted(counts.items()))


def _costs(state: SweepState) -> Text:
    spent = state.ledger.spent
    parts = [f"${spent.usd:,.2f} spent"] if spent.usd else []
    parts += [f"{spent.tokens:,} tokens trained"] if spent.tokens else []
    return Text(" · ".join(parts))
