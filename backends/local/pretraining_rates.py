"""The peak learning rate of a base model's pre-training: the base of `learning_rate_multiplier`."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from backends.local.model_source import ModelSource, user_error


@dataclass(frozen=True)
class PretrainingRate:
    """A peak pre-training learning rate and its source in words."""

    value: float
    source: str


def pretraining_rate(source: ModelSource, configured: float | None) -> PretrainingRate | None:
    """Return the configured rate, else that of the model's training.json, else that of the table,
    else None.

    Raises BackendError (user) if training.json exists but contains no usable rate.
    """
    if configured is not None:
        return PretrainingRate(configured, "backend.pretraining_learning_rate")
    path = source.directory / "training.json"
    if path.is_file():
        return _from_training_json(path)
    names = [source.name, source.directory.name, str(source.config.get("_name_or_path", ""))]
    for pattern, rate in _table():
        if any(pattern.fullmatch(name.rsplit("/", 1)[-1].lower()) for name in names):
            return rate
    return None


def _from_training_json(path: Path) -> PretrainingRate:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rate = float(content["learning_rate"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise user_error(
            f"{path} contains no learning rate: {error}", 'write {"learning_rate": <number>, "source": <text>} into it'
        ) from error
    if not 0 < rate < 1:
        raise user_error(f"{path}: the learning rate {rate:g} is impossible", "give a number between 0 and 1")
    return PretrainingRate(rate, str(content.get("source", path.name)))


@cache
def _table() -> tuple[tuple[re.Pattern[str], PretrainingRate], ...]:
    table = tomllib.loads(Path(__file__).with_name("pretraining_rates.toml").read_text(encoding="utf-8"))
    return tuple(
        (re.compile(entry["name"]), PretrainingRate(entry["learning_rate"], f"{family['source']} ({family['date']})"))
        for family in table["family"]
        for entry in family["models"]
    )
