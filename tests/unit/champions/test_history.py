"""The previous champion: after challenges, after a rollback, and after a rollback to a loser."""

from __future__ import annotations

import pytest

from sweeps.champions.history import HistoryEntry, pending_promotion, previous_champion
from sweeps.study.champion_decision import ChampionDecision

pytestmark = pytest.mark.unit


def challenge(version: str, before: str | None, *, promoted: bool) -> HistoryEntry:
    decision = ChampionDecision(promoted, "because", 0.8, 0.7, 0.05, 0.15, "snli", version)
    return HistoryEntry(f"2027-01-0{version}", version, before, decision)


def rollback(version: str, before: str) -> HistoryEntry:
    return HistoryEntry("2027-02-01", version, before, None, "ann", "as it was")


CHALLENGES = [
    challenge("1", None, promoted=True),
    challenge("2", "1", promoted=True),
    challenge("3", "2", promoted=False),
]


def test_rollbacks_go_from_champion_to_champion() -> None:
    assert previous_champion(CHALLENGES, "2") == "1"
    assert previous_champion([*CHALLENGES, rollback("1", "2")], "1") is None, "rolling back twice goes back two steps"
    assert previous_champion([], "1") is None


def test_from_a_version_that_never_won_a_rollback_returns_to_the_champion_before() -> None:
    assert previous_champion([*CHALLENGES, rollback("3", "2")], "3") == "2"
    assert previous_champion([*CHALLENGES, rollback("3", "2"), rollback("2", "3")], "2") == "1"


def test_a_promotion_is_completed_once_and_only_against_the_champion_that_it_was_won_against() -> None:
    second = CHALLENGES[1]
    assert pending_promotion(CHALLENGES[:2], second, "1") == "due"
    assert pending_promotion([challenge("1", None, promoted=True)], CHALLENGES[0], None) == "due"
    assert pending_promotion(CHALLENGES[:2], second, "2") == "made"
    assert pending_promotion([*CHALLENGES[:2], rollback("1", "2")], second, "1") == "made", "a user moved it back"
    later = challenge("3", "2", promoted=True)
    assert pending_promotion([*CHALLENGES[:2], later], second, "3") == "made"
    overtaking = challenge("3", "1", promoted=True)
    assert pending_promotion([*CHALLENGES[:2], overtaking], second, "3") == "overtaken"
