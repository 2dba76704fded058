"""The command `sweep export`: the model of a sweep as files for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click

from backends.model_export import FORMATS, ExportFormat
from sweeps.cli.terminal import json_option, print_json, say
from sweeps.workspace import Workspace


@click.command()
@click.argument("name")
@click.option(
    "--format", "file_format", type=click.Choice(FORMATS), required=True,
    help="adapter: a PEFT adapter; merged: a complete transformers model; gguf: a file for llama.cpp.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="The folder to write; new or empty."
)
@click.option("--trial", type=click.IntRange(min=0), metavar="NUMBER", help="Export this trial instead of the best.")
@json_option
@click.pass_obj
def export(workspace: Workspace, name: str, file_format: str, out: Path, trial: int | None, as_json: bool) -> None:
    """Write the best model of the sweep NAME for other programs.

    The folder also gets a model card, README.md, with the data's digests, the hyperparameters, the
    verdict and the scores.
    """
    from sweeps.api.environment import storage
    from sweeps.champions.model_export import export_best

    exported = export_best(workspace, name, storage(), cast(ExportFormat, file_format), out, trial)
    if as_json:
        print_json(
            {
                "sweep": exported.sweep,
                "trial": exported.trial,
                "format": exported.file_format,
                "folder": str(exported.folder),
                "files": list(exported.files),
            }
        )
    else:
        say(f"wrote the model of trial {exported.trial} to {exported.folder}: {', '.join(exported.files)}")
