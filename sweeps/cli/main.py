"""The command `sweep`: the only place that prints, reads the environment and exits.

Data goes to stdout, talk to stderr. Exit codes: 0 done, 1 something failed, 2 what the user wrote is wrong, 130 stopped
with Ctrl-C. Heavy libraries are loaded inside the commands that need them.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import get_completion_class
from pydantic import ValidationError

from backends import credentials
from sweeps.cli import champion, clean, nights, schedule, serve
from sweeps.cli.terminal import err as _err
from sweeps.cli.terminal import json_option as _json_option
from sweeps.cli.terminal import out as _out
from sweeps.cli.terminal import print_json as _print_json
from sweeps.cli.terminal import say as _say
from sweeps.cli.terminal import show as _show
from sweeps.cli.terminal import tracking_uri as _tracking_uri
from sweeps.errors import Problem, SweepError, SweepInterruptedError, UserInputError
from sweeps.workspace import Workspace

DEFAULT_ROOT = ".sweep"
ALL_ROWS = 100_000

_Command = TypeVar("_Command", bound=Callable[..., Any])


def main() -> None:
    """Run the command line and exit with the documented code."""
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        code = _complain(SweepInterruptedError("stopped"))
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except SweepError as error:
        code = _complain(error)
    except KeyboardInterrupt:
        code = _complain(SweepInterruptedError("stopped", "the same command goes on where it was"))
    except BrokenPipeError:  # the reader of a pipe went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (
        OSError
    ) as error:  # a full disk, a folder that cannot be written: wherever it shows, it is the user's to mend
        hint = "check the folder, its permissions and the free space; --root names another folder"
        code = _complain(SweepError(f"{error.filename or 'the disk'}: {error.strerror or error}", hint))
    gc.freeze()  # else the interpreter looks once more through all that torch, Ray and MLflow hold: 1 to 2 s
    sys.exit(code)


def _complain(error: SweepError) -> int:
    problems = error.problems if isinstance(error, UserInputError) else (Problem("", error.message, error.hint),)
    label = "[yellow]stopped:[/yellow]" if isinstance(error, SweepInterruptedError) else "[red]error:[/red]"
    for each in problems:
        _err.print(f"{label} {_plain(str(each))}", highlight=False, soft_wrap=True)
        if each.hint:
            _err.print(f"  [dim]{_plain(each.hint)}[/dim]", highlight=False, soft_wrap=True)
    if len(problems) > 1:
        _err.print(f"{len(problems)} problems; nothing was started", highlight=False)
    return error.exit_code


def _plain(text: str) -> str:
    return text.replace("[", r"\[")


def _sweep_file(command: _Command) -> _Command:
    """Add the argument and options of every command that reads a sweep file."""
    for option in (
        click.option(
            "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. search.trials=8."
        ),
        click.option("--model", metavar="NAME_OR_DIR", help="The base model; short for --set backend.model=..."),
        click.option(
            "--data",
            "located",
            type=click.Path(path_type=Path),
            metavar="PATH",
            help="Where the data is on this machine.",
        ),
        click.argument("file", type=click.Path(path_type=Path)),
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="finesweep", prog_name="sweep")
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="SWEEP_ROOT",
    default=DEFAULT_ROOT,
    show_default=True,
    help="The folder that sweeps write to.",
)
@click.pass_context
def cli(context: click.Context, root: Path) -> None:
    """Hyperparameter sweeps for fine-tuning language models, with a verdict on every trial.

    Exit codes: 0 done, 1 something failed, 2 what you wrote is wrong, 130 stopped with Ctrl-C.
    """
    credentials.hand_in(os.environ)
    context.obj = Workspace(root.absolute())


@cli.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("sweep.yaml"))
@click.option("--data", "data_file", type=click.Path(path_type=Path), help="Look into this data file for its columns.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
def init(file: Path, data_file: Path | None, force: bool) -> None:
    """Write a first sweep file, with a comment on every key."""
    from sweeps.spec.starter import starter

    if file.exists() and not force:
        raise UserInputError([Problem(str(file), "exists already", "give another name, or --force")])
    text = starter(file.stem, data_file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SweepError(
            f"{file} cannot be written: {error.strerror}", "choose a folder that you may write to"
        ) from error
    _say(f"wrote {file}; next: sweep plan {file}")


@cli.command()
@_sweep_file
@click.pass_obj
def check(
    workspace: Workspace, file: Path, located: Path | None, model: str | None, overrides: tuple[str, ...]
) -> None:
    """Check a sweep file, its data and its model; start nothing."""
    from sweeps.cli import screen

    plan = _plan(workspace, file, located, model, overrides, estimate=False)
    for each in screen.findings(plan.findings):
        _err.print(each, soft_wrap=True)
    _say(f"{file}: fine. {screen.data_line(plan)}")


@cli.command()
@_sweep_file
@_json_option
@click.option("--no-estimate", is_flag=True, help="Leave out time and disk, which take some seconds to measure.")
@click.pass_obj
def plan(
    workspace: Workspace,
    file: Path,
    located: Path | None,
    model: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
    no_estimate: bool,
) -> None:
    """Show what a sweep would do and take: every parameter as written and as resolved. Starts nothing."""
    from sweeps.cli import screen

    made = _plan(workspace, file, located, model, overrides, estimate=not no_estimate)
    if as_json:
        _print_json(made.to_json())
    else:
        _show(screen.plan(made))
        _say(f"next: sweep run {file}")


@cli.command()
@_sweep_file
@click.option("--fresh", is_flag=True, help="Start anew; the earlier sweep of this name is set aside, not deleted.")
@click.option("--address", metavar="HOST:PORT", envvar="RAY_ADDRESS", help="Run on this Ray cluster.")
@_json_option
@click.pass_obj
def run(
    workspace: Workspace,
    file: Path,
    located: Path | None,
    model: str | None,
    overrides: tuple[str, ...],
    fresh: bool,
    address: str | None,
    as_json: bool,
) -> None:
    """Run a sweep, or go on with one that was stopped."""
    from sweeps.cli import screen
    from sweeps.cli.progress import Progress

    made = _plan(workspace, file, located, model, overrides, estimate=False)
    for each in screen.findings(made.findings):
        _err.print(each, soft_wrap=True)
    _say(f"data: {screen.data_line(made)}")

    from sweeps.execution import run as running

    environment = _environment(workspace, address)
    name = made.spec.name
    if fresh and (aside := workspace.set_aside(name)):
        _say(f"the earlier sweep is kept in {_relative(aside)}")
    with workspace.claimed(name):
        outcome = running.run(made, environment, Progress(_err), _say, fresh=fresh)
    if as_json:
        _print_json(_outcome_json(outcome))
    else:
        _show(screen.outcome(outcome))


@cli.command()
@click.argument("name", required=False)
@_json_option
@click.pass_obj
def status(workspace: Workspace, name: str | None, as_json: bool) -> None:
    """List the sweeps here, or show one of them, while it runs or afterwards."""
    from sweeps.cli import screen
    from sweeps.study import state

    if name is None:
        summaries = [state.read(workspace, each, os.environ.get("SWEEP_STORAGE")) for each in workspace.names()]
        if as_json:
            _print_json([each.to_json() for each in summaries])
        elif summaries:
            _show(screen.listing(summaries))
        else:
            _say(f"there is no sweep in {_relative(workspace.root)}; sweep run FILE starts one")
        return
    summary = state.read(workspace, name, os.environ.get("SWEEP_STORAGE"))
    if as_json:
        _print_json(summary.to_json())
    else:
        _show(screen.listing([summary]))
        _show(screen.table(summary.trials, summary.objective, ALL_ROWS, summary.name_of))
        if summary.repeats:
            _say("finals: the best, trained again with other seeds")
            _show(screen.table(summary.repeats, summary.objective, ALL_ROWS, summary.name_of))


@cli.command()
@click.argument("name", required=False)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Where to write it.")
@click.pass_obj
def report(workspace: Workspace, name: str | None, out: Path | None) -> None:
    """Write the HTML report of the sweep NAME (default: the latest one), while it runs or afterwards."""
    from sweeps.reports import page
    from sweeps.study import state

    name = name or next(iter(workspace.names()), None)
    if name is None:
        raise SweepError(f"there is no sweep in {_relative(workspace.root)}", "sweep run FILE starts one")
    written = out or workspace.report(name)
    text = page.page(state.read(workspace, name, os.environ.get("SWEEP_STORAGE")), datetime.now())
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text(text, encoding="utf-8")
    click.echo(_relative(written))


@cli.command()
@click.argument("files", nargs=-1, metavar="FILE...")
@click.option("--mlflow", "runs", multiple=True, metavar="RUN_ID", help="An MLflow run; the same as mlflow:RUN_ID.")
@click.option("--metric", metavar="NAME", help="Judge by this metric, a share that is better the higher.")
@click.option("--valid-examples", type=click.IntRange(1), help="The size of the validation set.")
@click.option("--train-examples", type=click.IntRange(1), help="The size of the training set.")
@click.option("--classes", type=click.IntRange(2), help="The number of labels.")
@click.option("--baseline-loss", type=float, help="The validation loss before training.")
@click.option("--baseline-metric", type=float, help="The validation metric before training.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), metavar="OUT.png", help="Draw the curve.")
@click.option("--verbose", is_flag=True, help="Say which columns are ignored.")
@_json_option
@click.pass_obj
def fit(
    workspace: Workspace, /, files: tuple[str, ...], runs: tuple[str, ...], plot: Path | None, verbose: bool, as_json: bool,
    **context: Any,
) -> None:  # fmt: skip
    """Judge training histories, whoever trained: CSV or JSON files, MLflow runs (mlflow:RUN_ID)."""
    from backends.training_logs import Context
    from sweeps.reports import judged_histories

    sources = (*files, *(f"mlflow:{each}" for each in runs))
    if not sources:
        raise click.UsageError("give a FILE, or --mlflow RUN_ID")
    uri = _tracking_uri(workspace)
    found = judged_histories.judged(sources, uri, Context(**context))
    drawn = judged_histories.draw(found, plot) if plot is not None else ()
    if as_json:
        _print_json([each.to_json() for each in found])
    else:
        _show(judged_histories.shown(found, verbose=verbose))
    for each in drawn:
        _say(f"drawn: {each}")


@cli.command()
@click.argument("name", required=False)
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@click.pass_obj
def ui(workspace: Workspace, name: str | None, port: int) -> None:
    """Serve the MLflow UI, and say where the trials of the sweep NAME (default: the latest one) are compared."""
    from sweeps import tracking
    from sweeps.study import state

    name = name or next(iter(workspace.names()), None)
    if name is None:
        raise SweepError(f"there is no sweep in {_relative(workspace.root)}", "sweep run FILE starts one")
    if not workspace.run_table(name).exists():
        raise state.unknown(workspace, name)
    table = workspace.run_table(name).read_text(encoding="utf-8")
    uri = _environment(workspace, None).tracking_uri
    if uri.startswith("http"):
        _say(f"the trials of `{name}`: {uri.rstrip('/')}/{table.lstrip('/')}")
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise SweepError(f"port {port} is taken", f"try --port {port + 1}") from error
    _say(f"the trials of `{name}`: http://127.0.0.1:{port}/{table.lstrip('/')}   (Ctrl-C ends the server)")
    server = tracking.serve_ui(uri, port)
    os.execv(server[0], server)  # in place of this process, so that whatever ends the command ends the server


@cli.command()
@click.argument("name", required=False)
@click.option("--scope", help="Show the recommendations of this scope.")
@_json_option
def spaces(name: str | None, scope: str | None, as_json: bool) -> None:
    """List the named search spaces, show one, or show the recommendations of a scope."""
    from search_spaces import library
    from search_spaces.catalogue import Catalogue
    from sweeps.cli import screen

    catalogue = Catalogue.load()
    if scope is not None:
        if scope not in catalogue.scopes():
            raise UserInputError(
                [Problem("--scope", f"there is no scope `{scope}`", f"one of: {', '.join(catalogue.scopes())}")]
            )
        if as_json:
            _print_json({each: found.to_json() for each, found in catalogue.for_scope(scope).items()})
        else:
            _show(screen.recommendations(catalogue, scope))
        return
    if name is not None and name not in library.names():
        raise UserInputError([Problem(name, "is not a named space", f"one of: {', '.join(library.names())}")])
    chosen = [library.load(each) for each in ([name] if name else library.names())]
    if as_json:
        _print_json(
            [{"name": each.name, "description": each.description, "space": dict(each.space)} for each in chosen]
        )
    elif name:
        _show(screen.space(chosen[0]))
    else:
        _show(screen.spaces(chosen))
        _say(f"recommendations: sweep spaces --scope {{{','.join(catalogue.scopes())}}}")


@cli.command()
@click.argument("name", required=False)
@click.option("--model", help="Describe the backend for this model.")
@_json_option
def backends(name: str | None, model: str | None, as_json: bool) -> None:
    """List the installed backends, or show what one accepts."""
    from backends import registry
    from sweeps.cli import screen

    if name is None:
        listed = registry.describe_all()
        if as_json:
            _print_json([asdict(each) for each in listed])
        else:
            for each in listed:
                click.echo(f"{each.name:12} {each.distribution} {each.version}")
            _say("sweep backends NAME --model MODEL   shows what it accepts")
        return
    try:
        backend = registry.load(name)
    except registry.RegistryError as error:
        raise UserInputError([Problem(name, error.message, error.hint)]) from error
    try:
        capabilities = backend.describe(backend.options_model.model_validate({"model": model} if model else {}))
    except ValidationError as error:
        hint = f"its options: {', '.join(backend.options_model.model_fields)}"
        raise UserInputError([Problem(name, "cannot be described without a model", hint)]) from error
    if as_json:
        _print_json(asdict(capabilities))
    else:
        _show(screen.backend(capabilities))


@cli.command()
@_json_option
@click.pass_obj
def doctor(workspace: Workspace, as_json: bool) -> None:
    """Look for what would keep sweeps from running on this machine."""
    from sweeps.cli import machine_checks

    found = machine_checks.examine(workspace, _environment(workspace, None).tracking_uri)
    if as_json:
        _print_json([each.to_json() for each in found])
    else:
        for each in found:
            style = {"ok": "green", "note": "yellow", "bad": "red"}[each.state]
            _out.print(f"[{style}]{each.state:4}[/{style}] {_plain(each.what)}", highlight=False, soft_wrap=True)
            if each.remedy:
                _out.print(f"     [dim]{_plain(each.remedy)}[/dim]", highlight=False, soft_wrap=True)
    if any(each.state == "bad" for each in found):
        raise SweepError("something here needs your attention", "see the lines marked `bad`")


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell: eval "$(sweep completion bash)"."""
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "sweep", "_SWEEP_COMPLETE").source())


