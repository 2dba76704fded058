"""The outcome of a challenge: whether the challenger became the champion, and why. Stored in the study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class ChampionDecision:
    """What became of a challenge: `version` of the registered `model` challenged, and was promoted or not.

    The scores are shares of the test examples that are right; `champion_score` is the re-evaluated champion's, or the
    baseline's where there was no champion yet. The difference's interval is at 95 %. None: not measured.
    """

    promoted: bool
    reason: str
    challenger_score: float | None
    champion_score: float | None
    difference_low: float | None
    difference_high: float | None
    model: str | None
    version: str | None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; `from_json` inverts it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuild a decision from `to_json`'s value."""
        return cls(**value)
