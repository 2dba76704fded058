"""The command `sweep serve`: a fine-tuning server for any OpenAI client."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from sweeps.cli.terminal import say
from sweeps.errors import Problem, UserInputError, require_extra
from sweeps.workspace import Workspace

API_KEYS = "SWEEP_API_KEYS"
WEBHOOK_SECRET = "SWEEP_WEBHOOK_SECRET"


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0 picks a free port.")
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder of files, jobs and models.  [default: server/ in the workspace]",
)
@click.option(
    "--backend",
    default="local",
    show_default=True,
    help="The backend that trains: local, fake, or an installed plugin.",
)
@click.option(
    "--model", "models", multiple=True, metavar="NAME=DIR", help="A base model that clients may use. Repeatable."
)
@click.option(
    "--set", "backend_options", multiple=True, metavar="KEY=VALUE", help="A backend option, e.g. device=cuda."
)
@click.option(
    "--max-jobs", type=click.IntRange(1), help="Run up to this many jobs at the same time.  [default: 1 for local]"
)
@click.option(
    "--api-key-env",
    "key_variables",
    multiple=True,
    metavar="VARIABLE",
    help="The environment variable with the accepted API keys, or VARIABLE_FILE with the path of a file of keys.  "
    f"[default: {API_KEYS}]",
)
@click.option(
    "--webhook",
    metavar="URL",
    help=f"Notify this URL when a job ends; {WEBHOOK_SECRET} holds the secret that signs it.",
)
@click.option(
    "--max-file-mb", type=click.IntRange(1), default=512, show_default=True, help="The largest accepted upload."
)
@click.option(
    "--faults",
    default="",
    metavar="SPEC",
    help="Inject the faults of real services, for testing clients; see docs/guide/serve.md.",
)
@click.pass_obj
def serve(
    workspace: Workspace,
    /,
    host: str,
    port: int,
    root: Path | None,
    key_variables: tuple[str, ...],
    webhook: str | None,
    **typed: Any,
) -> None:
    """Serve the OpenAI fine-tuning protocol on this machine.

    Any OpenAI client can then train and use models here.
    """
    require_extra("server", "`sweep serve`")
    from sweeps.cli import serve_settings
    from sweeps.server import serving

    options = serve_settings.ServeOptions(
        root=(root or workspace.root / "server").absolute(),
        keys=_secrets(key_variables or (API_KEYS,), required=bool(key_variables)),
        webhook=webhook,
        webhook_secrets=_secrets((WEBHOOK_SECRET,), required=webhook is not None),
        **typed,
    )
    serving.serve(serve_settings.server_settings(options), host, port, say)


def _secrets(variables: tuple[str, ...], *, required: bool) -> tuple[str, ...]:
    """Return the secrets in environment variables, and in the files named by `VARIABLE_FILE`.

    Commas, spaces and line ends separate several secrets. Raises UserInputError if a file cannot be
    read, or if a variable without any secret is `required`.
    """
    secrets: list[str] = []
    for variable in variables:
        text = os.environ.get(variable, "")
        if file := os.environ.get(f"{variable}_FILE"):
            try:
                text += "\n" + Path(file).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
                raise UserInputError([Problem(f"{variable}_FILE", f"cannot read {file}: {reason}")]) from error
        in_variable = text.replace(",", " ").split()
        if not in_variable and required:
            raise UserInputError([Problem(variable, "is not set", f"Set it, or {variable}_FILE.")])
        secrets += in_variable
    return tuple(secrets)
