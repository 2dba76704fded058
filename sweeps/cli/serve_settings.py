"""From the options of `sweep serve` to ServerSettings. All mistakes are reported together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends import registry
from sweeps.errors import Problem, UserInputError
from sweeps.server.settings import DEFAULT_MODELS, MIB, ServerSettings
from sweeps.server.webhooks import is_valid_secret
from sweeps.spec.yaml_source import Document, with_overrides

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class ServeOptions:
    """The options of the command as the user typed them, with the secrets of the environment.

    `models` are texts `NAME=DIR`, and `backend_options` texts `KEY=VALUE`. Only the first of
    `webhook_secrets` is used.
    """

    root: Path
    backend: str = "local"
    models: tuple[str, ...] = ()
    backend_options: tuple[str, ...] = ()
    max_jobs: int | None = None
    max_file_mb: int = 512
    keys: tuple[str, ...] = field(default=(), repr=False)
    webhook: str | None = None
    webhook_secrets: tuple[str, ...] = field(default=(), repr=False)
    faults: str = ""


def server_settings(options: ServeOptions) -> ServerSettings:
    """Return the settings of the server.

    Raises UserInputError with every mistake in the options.
    """
    problems: list[Problem] = []
    models = _models(options, problems)
    try:
        registry.load(options.backend)
    except registry.RegistryError as error:
        problems.append(Problem("--backend", error.message, error.hint))
    else:
        if not models:
            message = f"the backend {options.backend} needs a base model"
            problems.append(Problem("--model", message, "Name one: --model NAME=DIR"))
    secret = next(iter(options.webhook_secrets), None)
    problems += _webhook_problems(options.webhook, secret)
    backend_options: dict[str, Any] = {}
    try:
        backend_options = with_overrides(Document("--set", {}, {}), options.backend_options).value
    except UserInputError as error:
        problems += error.problems
    if problems:
        raise UserInputError(problems)
    return ServerSettings(
        root=options.root,
        backend=options.backend,
        models=models,
        options=backend_options,
        max_jobs=options.max_jobs,
        keys=options.keys,
        webhook=options.webhook,
        webhook_secret=secret,
        faults=options.faults,
        max_file_bytes=options.max_file_mb * MIB,
    )


def _models(options: ServeOptions, problems: list[Problem]) -> Mapping[str, str]:
    """Return the base models by their public names, or those that the backend has by default."""
    models: dict[str, str] = {}
    for text in options.models:
        name, sign, target = text.partition("=")
        if not sign or not name or not target:
            problems.append(Problem("--model", f"{text!r} is not NAME=DIR"))
        models[name] = target
    models = models or dict(DEFAULT_MODELS.get(options.backend, {}))
    for name in models:
        if _MODEL_NAME.fullmatch(name) is None:
            hint = "Use letters, digits, `.`, `_` and `-`: --model my-llama=/path/to/it"
            problems.append(Problem("--model", f"{name!r} is not a valid model name", hint))
    return models


def _webhook_problems(url: str | None, secret: str | None) -> list[Problem]:
    problems: list[Problem] = []
    if url is not None and not url.startswith(("http://", "https://")):
        problems.append(Problem("--webhook", f"{url!r} is not an http or https URL"))
    if secret is not None and not is_valid_secret(secret):
        hint = "Use whsec_ followed by base64, or text that does not begin with whsec_."
        problems.append(Problem("the webhook secret", "the text after whsec_ is not base64", hint))
    return problems
