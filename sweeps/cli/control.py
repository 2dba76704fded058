"""The commands that steer a sweep from another terminal: `sweep resume` and `sweep stop`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import click

from sweeps.cli.run import run
from sweeps.cli.terminal import say
from sweeps.errors import Problem, SweepError, UserInputError
from sweeps.workspace import Workspace

LOOK_EVERY_S = 0.5
SAY_EVERY_S = 10.0
"""How often `sweep stop` says that it still waits."""


@click.command()
@click.argument("name")
@click.pass_context
def resume(context: click.Context, name: str) -> None:
    """Run the last `sweep run` command of the sweep NAME again.

    It reads the same sweep file, in the folder in which that command was typed.
    """
    from sweeps.scaling.stored_points import MARK
    from sweeps.study.state import require_sweep

    workspace: Workspace = context.obj
    require_sweep(workspace, name)
    command = workspace.last_command(name)
    if command is None and (workspace.sweep_folder(name) / MARK).exists():
        raise SweepError(f"`{name}` is a point of a scale run", "Type its `sweep scale` command again.")
    if command is None:
        raise SweepError(f"nobody knows how sweep `{name}` was started", "Type its `sweep run` command again.")
    if not Path(command.folder, command.file).exists():
        place = str(Path(command.folder, command.file))
        raise UserInputError(
            [Problem(place, "the sweep file does not exist any more", "Put it back, or write it anew.")]
        )
    say(f"resuming `{name}`: {command}")
    os.chdir(command.folder)
    context.invoke(
        run,
        file=Path(command.file),
        data_path=Path(command.data) if command.data is not None else None,
        model=None,
        overrides=command.overrides,
        strict=command.strict,
        accepted=command.accepted,
        address=command.address,
        files=None,
        fresh=False,
        as_json=False,
    )


@click.command()
@click.argument("name")
@click.option("--no-wait", is_flag=True, help="Only ask the sweep to stop; do not wait for its end.")
@click.pass_obj
def stop(workspace: Workspace, name: str, no_wait: bool) -> None:
    """Stop the running sweep NAME as Ctrl-C does.

    Works from another terminal, and from another machine that shares its storage. `sweep resume`
    continues the sweep.
    """
    from sweeps.api.environment import storage
    from sweeps.study.state import is_running, require_sweep
    from sweeps.study.stored_study import request_stop

    require_sweep(workspace, name)
    if not is_running(workspace, name, storage()):
        say(f"sweep `{name}` is not running")
        return
    request_stop(storage() or workspace.study_file(name), workspace.study_name(name))
    if no_wait:
        say(f"asked sweep `{name}` to stop")
        return
    say(f"asked sweep `{name}` to stop; waiting for its end")
    _wait(lambda: not is_running(workspace, name, storage()), f"sweep `{name}` is still recording its running trials")
    say(f"sweep `{name}` has stopped; to continue: sweep resume {name}")


def _wait(is_over: Callable[[], bool], message: str) -> None:
    said_at = time.monotonic()
    while not is_over():
        if time.monotonic() - said_at > SAY_EVERY_S:
            say(message)
            said_at = time.monotonic()
        time.sleep(LOOK_EVERY_S)
