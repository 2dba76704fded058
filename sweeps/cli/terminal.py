"""How commands print: data to stdout, messages to stderr."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, TextIO

import click
from rich.console import Console, RenderableType
from rich.table import Table

PIPE_COLUMNS = 140
"""The width of the output if it is not a terminal."""


def _console(stream: TextIO | None, *, stderr: bool = False) -> Console:
    is_terminal = stream is not None and stream.isatty()  # None: the caller closed it
    return Console(stderr=stderr) if is_terminal else Console(stderr=stderr, width=PIPE_COLUMNS)


out = _console(sys.stdout)
err = _console(sys.stderr, stderr=True)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout.")


def show(renderable: RenderableType) -> None:
    """Print the command's result."""
    out.print(renderable, highlight=False)


def has_colours() -> bool:
    """Return whether the command's result can be coloured."""
    return out.is_terminal and out.color_system is not None and not out.no_color


def say(text: str) -> None:
    """Print a message that is not part of the command's result."""
    err.print(text, highlight=False, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print the command's result as JSON."""
    click.echo(json.dumps(value, indent=2, default=str))


def plain(text: str) -> str:
    """Escape text for rich, so that square brackets are printed as they are."""
    return text.replace("[", r"\[")


def relative(path: Path) -> str:
    """Return a path relative to the current folder if it lies below it, else as it is."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def as_hint(text: str) -> str:
    """Return a remedy in the form that all commands use: a capital letter, and no full stop at the
    end.

    A remedy of several sentences keeps its full stops. One that begins with a command stays as it
    is.
    """
    if ". " not in text and not text.endswith(".."):
        text = text.removesuffix(".")
    return text if text.startswith(("sweep ", "pip ")) else text[:1].upper() + text[1:]


def fact_table() -> Table:
    """Return an empty table of facts: a name in bold, and what is known under it."""
    shown = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    shown.add_column(style="bold")
    shown.add_column(overflow="fold")
    return shown
