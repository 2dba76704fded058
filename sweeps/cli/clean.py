"""The command `sweep clean`: what a sweep has left where it trained, and removing it."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import click
from rich.table import Table
from rich.text import Text

from sweeps.cli.terminal import json_option, print_json, say, show, tracking_uri
from sweeps.errors import SweepError
from sweeps.workspace import Workspace

if TYPE_CHECKING:
    from sweeps.execution.cleanup import Item


@click.command()
@click.argument("name")
@click.option("--yes", "--remove", "really", is_flag=True, help="Remove it. Without this nothing is changed.")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Also the best model, champions before, and what the next `sweep run` would go on with.",
)
@json_option
@click.pass_obj
def clean(workspace: Workspace, name: str, really: bool, everything: bool, as_json: bool) -> None:
    """List what the sweep NAME has left where it trained, and remove it with --yes: files, checkpoints, models,
    deployments, jobs.

    A champion's model always stays, and so does what another sweep uses. It can be run again after an interruption.
    """
    from sweeps.execution import cleanup

    claim = workspace.lock(name) if really and workspace.sweep_folder(name).exists() else contextlib.nullcontext()
    uri, storage = tracking_uri(workspace), os.environ.get("SWEEP_STORAGE")
    with claim, cleanup.clean_up(name, workspace, uri, storage, everything=everything) as left:
        refused = left.remove(say) if really and left.can_clean else []
    freed = sum(item.leftover.size_bytes or 0 for item in left.going)
    if as_json:
        items = [item.to_json() for item in left.items]
        print_json({"name": name, "removed": really, "can_clean": left.can_clean, "bytes": freed, "items": items})
    elif left.items:
        show(_table(left.items, really))
    if not left.can_clean:
        say(f"backend `{left.backend_type}` says nothing of what its runs leave, so there is nothing to remove here")
    elif not left.items:
        say(f"sweep `{name}` has left nothing")
    else:
        _conclude(name, left.going, freed, really)
    if refused:
        reasons = dict.fromkeys(item.kept for item in refused)
        raise SweepError(f"{len(refused)} could not be removed: {'; '.join(reasons)}", "see the table")


def _conclude(name: str, going: list[Item], freed: int, really: bool) -> None:
    from sweeps.reports.formatting import in_bytes

    size = f", {in_bytes(freed)} of files" if freed else ""
    if really:
        say(f"removed: {len(going)}{size}")
    elif going:
        say(f"would be removed: {len(going)}{size}; nothing was changed. sweep clean {name} --yes   removes it")
    else:
        say("nothing would be removed")


def _table(items: list[Item], really: bool) -> Table:
    from sweeps.reports.formatting import in_bytes

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("what", "name", "trial"):
        table.add_column(column, overflow="fold")
    table.add_column("size", justify="right")
    table.add_column("what becomes of it", overflow="fold")
    for item in items:
        size = item.leftover.size_bytes
        fate = Text(f"stays: {item.kept}") if item.kept else Text("removed" if really else "goes", style="red")
        table.add_row(
            item.leftover.kind,
            Text(item.leftover.name),
            "" if item.trial is None else str(item.trial),
            "" if size is None else in_bytes(size),
            fate,
        )
    return table
