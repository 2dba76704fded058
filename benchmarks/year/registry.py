"""A model registry in memory, with the methods of the real one that a champion challenge uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from benchmarks.year.service import answers
from benchmarks.year.world import Quality, World
from sweeps.tracking.model_files import PackagedModel
from sweeps.tracking.registry import RegisteredVersion
from sweeps.tracking.served_card import ServedCard


class LoadedVersion:
    """A loaded model version."""

    def __init__(self, world: World, quality: Quality, card: ServedCard) -> None:
        self._world, self._quality, self.card = world, quality, card

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Predict labels for rows with a column `text`."""
        return [{"label": answer} for answer in answers(self._world, self._quality, [str(row["text"]) for row in rows])]


class MemoryRegistry:
    """The versions of registered models and their champions, with the methods of
    `sweeps.tracking.registry`.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._versions: dict[str, list[RegisteredVersion]] = {}
        self._models: dict[tuple[str, str], tuple[Quality, ServedCard]] = {}
        self._champion_numbers: dict[str, str] = {}

    def quality(self, model: str, number: str) -> Quality:
        """Return the quality of a version."""
        return self._models[model, number][0]

    def champion_quality(self, model: str) -> Quality | None:
        """Return the quality of the champion, or None if there is none."""
        return self.quality(model, self._champion_numbers[model]) if model in self._champion_numbers else None

    def versions(self, model: str) -> list[RegisteredVersion]:
        return list(reversed(self._versions.get(model, [])))

    def champion(self, model: str) -> RegisteredVersion | None:
        number = self._champion_numbers.get(model)
        return next((version for version in self._versions.get(model, []) if version.number == number), None)

    def run_of_trial(self, experiment: str, trial_key: str) -> str | None:
        return f"run of {trial_key}"

    def register(self, model: str, run_id: str, packaged: PackagedModel, tags: Mapping[str, str]) -> RegisteredVersion:
        versions = self._versions.setdefault(model, [])
        version = RegisteredVersion(
            model, str(len(versions) + 1), run_id, dict(tags), datetime.fromtimestamp(self._world.now, UTC)
        )
        versions.append(version)
        self._models[model, version.number] = (Quality(**packaged.package.settings["quality"]), packaged.card)
        return version

    def load(self, version: RegisteredVersion) -> LoadedVersion:
        return LoadedVersion(self._world, *self._models[version.model, version.number])

    def promote(self, version: RegisteredVersion) -> None:
        self._champion_numbers[version.model] = version.number

    def tag_version(self, version: RegisteredVersion, tags: Mapping[str, str]) -> None:
        versions = self._versions[version.model]
        at = next(index for index, known in enumerate(versions) if known.number == version.number)
        versions[at] = replace(versions[at], tags={**versions[at].tags, **tags})

    def describe_version(self, version: RegisteredVersion, text: str) -> None:
        pass
