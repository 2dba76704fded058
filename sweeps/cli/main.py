"""The command `sweep`: its options, its error messages and its exit codes.

Data goes to stdout, messages to stderr. Exit codes: 0 done, 1 something failed, 2 a mistake in the
input, 4 done but MLflow lacks a part of it, 130 stopped with Ctrl-C. The command modules load heavy
libraries only inside the commands that need them.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from backends import credentials, notices
from sweeps.cli import (
    catalogue,
    champion,
    clean,
    control,
    doctor,
    export,
    fit,
    logs,
    nights,
    prepare,
    results,
    run,
    scale,
    schedule,
    serve,
    standard_streams,
    watch,
)
from sweeps.cli.terminal import as_hint, err, plain, say
from sweeps.errors import PartialFailureError, Problem, SweepError, SweepInterruptedError, UserInputError
from sweeps.execution.interruption import ENDING_SIGNALS, interrupt_on, stop_interrupting
from sweeps.workspace import DEFAULT_ROOT, Workspace


def main() -> None:
    """Run the command line and exit with the documented code."""
    standard_streams.prepare()
    unset = (signal.SIG_DFL, signal.default_int_handler)
    interrupt_on(number for number in ENDING_SIGNALS if signal.getsignal(number) in unset)  # `nohup` ignores SIGHUP
    try:
        code = cli.main(standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Abort:
        code = _print_error(SweepInterruptedError("stopped"))
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except SweepError as error:
        code = _print_error(error)
    except KeyboardInterrupt:
        code = _print_error(SweepInterruptedError("stopped", "run the same command again to resume"))
    except standard_streams.OutputClosedError:  # `| head` has all it wants
        code = 0
    except OSError as error:  # such as a full disk or a missing permission, wherever it occurs
        hint = "check the folder, its permissions and the free space; --root selects another folder"
        code = _print_error(SweepError(f"{error.filename or 'the disk'}: {error.strerror or error}", hint))
    stop_interrupting()
    # Otherwise the interpreter searches all objects of torch, Ray and MLflow once more: 1 to 2 s.
    gc.freeze()
    sys.exit(code)


def _print_error(error: SweepError) -> int:
    problems: Sequence[Problem] = (Problem("", error.message, error.hint),)
    if isinstance(error, UserInputError | PartialFailureError):
        problems = error.problems
    label = "[yellow]stopped:[/yellow]" if isinstance(error, SweepInterruptedError) else "[red]error:[/red]"
    for problem in problems:
        code = f" [dim]{plain(f'[{problem.code}]')}[/dim]" if problem.code else ""
        err.print(f"{label} {plain(str(problem))}{code}", highlight=False, soft_wrap=True)
        if problem.hint:
            hint = textwrap.indent(plain(as_hint(problem.hint)), "  ")  # a traceback has several lines
            err.print(f"[dim]{hint}[/dim]", highlight=False, soft_wrap=True)
    if len(problems) > 1 and isinstance(error, UserInputError):
        err.print(f"{len(problems)} problems; nothing was started", highlight=False)
    if isinstance(error, UserInputError) and error.next_command:
        say(f"next: {error.next_command}")
    return error.exit_code


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="finesweep", prog_name="sweep")
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="SWEEP_ROOT",
    default=DEFAULT_ROOT,
    show_default=True,
    help="The workspace: the folder of all sweeps.",
)
@click.pass_context
def cli(context: click.Context, root: Path) -> None:
    """Hyperparameter sweeps for fine-tuning language models, with a verdict on every trial.

    Exit codes: 0 done, 1 something failed, 2 a mistake in the input, 4 done but MLflow lacks a part
    of it, 130 stopped with Ctrl-C.
    """
    credentials.use_secrets_from(os.environ)
    notices.listen(say)
    context.obj = Workspace(root.absolute())


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    To use it in bash: eval "$(sweep completion bash)"
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "sweep", "_SWEEP_COMPLETE").source())


COMMANDS = (
    run.init,
    run.schema,
    prepare.prepare,
    run.check,
    run.plan,
    run.run,
    scale.scale,
    control.resume,
    control.stop,
    results.status,
    watch.watch,
    logs.logs,
    results.report,
    results.track,
    results.ui,
    fit.fit,
    catalogue.spaces,
    catalogue.backends,
    catalogue.metrics,
    doctor.doctor,
    champion.champion,
    champion.predict,
    export.export,
    clean.clean,
    schedule.schedule,
    nights.scheduler,
    serve.serve,
)
for _command in COMMANDS:
    cli.add_command(_command)

if __name__ == "__main__":
    main()
