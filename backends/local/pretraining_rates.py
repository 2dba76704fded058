"""The learning rate of a base model's pre-training, which `learning_rate_multiplier` multiplies."""

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
    """A peak pre-training learning rate and where it is from."""

    value: float
    source: str


def pretraining_rate(source: ModelSource, given: float | None) -> PretrainingRate | None:
    """Return the rate: the given one, else that of the model's training.json, else that of the table, else None.

    Raises BackendError (user) where training.json is there but says no usable rate.
    """
    if given is not None:
        return PretrainingRate(given, "backend.pretraining_learning_rate")
    path = source.directory / "training.json"
    if path.is_file():
        return _from_training_json(path)
    names = [source.name, source.directory.name, str(source.config.get("_name_or_path", ""))]
    for pattern, rate in _table():
        if any(pattern.fullmatch(each.rsplit("/", 1)[-1].lower()) for each in names):
            return rate
    return None


def _from_training_json(path: Path) -> PretrainingRate:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rate = float(content["learning_rate"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise user_error(
            f"{path} says no learning rate: {error}", '{"learning_rate": <number>, "source": <text>} is expected'
        ) from error
    if not 0 < rate < 1:
        raise user_error(f"{path}: a learning rate of {rate:g} cannot be", "it lies between 0 and 1")
    return PretrainingRate(rate, str(content.get("source", path.name)))


@cache
def _table() -> tuple[tuple[re.Pattern[str], PretrainingRate], ...]:
    table = tomllib.loads(Path(__file__).with_name("pretraining_rates.toml").read_text(encoding="utf-8"))
    return tuple(
        (re.compile(entry["name"]), PretrainingRate(entry["learning_rate"], f"{family['source']} ({family['date']})"))
        for family in table["family"]
        for entry in family["models"]
    )
