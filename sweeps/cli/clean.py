"""The command `sweep clean`: list what a sweep left behind where it trained, and delete it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click
from rich.table import Table
from rich.text import Text

from sweeps.cli.terminal import json_option, print_json, say, show
from sweeps.errors import SweepError
from sweeps.workspace import Workspace

if TYPE_CHECKING:
    from sweeps.execution.cleanup import CleanupItem


@click.command()
@click.argument("name")
@click.option("--yes", "--remove", "really", is_flag=True, help="Delete it. Without this option nothing is deleted.")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Also delete the best model, former champions, and what the next `sweep run` needs to continue.",
)
@json_option
@click.pass_obj
def clean(workspace: Workspace, name: str, really: bool, everything: bool, as_json: bool) -> None:
    """List what the sweep NAME left behind where it trained, and delete it with --yes.

    That is files, checkpoints, models, deployments and jobs. A champion's model is never deleted,
    nor is anything that another sweep uses. If you interrupt the command, run it again.
    """
    from sweeps.api.environment import environment
    from sweeps.execution import cleanup

    claim = workspace.lock(name) if really and workspace.sweep_folder(name).exists() else contextlib.nullcontext()
    where = environment(workspace)
    with claim, cleanup.open_cleanup(name, workspace, where.tracking_uri, where.storage, everything=everything) as left:
        refused = left.remove(say) if really and left.can_clean else []
    freed = sum(item.leftover.size_bytes or 0 for item in left.removable)
    if as_json:
        items = [item.to_json() for item in left.items]
        print_json({"name": name, "removed": really, "can_clean": left.can_clean, "bytes": freed, "items": items})
    elif left.items:
        show(_table(left.items, really))
    if not left.can_clean:
        say(f"backend `{left.backend_type}` does not report what its runs leave behind; nothing can be deleted here")
    elif not left.items:
        say(f"sweep `{name}` left nothing behind")
    else:
        _conclude(name, left.removable, freed, really)
    if refused:
        reasons = dict.fromkeys(item.kept_because for item in refused)
        raise SweepError(f"{len(refused)} could not be deleted: {'; '.join(reasons)}", "see the table")


def _conclude(name: str, going: list[CleanupItem], freed: int, really: bool) -> None:
    from sweeps.reports.formatting import in_bytes

    size = f", {in_bytes(freed)} of files" if freed else ""
    if really:
        say(f"removed: {len(going)}{size}")
    elif going:
        say(f"would delete {len(going)}{size}. Nothing was deleted. next: sweep clean {name} --yes")
    else:
        say("nothing to delete")


def _table(items: list[CleanupItem], really: bool) -> Table:
    from sweeps.reports.formatting import in_bytes

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("what", "name", "trial"):
        table.add_column(column, overflow="fold")
    table.add_column("size", justify="right")
    table.add_column("what happens to it", overflow="fold")
    for item in items:
        size = item.leftover.size_bytes
        fate = (
            Text(f"stays: {item.kept_because}")
            if item.kept_because
            else Text("removed" if really else "goes", style="red")
        )
        table.add_row(
            item.leftover.kind,
            Text(item.leftover.name),
            "" if item.trial is None else str(item.trial),
            "" if size is None else in_bytes(size),
            fate,
        )
    return table
