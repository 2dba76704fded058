"""The presets: training programs whose logs, checkpoints and settings are known, as data files.

`presets/NAME.toml` describes one program. What a sweep file says itself comes first.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from backends.contract import BackendError, Failure, FailureKind


class ConditionalSettings(BaseModel):
    """Values of a configuration file that a program needs unless the file has one of some keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    unless: tuple[str, ...]
    set: Mapping[str, Any]


class Preset(BaseModel):
    """What is known of a training program.

    `tried` says with which versions it was tried. `set` are values of the configuration file that
    output and logs need, and `defaults` those that evaluations and checkpoints need. `keys` maps
    the usual names of hyperparameters to the program's own names: keys of its configuration file,
    or the options of its command line without dashes.

    `metrics` are its logs, the one that says most first. That one may follow another one after
    `log_delay_s` at most, such as a log that is written with each checkpoint. `first_step` is the
    number that its logs give to the first optimizer step.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str
    tried: str
    run: str = ""
    metrics: tuple[str, ...] = ()
    log_delay_s: float = 5.0
    first_step: int = 1
    rename: Mapping[str, str] = Field(default_factory=dict)
    checkpoints: str | None = None
    resume: str | None = None
    environment: Mapping[str, str] = Field(default_factory=dict)
    set: Mapping[str, Any] = Field(default_factory=dict)
    defaults: tuple[ConditionalSettings, ...] = ()
    keys: Mapping[str, str] = Field(default_factory=dict)


@cache
def names() -> tuple[str, ...]:
    """Return the names of all presets, sorted."""
    folder = files("backends.command") / "presets"
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


@cache
def load(name: str) -> Preset:
    """Return a preset. Raises BackendError for an unknown name."""
    if name not in names():
        nearest = difflib.get_close_matches(name, names(), n=1)
        guess = f"Did you mean {nearest[0]}? " if nearest else ""
        raise BackendError(
            Failure(FailureKind.USER, f"there is no preset {name!r}", f"{guess}The presets are {', '.join(names())}.")
        )
    text = (files("backends.command") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    return Preset.model_validate(tomllib.loads(text))
