"""Who was the champion before: after challenges, after going back, and after somebody's own choice."""

from __future__ import annotations

import pytest

from sweeps.champions.history import Entry, previous
from sweeps.study.champion_decision import ChampionDecision

pytestmark = pytest.mark.unit


def challenge(version: str, before: str | None, *, promoted: bool) -> Entry:
    decision = ChampionDecision(promoted, "because", 0.8, 0.7, 0.05, 0.15, "snli", version)
    return Entry(f"2027-01-0{version}", version, before, decision)


def rollback(version: str, before: str) -> Entry:
    return Entry("2027-02-01", version, before, None, "ann", "as it was")


WON = [challenge("1", None, promoted=True), challenge("2", "1", promoted=True), challenge("3", "2", promoted=False)]


def test_going_back_goes_from_champion_to_champion() -> None:
    assert previous(WON, "2") == "1"
    assert previous([*WON, rollback("1", "2")], "1") is None, "going back twice goes back two steps"
    assert previous([], "1") is None


def test_what_was_left_for_a_version_that_never_won_is_returned_to() -> None:
    assert previous([*WON, rollback("3", "2")], "3") == "2"
    assert previous([*WON, rollback("3", "2"), rollback("2", "3")], "2") == "1"
