"""How the commands speak: data to stdout, talk to stderr. Used by the command line's modules only."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console, RenderableType

from sweeps.workspace import Workspace

PIPE_COLUMNS = 140
"""The width of what is written where there is no terminal to ask."""

out = Console() if sys.stdout.isatty() else Console(width=PIPE_COLUMNS)
err = Console(stderr=True) if sys.stderr.isatty() else Console(stderr=True, width=PIPE_COLUMNS)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout.")


def show(renderable: RenderableType) -> None:
    """Print what was asked for."""
    out.print(renderable, highlight=False)


def say(text: str) -> None:
    """Say something beside what was asked for."""
    err.print(text, highlight=False, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print what was asked for, for machines."""
    click.echo(json.dumps(value, indent=2, default=str))


def tracking_uri(workspace: Workspace) -> str:
    """Return where MLflow records. Raises UserInputError where the user named something that MLflow does not know."""
    from sweeps import tracking

    uri = os.environ.get("MLFLOW_TRACKING_URI") or tracking.default_uri(workspace.root)
    tracking.check_scheme(uri)
    return uri


def plain(text: str) -> str:
    """Escape text for rich, so that square brackets stay as they are."""
    return text.replace("[", r"\[")


def relative(path: Path) -> str:
    """Return a path as the user would type it: relative to the current folder where it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def environment(workspace: Workspace, address: str | None) -> Any:
    """Return where sweeps are kept, recorded and run, as the options and the environment say."""
    from sweeps.execution.environment import Environment

    return Environment(workspace, tracking_uri(workspace), os.environ.get("SWEEP_STORAGE"), address)