def _plan(
    workspace: Workspace,
    file: Path,
    located: Path | None,
    model: str | None,
    overrides: tuple[str, ...],
    *,
    estimate: bool,
) -> Any:
    from sweeps.planning.plan import plan_file

    _tracking_uri(workspace)  # a mistake there is the user's, too, and told before anything is read
    if model is not None:
        overrides = (*overrides, f"backend.model={json.dumps(model)}")
    return plan_file(file, overrides, workspace, located, estimate=estimate)


def _environment(workspace: Workspace, address: str | None) -> Any:
    from sweeps.execution.run import Environment

    return Environment(workspace, _tracking_uri(workspace), os.environ.get("SWEEP_STORAGE"), address)


def _outcome_json(outcome: Any) -> dict[str, Any]:
    return {
        "name": outcome.plan.spec.name,
        "data": outcome.plan.data.name,
        "end": outcome.end.value,
        "seconds": outcome.seconds,
        "best": outcome.best.to_json() if outcome.best else None,
        "trials": [each.to_json() for each in outcome.trials],
        "finals": outcome.finals.to_json() if outcome.finals else None,
        "repeats": [each.to_json() for each in outcome.repeats],
        "changes": [each.to_json() for each in outcome.changes],
        "champion": outcome.champion.to_json() if outcome.champion else None,
        "mlflow": outcome.run_url,
        "report": str(outcome.report),
        "problems": list(outcome.problems),
    }


def _relative(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


cli.add_command(champion.champion)
cli.add_command(champion.predict)
cli.add_command(clean.clean)
cli.add_command(schedule.schedule)
cli.add_command(nights.scheduler)
cli.add_command(serve.serve)

if __name__ == "__main__":
    main()
