"""What became of a registered model's versions: challenges and rollbacks, in the order in which they happened."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Self

from backends import codec
from sweeps.errors import SweepError
from sweeps.study.champion_decision import ChampionDecision
from sweeps.tracking.registry import Registry, Version

DECISION, APPLIED = "finesweep.decision", "finesweep.promoted"
"""The tags of a version: its entry as JSON, and that the alias was moved to it."""

_ROLLBACK = "finesweep.rollback."

WORDS_CHARS = 1000
"""As much of what a person says is kept; a tag of the registry has room for 5,000."""


@dataclass(frozen=True)
class Entry:
    """Something that was decided at a time (ISO 8601, UTC) about a version: a challenge with its decision, or a
    rollback to it, by whom and why. `before` is the version that was the champion until then."""

    at: str
    version: str
    before: str | None
    decision: ChampionDecision | None = None
    by: str = ""
    why: str = ""

    @property
    def moved(self) -> bool:
        """Whether the version became the champion."""
        return self.decision is None or self.decision.promoted

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; `from_json` inverts it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Rebuild an entry from `to_json`'s value."""
        decision = value["decision"]
        return cls(
            **{**value, "decision": codec.from_json(ChampionDecision, decision) if decision is not None else None}
        )


def decision_of(version: Version) -> Entry | None:
    """Return the entry of a version's challenge, or None where it was not decided."""
    text = version.tags.get(DECISION)
    return None if text is None else Entry.from_json(json.loads(text))


def read(registry: Registry, model: str) -> list[Entry]:
    """Return everything that was decided, the oldest first. Raises SweepError where there is no such model."""
    versions, notes = registry.versions(model), registry.notes(model)
    if not versions and not notes:
        known = ", ".join(registry.models()) or "none yet"
        raise SweepError(f"there is no registered model `{model}`", f"registered by sweeps: {known}")
    found = [entry for version in versions if (entry := decision_of(version)) is not None]
    found += [Entry.from_json(json.loads(text)) for name, text in notes.items() if name.startswith(_ROLLBACK)]
    return sorted(found, key=lambda each: (each.at, int(each.version)))


def previous(entries: Sequence[Entry], champion: str) -> str | None:
    """Return who was the champion before `champion` became it, or None where nobody was.

    Going back twice goes back two steps: what a rollback left is not returned to, unless it was left for a version that
    never won a challenge and that only somebody's hand made the champion.
    """
    moves = [entry for entry in entries if entry.version == champion and entry.moved]
    promoted = [move for move in moves if move.decision is not None]
    return (promoted or moves)[-1].before if moves else None


def roll_back(registry: Registry, model: str, to: str | None, by: str, why: str, now: float) -> Entry:
    """Move the alias to the champion before this one, or to version `to`, and record by whom and why.

    Raises SweepError where there is no such version, or nothing to go back to.
    """
    entries, versions = read(registry, model), registry.versions(model)
    champion = registry.champion(model)
    target = to or (previous(entries, champion.number) if champion is not None else None)
    if target is None:
        reason = "there was none before it" if champion is not None else "there is no champion"
        raise SweepError(f"`{model}` cannot go back to an earlier champion: {reason}", "name a version by --to")
    version = next((version for version in versions if version.number == target), None)
    if version is None:
        there = ", ".join(version.number for version in reversed(versions))
        raise SweepError(f"`{model}` has no version {target}", f"there are {there}")
    if champion is not None and champion.number == target:
        raise SweepError(f"version {target} is the champion of `{model}` already", "name another version by --to")
    at = datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds")
    before = champion.number if champion is not None else None
    entry = Entry(at, target, before, None, by[:WORDS_CHARS], why[:WORDS_CHARS])
    registry.note(
        model, f"{_ROLLBACK}{at.replace(':', '-').replace('+', '_')}", json.dumps(entry.to_json(), ensure_ascii=False)
    )
    registry.promote(version)
    return entry
