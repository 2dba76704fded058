"""The set of shown trials survives its way through a tag, and a tag of any content."""

from __future__ import annotations

import random

import pytest

from sweeps.tracking.shown_trials import MAX_CHARS, ShownTrials

pytestmark = pytest.mark.unit


def test_a_set_reads_back_what_it_wrote() -> None:
    shown = ShownTrials()
    for number in (0, 7, 8, 4000):
        shown.add(number)
    shown.remove(7)
    shown.remove(5000)
    again = ShownTrials(shown.text)
    assert [number for number in range(5000) if number in again] == [0, 8, 4000]


def test_the_empty_set_is_the_empty_text() -> None:
    shown = ShownTrials()
    assert shown.text == ""
    shown.add(3)
    shown.remove(3)
    assert shown.text == ""


@pytest.mark.parametrize("text", ["not base64!", "AAAA", "eJwD", "é"])
def test_a_text_of_somebody_else_counts_as_the_empty_set(text: str) -> None:
    assert 0 not in ShownTrials(text)


def test_a_million_trials_without_gaps_fit_into_a_tag() -> None:
    shown = ShownTrials()
    for number in range(1_000_000):
        shown.add(number)
    assert len(shown.text) < MAX_CHARS
    assert 999_999 in ShownTrials(shown.text)


def test_a_set_that_does_not_fit_leaves_out_the_highest_numbers() -> None:
    chance = random.Random(1)
    numbers = {number for number in range(200_000) if chance.random() < 0.5}
    shown = ShownTrials()
    for number in numbers:
        shown.add(number)
    again = ShownTrials(shown.text)
    kept = {number for number in range(200_000) if number in again}
    highest = max(kept)
    assert kept < numbers
    assert kept == {number for number in numbers if number <= highest}
    assert highest > 40_000
