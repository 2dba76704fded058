"""Placeholders: what is filled, what disappears, and what stays as it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.command.placeholders import as_text, filled, filled_arguments, filled_value, placeholders_in

pytestmark = pytest.mark.unit


def test_an_option_disappears_with_the_value_that_it_lacks() -> None:
    arguments = ["train", "--lr", "{lr}", "--rank", "{rank}", "--x={rank}", "--flag", "last"]
    assert filled_arguments(arguments, {"lr": 1e-5}) == ["train", "--lr", "1e-05", "--flag", "last"]
    assert filled_arguments(arguments, {"lr": 2, "rank": 8})[3:6] == ["--rank", "8", "--x=8"]


def test_an_option_stays_if_only_its_positional_neighbour_disappears() -> None:
    assert filled_arguments(["--quiet", "prefix-{rank}"], {}) == ["--quiet"]


@pytest.mark.parametrize("text", ["${HOME}", "{}", '{"a": {"b": 1}}', "{not a name}", "{1}", "a}b{c"])
def test_other_braces_stay(text: str) -> None:
    assert list(placeholders_in(text)) == []
    assert filled(text, {"HOME": "x"}) == text


def test_doubled_braces_stand_for_single_ones() -> None:
    assert filled("{{lr}} is {lr}", {"lr": 1}) == "{lr} is 1"


def test_values_keep_their_types_in_configurations() -> None:
    values = {"lr": 1e-5, "rank": 8, "fp16": True}
    written = {"lr": "{lr}", "nested": [{"r": "{rank}"}, "r{rank}"], "fp16": "{fp16}", "gone": "{none}", "null": None}
    assert filled_value(written, values) == {
        "lr": 1e-5,
        "nested": [{"r": 8}, "r8"],
        "fp16": True,
        "null": None,
    }


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_a_number_in_a_command_line_reads_back_as_itself(value: float) -> None:
    assert type(value)(as_text(value)) == value


def test_truth_values_are_written_as_programs_read_them() -> None:
    assert (as_text(True), as_text(False)) == ("true", "false")
