"""The outcome of a challenge: whether the challenger became the champion, and why. Stored in the study."""

from __future__ import annotations

from dataclasses import dataclass


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
