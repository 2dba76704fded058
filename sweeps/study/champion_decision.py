"""The outcome of a challenge, as the study stores it: promoted or not, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ChampionDecision:
    """The outcome of a challenge: whether `version` of the registered `model` was promoted.

    The scores are means over the test examples: of right labels, or of a task metric.
    `champion_score` is the score of the champion,
    evaluated again, or of the baseline if there was no champion yet. The interval of the difference
    is at 95 %. None: not measured.
    """

    promoted: bool
    reason: str
    challenger_score: float | None
    champion_score: float | None
    difference_low: float | None
    difference_high: float | None
    model: str | None
    version: str | None
