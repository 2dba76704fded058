"""The command `sweep clean`: list the leftovers of a sweep, and delete them."""

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
@click.option("--yes", "--remove", "really", is_flag=True, help="Delete the leftovers instead of only listing them.")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Also delete the best model, former champions, and the data that `sweep run` needs to resume.",
)
@json_option
@click.pass_obj
def clean(workspace: Workspace, name: str, really: bool, everything: bool, as_json: bool) -> None:
    """List the leftovers of the sweep NAME, or delete them (--yes).

    Leftovers are files, checkpoints, models, deployments and jobs, at the host or on disk. The
    command never deletes a champion's model or anything that another sweep uses. If you interrupt
    it, run it again.
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
        say(f"backend `{left.backend_type}` cannot list the leftovers of its runs, so there is nothing to delete")
    elif not left.items:
        say(f"sweep `{name}` has no leftovers")
    else:
        _conclude(name, left.removable, freed, really)
    if refused:
        reasons = dict.fromkeys(item.kept_because for item in refused)
        raise SweepError(f"{len(refused)} items could not be deleted: {'; '.join(reasons)}", "the table lists them")


def _conclude(name: str, going: list[CleanupItem], freed: int, really: bool) -> None:
    from sweeps.reports.formatting import in_bytes

    size = f", {in_bytes(freed)} of files" if freed else ""
    if really:
        say(f"deleted: {len(going)}{size}")
    elif going:
        say(f"to delete: {len(going)}{size}. Nothing was deleted. next: sweep clean {name} --yes")
    else:
        say("nothing to delete")


def _table(items: list[CleanupItem], really: bool) -> Table:
    from sweeps.reports.formatting import in_bytes

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("what", "name", "trial"):
        table.add_column(column, overflow="fold")
    table.add_column("size", justify="right")
    table.add_column("action", overflow="fold")
    for item in items:
        size = item.leftover.size_bytes
        fate = (
            Text(f"stays: {item.kept_because}")
            if item.kept_because
            else Text("deleted" if really else "would be deleted", style="red")
        )
        table.add_row(
            item.leftover.kind,
            Text(item.leftover.name),
            "" if item.trial is None else str(item.trial),
            "" if size is None else in_bytes(size),
            fate,
        )
    return table
