"""Lines of prepared files as the places of the user's data that they come from."""

from __future__ import annotations

import pytest

from sweeps.data.examples import Example
from sweeps.data.places import Places, own_place, with_own_places

pytestmark = pytest.mark.unit

PATH = "/w/data/abc/train.jsonl"
EXAMPLES = [Example("p", "c", ("p",), file, line) for file, line in (("a.csv", 7), ("b.csv", 2), ("a.csv", 3))]


def test_a_prepared_line_has_the_place_of_its_record() -> None:
    places = {PATH: Places.of(EXAMPLES)}
    assert [own_place(PATH, number, places) for number in (1, 2, 3)] == ["a.csv:7", "b.csv:2", "a.csv:3"]
    assert own_place(PATH, 4, places) == f"{PATH}:4"
    assert own_place("/other.jsonl", 1, places) == "/other.jsonl:1"


def test_the_message_of_a_backend_names_the_users_own_lines() -> None:
    places = {PATH: Places.of(EXAMPLES)}
    text = f"2 completions have too many tokens ({PATH}, lines 1, 3 and 9 more)"
    assert with_own_places(text, places) == "2 completions have too many tokens (a.csv:7, a.csv:3 and 9 more)"
    assert with_own_places(f"1 completion ({PATH}, line 2)", places) == "1 completion (b.csv:2)"
    assert with_own_places("1 completion (train.jsonl, line 2)", places) == "1 completion (b.csv:2)"
    for text in ("other", "1 completion (/x/train.jsonl, line 2)", "1 completion (valid.jsonl, line 2)"):
        assert with_own_places(text, places) == text
