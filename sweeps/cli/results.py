"""The commands that show results: `sweep status`, `report` and `ui`."""

from __future__ import annotations

import os
import socket
from datetime import datetime
from pathlib import Path

import click

from sweeps.cli.terminal import json_option, print_json, relative, say, show
from sweeps.errors import SweepError
from sweeps.workspace import Workspace

STATUS_ROWS = 50
ALL_ROWS = 10**9


@click.command()
@click.argument("name", required=False)
@click.option("--all", "show_all", is_flag=True, help=f"Show every trial, not only {STATUS_ROWS}.")
@json_option
@click.pass_obj
def status(workspace: Workspace, name: str | None, show_all: bool, as_json: bool) -> None:
    """List the sweeps, or show the trials of the sweep NAME.

    The sweep may still be running.
    """
    from rich.text import Text

    from sweeps.api.environment import storage
    from sweeps.cli import trial_tables
    from sweeps.reports.baselines import closing_comparison
    from sweeps.reports.formatting import advice_lines
    from sweeps.study import state

    if name is None:
        _list_sweeps(workspace, as_json)
        return
    summary = state.read_state(workspace, name, storage(), curves=as_json)
    if as_json:
        print_json(summary.to_json())
    else:
        show(trial_tables.listing([summary]))
        rows = ALL_ROWS if show_all else STATUS_ROWS
        more = f"sweep status {name} --all"
        open_trials = [trial for trial in summary.trials if not trial.state.ended]
        ended_trials = [trial for trial in summary.trials if trial.state.ended]
        if len(summary.trials) > rows and open_trials:
            show(trial_tables.table(open_trials, summary.objective, rows, summary.state_name, more))
        else:
            ended_trials += open_trials
        show(trial_tables.table(ended_trials, summary.objective, rows, summary.state_name, more))
        if summary.repeats:
            say("finals: the best configurations, trained again with new seeds")
            show(trial_tables.table(summary.repeats, summary.objective, rows, summary.state_name, more))
        compared = (summary.plan, summary.objective, summary.best, summary.trials, summary.finals, summary.advice)
        comparison = closing_comparison(*compared)
        if comparison is not None and comparison.excludes_hyperparameters:
            show(Text(comparison.text))
        for line in advice_lines(summary.trials, summary.advice, comparison):
            show(Text.assemble(("advice: ", "bold"), line))


def _list_sweeps(workspace: Workspace, as_json: bool) -> None:
    from sweeps.api.environment import storage
    from sweeps.cli import trial_tables
    from sweeps.study import state

    summaries, errors = [], {}
    for sweep_name in workspace.sweep_names():
        try:
            summaries.append(state.read_state(workspace, sweep_name, storage(), curves=as_json))
        except SweepError as error:
            errors[sweep_name] = error
    if as_json:
        damaged = [{"name": sweep_name, "error": unreadable.message} for sweep_name, unreadable in errors.items()]
        print_json([*(summary.to_json() for summary in summaries), *damaged])
    elif summaries:
        show(trial_tables.listing(summaries))
    elif not errors:
        say(f"there is no sweep in {relative(workspace.root)}. Start one: sweep run FILE")
    if errors:
        for sweep_name, unreadable in errors.items():
            say(f"{sweep_name}: {unreadable.message}")
        raise SweepError(
            f"{len(errors)} of {len(summaries) + len(errors)} sweeps cannot be read",
            "; ".join(dict.fromkeys(unreadable.hint for unreadable in errors.values())),
        )


@click.command()
@click.argument("name", required=False)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The output file.  [default: report.html in the sweep's folder]",
)
@click.pass_obj
def report(workspace: Workspace, name: str | None, out: Path | None) -> None:
    """Write the HTML report of a sweep.

    NAME is the sweep (default: the latest). The sweep may still be running.
    """
    from sweeps.api.environment import storage
    from sweeps.reports import page
    from sweeps.study import state

    name = name or next(iter(workspace.sweep_names()), None)
    if name is None:
        raise SweepError(f"there is no sweep in {relative(workspace.root)}", "Start one: sweep run FILE")
    written = out or workspace.report_file(name)
    text = page.page(state.read_state(workspace, name, storage()), datetime.now())
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text(text, encoding="utf-8")
    click.echo(relative(written))


@click.command()
@click.argument("name", required=False)
@json_option
@click.pass_obj
def track(workspace: Workspace, name: str | None, as_json: bool) -> None:
    """Make MLflow show what the study of the sweep NAME records.

    Without NAME: of all sweeps. Sends what MLflow lacks, also if its database was deleted, and
    corrects what differs. Trains nothing. Run it again whenever you like.
    """
    from sweeps.api.environment import environment
    from sweeps.execution.catch_up import catch_up
    from sweeps.study.state import require_sweep

    if name is not None:
        require_sweep(workspace, name)
    where, results = environment(workspace), []
    for sweep_name in [name] if name is not None else workspace.sweep_names():
        if name is None and workspace.is_locked(sweep_name):
            say(f"{sweep_name}: it runs now, and sends its trials itself")
            continue
        with workspace.lock(sweep_name):
            caught_up = catch_up(sweep_name, where, say)
        results.append({"name": sweep_name, "trials": caught_up.trials, "sent": caught_up.sent})
        say(f"{sweep_name}: MLflow shows all {caught_up.trials} trials; {caught_up.sent} were sent or corrected")
    if as_json:
        print_json(results)


@click.command()
@click.argument("name", required=False)
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="The port to listen on.")
@click.pass_obj
def ui(workspace: Workspace, name: str | None, port: int) -> None:
    """Serve MLflow, and print the address of the table of trials.

    The table compares the trials of the sweep NAME (default: the latest).
    """
    from sweeps import tracking
    from sweeps.api.environment import tracking_uri
    from sweeps.study import state

    name = name or next(iter(workspace.sweep_names()), None)
    if name is None:
        raise SweepError(f"there is no sweep in {relative(workspace.root)}", "Start one: sweep run FILE")
    if not workspace.run_table_file(name).exists():
        raise state.unknown_sweep(workspace, name)
    table = workspace.run_table_file(name).read_text(encoding="utf-8")
    uri = tracking_uri(workspace)
    if uri.startswith("http"):
        say(f"the trials of `{name}`: {uri.rstrip('/')}/{table.lstrip('/')}")
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise SweepError(f"port {port} is in use", f"Try --port {port + 1}.") from error
    say(f"the trials of `{name}`: http://127.0.0.1:{port}/{table.lstrip('/')}   (Ctrl-C stops the server)")
    server = tracking.serve_ui(uri, port, say)
    # replace this process, so that a signal to the command reaches the server
    os.execv(server[0], server)
