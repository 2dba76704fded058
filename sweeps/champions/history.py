"""The history of a registered model: its challenges and rollbacks, in the order of their time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from backends import codec
from sweeps.champions.winner import TAG_PREFIX
from sweeps.errors import SweepError
from sweeps.study.champion_decision import ChampionDecision
from sweeps.tracking.registry import RegisteredVersion, Registry

DECISION_TAG = f"{TAG_PREFIX}decision"
"""The tag of a version that holds the entry of its challenge, as JSON."""

PROMOTED_TAG = f"{TAG_PREFIX}promoted"
"""The tag of a version that says that the alias was moved to it after its challenge."""

_ROLLBACK_TAG_PREFIX = f"{TAG_PREFIX}rollback."
"""The prefix of the registered model's tags that hold the entries of rollbacks, as JSON."""

MAX_TEXT_CHARS = 1000
"""A user's name and reason are cut to this length. A tag of the registry holds 5,000 characters."""


@dataclass(frozen=True)
class HistoryEntry:
    """A challenge of a version with its decision, or a rollback to a version.

    `at` is the time (ISO 8601, UTC). `before` is the version that was the champion until then. A
    rollback has no decision; `by` says who made it, and `why` for what reason.
    """

    at: str
    version: str
    before: str | None
    decision: ChampionDecision | None = None
    by: str = ""
    why: str = ""

    @property
    def moved_alias(self) -> bool:
        """Whether the version became the champion."""
        return self.decision is None or self.decision.promoted


def challenge_entry(version: RegisteredVersion) -> HistoryEntry | None:
    """Return the entry of a version's challenge, or None if the challenge is not decided."""
    text = version.tags.get(DECISION_TAG)
    return None if text is None else codec.from_json(HistoryEntry, json.loads(text))


def read(registry: Registry, model: str) -> list[HistoryEntry]:
    """Return all entries, the oldest first. Raises SweepError if the model does not exist."""
    versions, tags = registry.versions(model), registry.model_tags(model)
    if not versions and not tags:
        known = ", ".join(registry.model_names()) or "none yet"
        raise SweepError(f"there is no registered model `{model}`", f"Registered by sweeps: {known}.")
    entries = [entry for version in versions if (entry := challenge_entry(version)) is not None]
    entries += [
        codec.from_json(HistoryEntry, json.loads(text))
        for name, text in tags.items()
        if name.startswith(_ROLLBACK_TAG_PREFIX)
    ]
    return sorted(entries, key=lambda entry: (entry.at, int(entry.version)))


def pending_promotion(
    entries: Sequence[HistoryEntry], entry: HistoryEntry, champion: str | None
) -> Literal["made", "due", "overtaken"]:
    """Return what became of a promotion whose process died before it confirmed it.

    `made`: the alias was on the version, whoever moved it since. `due`: the champion is still the
    one that the version won against. `overtaken`: another version has become the champion.
    """
    has_been_champion = any(other.moved_alias and other.before == entry.version for other in entries)
    if has_been_champion or champion == entry.version:
        return "made"
    return "due" if champion == entry.before else "overtaken"


def previous_champion(entries: Sequence[HistoryEntry], champion: str) -> str | None:
    """Return the champion before `champion` became it, or None if there was none.

    A version that won a challenge goes back to the champion that it replaced then, also after a
    rollback to it. So rolling back twice goes back two steps. A version that became the champion
    only by a rollback goes back to the champion that it replaced.
    """
    moves = [entry for entry in entries if entry.version == champion and entry.moved_alias]
    promotions = [move for move in moves if move.decision is not None]
    return (promotions or moves)[-1].before if moves else None


def roll_back(registry: Registry, model: str, to: str | None, by: str, why: str, now: float) -> HistoryEntry:
    """Move the alias to version `to`, or to the previous champion, and record who did it and why.

    `now` is the time in seconds since 1970. Raises SweepError if there is no such version, if it
    is the champion already, or if there is no previous champion.
    """
    entries, versions = read(registry, model), registry.versions(model)
    champion = registry.champion(model)
    target = to or (previous_champion(entries, champion.number) if champion is not None else None)
    if target is None:
        reason = f"it has no champion before version {champion.number}" if champion else "it has no champion"
        raise SweepError(f"`{model}` cannot be rolled back: {reason}", "Name a version by --to.")
    version = next((version for version in versions if version.number == target), None)
    if version is None:
        numbers = ", ".join(version.number for version in reversed(versions))
        raise SweepError(f"`{model}` has no version {target}", f"Its versions are {numbers}.")
    if champion is not None and champion.number == target:
        raise SweepError(f"version {target} is the champion of `{model}` already", "Name another version by --to.")
    at = datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds")
    before = champion.number if champion is not None else None
    entry = HistoryEntry(at, target, before, None, by[:MAX_TEXT_CHARS], why[:MAX_TEXT_CHARS])
    tag = f"{_ROLLBACK_TAG_PREFIX}{at.replace(':', '-').replace('+', '_')}"
    registry.tag_model(model, tag, json.dumps(codec.to_json(entry), ensure_ascii=False))
    registry.promote(version)
    return entry
