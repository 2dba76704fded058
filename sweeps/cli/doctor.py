"""The command `sweep doctor`: find what would keep sweeps from running on this machine."""

from __future__ import annotations

import click

from sweeps.cli.terminal import as_hint, json_option, out, plain, print_json
from sweeps.errors import SweepError
from sweeps.workspace import Workspace


@click.command()
@json_option
@click.pass_obj
def doctor(workspace: Workspace, as_json: bool) -> None:
    """Find what would keep sweeps from running on this machine."""
    from sweeps.api.environment import tracking_uri
    from sweeps.cli import machine_checks

    found = machine_checks.examine(workspace, tracking_uri(workspace))
    if as_json:
        print_json([check.to_json() for check in found])
    else:
        for check in found:
            style = {"ok": "green", "note": "yellow", "bad": "red"}[check.state]
            out.print(f"[{style}]{check.state:4}[/{style}] {plain(check.what)}", highlight=False, soft_wrap=True)
            if check.remedy:
                out.print(f"     [dim]{plain(as_hint(check.remedy))}[/dim]", highlight=False, soft_wrap=True)
    if any(check.state == "bad" for check in found):
        raise SweepError("some checks failed", "Fix the lines marked `bad`.")
