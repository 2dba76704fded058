"""A registry of models in memory, with the surface of the real one that a contest uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backends.model_packages import ModelPackage
from benchmarks.year.service import answers
from benchmarks.year.world import Quality, World
from sweeps.tracking.registry import Version
from sweeps.tracking.served_card import Card


class Served:
    """A loaded version."""

    def __init__(self, world: World, quality: Quality, card: Card) -> None:
        self._world, self._quality, self.card = world, quality, card

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Answer rows with a column `text`."""
        return [{"label": each} for each in answers(self._world, self._quality, [str(row["text"]) for row in rows])]


class MemoryRegistry:
    """The versions of registered models and their champions; the methods are those of `sweeps.tracking.registry`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._versions: dict[str, list[Version]] = {}
        self._made: dict[tuple[str, str], tuple[Quality, Card]] = {}
        self._alias: dict[str, str] = {}

    def quality(self, model: str, number: str) -> Quality:
        """Return how good a version is."""
        return self._made[model, number][0]

    def champion_quality(self, model: str) -> Quality | None:
        """Return how good the champion is, None where there is none."""
        return self.quality(model, self._alias[model]) if model in self._alias else None

    def versions(self, model: str) -> list[Version]:
        return list(reversed(self._versions.get(model, [])))

    def champion(self, model: str) -> Version | None:
        number = self._alias.get(model)
        return next((each for each in self._versions.get(model, []) if each.number == number), None)

    def run_of_trial(self, experiment: str, trial_key: str) -> str | None:
        return f"run of {trial_key}"

    def register(
        self, model: str, run_id: str, package: ModelPackage, files: Path, card: Card, example: object,
        tags: Mapping[str, str],
    ) -> Version:  # fmt: skip
        kept = self._versions.setdefault(model, [])
        made = Version(model, str(len(kept) + 1), run_id, dict(tags), datetime.fromtimestamp(self._world.now, UTC))
        kept.append(made)
        self._made[model, made.number] = (Quality(**package.settings["quality"]), card)
        return made

    def load(self, version: Version) -> Served:
        return Served(self._world, *self._made[version.model, version.number])

    def promote(self, version: Version) -> None:
        self._alias[version.model] = version.number

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        kept = self._versions[version.model]
        at = next(index for index, each in enumerate(kept) if each.number == version.number)
        kept[at] = replace(kept[at], tags={**kept[at].tags, **tags})

    def describe(self, version: Version, text: str) -> None:
        pass
