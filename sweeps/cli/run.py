"""The commands that read a sweep file: `sweep init`, `check`, `plan` and `run`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.text import Text

from backends import codec
from sweeps.cli import gate
from sweeps.cli.gate import gate_options
from sweeps.cli.terminal import err, has_colours, json_option, print_json, say, show
from sweeps.errors import Problem, UserInputError
from sweeps.workspace import RunCommand, Workspace

_Command = TypeVar("_Command", bound=Callable[..., Any])


def sweep_file_options(command: _Command) -> _Command:
    """Add the argument and the options that every command with a sweep file has."""
    for option in (
        click.option("--address", metavar="HOST:PORT", envvar="RAY_ADDRESS", help="Run on this Ray cluster."),
        click.option(
            "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. search.trials=8."
        ),
        click.option("--model", metavar="NAME_OR_DIR", help="The base model; short for --set backend.model=..."),
        click.option(
            "--data",
            "data_path",
            type=click.Path(path_type=Path),
            metavar="PATH",
            help="The file or folder with the data on this machine.",
        ),
        click.argument("file", type=click.Path(path_type=Path)),
    ):
        command = option(command)
    return command


files_option = click.option(
    "--files",
    metavar="URL",
    envvar="SWEEP_FILES",
    help="The store by which a cluster's machines exchange files: s3://bucket/path, or a shared folder.",
)


@click.command()
@click.argument("arguments", nargs=-1, metavar="[DATA] [FILE]")
@click.option("--data", "data", metavar="DATA", help="The same as DATA.")
@click.option(
    "--from",
    "program",
    type=click.Path(path_type=Path),
    help="Write the sweep file for this training script or configuration (TRL, axolotl, LLaMA-Factory, torchtune).",
)
@click.option("--force", is_flag=True, help="Overwrite FILE and the schema.")
def init(arguments: tuple[str, ...], data: str | None, program: Path | None, force: bool) -> None:
    """Write a first sweep file, and its JSON Schema for editors.

    DATA is a file with examples (JSON lines, JSON, CSV, TSV, Parquet, Excel, compressed), a folder
    or a URL. Its content decides the templates, the objective, the space and the base model. FILE
    is the sweep file, by default sweep.yaml or, for DATA, the name of the data with .yaml.
    """
    from sweeps.cli.starter_arguments import data_and_file
    from sweeps.spec.starter import write_starter

    data, file = data_and_file(arguments, data)
    if data is not None and program is not None:
        hint = "a training program reads its own data: leave out --data"
        raise UserInputError([Problem("--from", "cannot be used with --data", hint)])
    starter = write_starter(file, data, program, overwrite=force)
    for fact in starter.facts:
        say(fact)
    for text in starter.warnings:
        err.print(Text.assemble(("warning: ", "yellow"), text), soft_wrap=not err.is_terminal)
    say(f"wrote {file}; next: sweep plan {file}")


@click.command()
def schema() -> None:
    """Print the JSON Schema of the sweep file, for editors."""
    from sweeps.spec.json_schema import schema_text

    click.echo(schema_text(), nl=False)


@click.command()
@sweep_file_options
@gate_options
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write a report on the data: findings, baselines, labels, lengths, drift, the strangest examples.",
)
@json_option
@click.pass_obj
def check(
    workspace: Workspace,
    file: Path,
    data_path: Path | None,
    model: str | None,
    overrides: tuple[str, ...],
    address: str | None,
    strict: bool,
    accepted: tuple[str, ...],
    html: Path | None,
    as_json: bool,
) -> None:
    """Check a sweep file, its data and its model. Starts nothing.

    Shows a training example, which part of it is trained, and what the task gives away: the scores
    of simple baselines.
    """
    from sweeps.cli import data_view, example_view
    from sweeps.planning.gate import stop_at_warnings

    try:
        plan = _plan(workspace, file, data_path, model, overrides, address, estimate=False)
    except UserInputError as error:
        if as_json:
            print_json(gate.failed_check_json(error))
        raise
    if html is not None:
        gate.write_data_report(plan, html)
    if as_json:
        print_json(gate.check_json(plan, strict, accepted))
        stop_at_warnings(plan.findings, strict, accepted)
        return
    if not strict:
        for finding in data_view.findings(plan.findings):
            err.print(finding, soft_wrap=not err.is_terminal)
    if command := _repair(plan, data_path):
        say(f"to repair what can be repaired: {command}")
    stop_at_warnings(plan.findings, strict, accepted)
    say(f"{file}: ok. {data_view.data_line(plan)}")
    for table in data_view.baselines(plan.data.baselines):
        show(table)
    if plan.example is not None:
        show(example_view.example(plan.example, coloured=has_colours()))
    if remark := data_view.demonstration(plan):
        say(f"{plan.base_model}: {remark}")
    if lengths := example_view.token_lengths(plan.token_lengths, plan.max_length):
        say(f"training examples: {lengths}")
    if html is not None:
        say(f"wrote {html}")


@click.command()
@sweep_file_options
@gate_options
@json_option
@click.option("--no-estimate", is_flag=True, help="Skip the estimates of time and disk, which take some seconds.")
@click.pass_obj
def plan(
    workspace: Workspace,
    file: Path,
    data_path: Path | None,
    model: str | None,
    overrides: tuple[str, ...],
    address: str | None,
    strict: bool,
    accepted: tuple[str, ...],
    as_json: bool,
    no_estimate: bool,
) -> None:
    """Show what a sweep would do and cost. Starts nothing.

    Shows every hyperparameter as written in the file and as resolved.
    """
    from sweeps.cli import plan_view
    from sweeps.planning.gate import stop_at_warnings

    made = _plan(workspace, file, data_path, model, overrides, address, estimate=not no_estimate)
    if as_json:
        print_json(made.to_json())
    else:
        show(plan_view.plan(made))
    stop_at_warnings(made.findings, strict, accepted)
    if not as_json:
        say(f"next: sweep run {file}")


@click.command()
@sweep_file_options
@gate_options
@click.option("--fresh", is_flag=True, help="Start over. Keeps the earlier sweep of this name under another name.")
@files_option
@json_option
@click.pass_obj
def run(
    workspace: Workspace,
    file: Path,
    data_path: Path | None,
    model: str | None,
    overrides: tuple[str, ...],
    strict: bool,
    accepted: tuple[str, ...],
    fresh: bool,
    address: str | None,
    files: str | None,
    as_json: bool,
) -> None:
    """Run a sweep, or resume one that was stopped.

    `sweep status`, `stop`, `logs` and `resume` steer it from another terminal.
    """
    from sweeps.api.running import run_plan
    from sweeps.cli import data_view, outcome_view
    from sweeps.cli.progress import Progress
    from sweeps.execution.catch_up import incomplete
    from sweeps.planning.gate import stop_at_warnings

    made = _plan(workspace, file, data_path, model, overrides, address, estimate=False)
    stop_at_warnings(made.findings, strict, accepted)
    for finding in data_view.findings(made.findings):
        err.print(finding, soft_wrap=not err.is_terminal)
    say(f"data: {data_view.data_line(made)}")
    if remark := data_view.demonstration(made):
        say(f"{made.base_model}: {remark}")
    if rivals := data_view.to_beat(made):
        say(rivals)

    typed = (*overrides, *_model_override(model))
    data_name = str(data_path) if data_path else None
    command = RunCommand(os.getcwd(), str(file), typed, data_name, address, strict, accepted)
    outcome = run_plan(
        made, workspace, Progress(err), say, fresh=fresh, ray_address=address, files=files, command=command
    )
    if as_json:
        print_json(_outcome_json(outcome))
    else:
        show(outcome_view.outcome(outcome))
    if outcome.lacking:
        raise incomplete(made.spec.name, outcome.lacking, outcome.problems)


def _plan(
    workspace: Workspace,
    file: Path,
    data_path: Path | None,
    model: str | None,
    overrides: tuple[str, ...],
    address: str | None,
    *,
    estimate: bool,
) -> Any:
    from sweeps import api

    overrides = (*overrides, *_model_override(model))
    return api.plan(
        file, overrides=overrides, data=data_path, root=workspace.root, estimate=estimate, ray_address=address
    )


def _repair(plan: Any, data_path: Path | None) -> str:
    """Return the command that mends some of the warnings about the data; "" if none does."""
    from sweeps.data.repairs.advice import prepare_command

    return "" if plan.spec.data is None else prepare_command(plan.findings, plan.spec.data, data_path)


def _model_override(model: str | None) -> tuple[str, ...]:
    return () if model is None else (f"backend.model={json.dumps(model)}",)


def _outcome_json(outcome: Any) -> dict[str, Any]:
    return {
        "name": outcome.plan.spec.name,
        "data": outcome.plan.data.name,
        "end": outcome.end.value,
        "seconds": outcome.seconds,
        "best": codec.to_json(outcome.best) if outcome.best else None,
        "trials": [codec.to_json(trial) for trial in outcome.trials],
        "finals": codec.to_json(outcome.finals) if outcome.finals else None,
        "repeats": [codec.to_json(repeat) for repeat in outcome.repeats],
        "changes": [codec.to_json(change) for change in outcome.changes],
        "champion": codec.to_json(outcome.champion) if outcome.champion else None,
        "baselines": codec.to_json(outcome.comparison) if outcome.comparison else None,
        "mlflow": outcome.run_url,
        "report": str(outcome.report),
        "problems": list(outcome.problems),
    }
