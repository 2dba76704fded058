"""The settings of a server, as the command line reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeps.server.datasets import MIN_EXAMPLES

DEFAULT_MODELS: Mapping[str, Mapping[str, str]] = {
    "local": {"tiny-lm": "builtin:tiny-lm"},
    "fake": {"fake-small": "fake-small", "fake-large": "fake-large"},
}
"""The default base models of each backend: public name -> what the backend calls the model."""

MIB = 2**20


@dataclass(frozen=True)
class ServerSettings:
    """The settings of a server.

    `models` maps the public name of each base model to what the backend calls it. `options` are the
    options of the backend. `max_jobs` None leaves the number of concurrent jobs to the backend.
    `faults` is the text of `--faults`. `kept_checkpoints` is the number of checkpoints that each
    job keeps. `local_only`: only this machine can reach the address on which the server listens.
    """

    root: Path
    backend: str
    models: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    max_jobs: int | None = None
    keys: tuple[str, ...] = field(default=(), repr=False)
    webhook: str | None = None
    webhook_secret: str | None = field(default=None, repr=False)
    faults: str = ""
    min_examples: int = MIN_EXAMPLES
    kept_checkpoints: int = 3
    max_file_bytes: int = 512 * MIB
    max_body_bytes: int = 16 * MIB
    organization: str = "org-local"
    local_only: bool = False
