"""The options of `sweep serve` -> ServerSettings, with every mistake reported at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backends import registry
from sweeps.errors import Problem, UserInputError
from sweeps.server import webhooks
from sweeps.server.settings import DEFAULT_MODELS, MIB, ServerSettings
from sweeps.spec.yaml_source import Document, with_overrides

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def settings(
    root: Path,
    backend: str,
    models: tuple[str, ...],
    options: tuple[str, ...],
    *,
    keys: tuple[str, ...],
    webhook: str | None,
    webhook_secrets: tuple[str, ...],
    max_jobs: int | None,
    max_file_mb: int,
    faults: str,
) -> ServerSettings:
    """Return the settings. Raises UserInputError with every mistake in the options."""
    problems: list[Problem] = []
    offered = _pairs("--model", models, problems) or dict(DEFAULT_MODELS.get(backend, {}))
    for name in offered:
        if _NAME.fullmatch(name) is None:
            hint = "Use letters, digits, `.`, `_` and `-`: --model my-llama=/path/to/it"
            problems.append(Problem("--model", f"{name!r} is not a valid model name", hint))
    try:
        registry.load(backend)
    except registry.RegistryError as error:
        problems.append(Problem("--backend", error.message, error.hint))
    else:
        if not offered:
            problems.append(Problem("--model", f"the backend {backend} needs a base model", "--model NAME=DIR"))
    if webhook is not None and not webhook.startswith(("http://", "https://")):
        problems.append(Problem("--webhook", f"{webhook!r} is not an http or https URL"))
    secret = next(iter(webhook_secrets), None)
    if secret is not None and not webhooks.usable(secret):
        hint = "Give whsec_ followed by base64, or text that does not begin with whsec_."
        problems.append(Problem("the webhook secret", "the text after whsec_ is not base64", hint))
    values: dict[str, Any] = {}
    try:
        values = with_overrides(Document("--set", {}, {}), options).value
    except UserInputError as error:
        problems += error.problems
    if problems:
        raise UserInputError(problems)
    return ServerSettings(
        root=root,
        backend=backend,
        models=offered,
        options=values,
        max_jobs=max_jobs,
        keys=keys,
        webhook=webhook,
        webhook_secret=secret,
        faults=faults,
        max_file_bytes=max_file_mb * MIB,
    )


def _pairs(option: str, texts: tuple[str, ...], problems: list[Problem]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name or not value:
            problems.append(Problem(option, f"{text!r} is not NAME=VALUE"))
        found[name] = value
    return found
