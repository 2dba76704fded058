"""A training example on the screen."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from backends.rendering import Piece, RenderedExample
from sweeps.cli import example_view

pytestmark = pytest.mark.unit


def plain(*pieces: tuple[str, bool]) -> str:
    shown = example_view.example(RenderedExample(3, tuple(Piece(*piece) for piece in pieces)), coloured=False)
    return shown.plain.partition("\n")[2]


def test_trained_text_is_in_brackets_and_the_line_break_of_its_end_is_visible() -> None:
    assert plain(("user: hi\nbot:", False), (" hello<end>\n", True), ("user: bye\nbot:", False), (" 2\n", True)) == (
        "user: hi\nbot:[[ hello<end>\\n]]\nuser: bye\nbot:[[ 2\\n]]"
    )


def test_a_long_example_loses_the_middle_of_what_is_not_trained() -> None:
    shown = plain(("a" * 5000 + "Q:", False), ("yes", True))
    assert shown.startswith("aaa")
    assert shown.endswith("aaaQ:[[yes]]")
    assert "(4,762 characters)" in shown
    assert len(shown) < 300


def test_a_very_long_answer_is_cut_too_and_says_so() -> None:
    shown = plain(("Q:", False), ("b" * 5000, True))
    assert "(4,400 characters)" in shown
    assert len(shown) < 700


def test_of_many_turns_the_first_and_the_last_are_shown() -> None:
    shown = plain(*((f"{'answer' if n % 2 else 'question'} {n}|", n % 2 == 1) for n in range(100)))
    assert "question 0|[[answer 1|]]" in shown
    assert shown.endswith("question 98|[[answer 99|]]")
    assert "... 38 more turns ..." in shown


def test_text_of_the_data_cannot_command_the_terminal() -> None:
    assert plain(("a\x1b[31m\rb", False), ("c", True)) == "a\\x1b[31m\\rb[[c]]"


def test_colours_take_the_place_of_brackets() -> None:
    pieces = (Piece("user: [bold]\nbot:", False), Piece(" hello", True))
    text = example_view.example(RenderedExample(1, pieces), coloured=True)
    stream = io.StringIO()
    Console(file=stream, force_terminal=True, color_system="standard", width=80).print(text)
    assert "\x1b[1;32m hello\x1b[0m" in stream.getvalue()
    assert "[bold]" in stream.getvalue()
    assert "[[" not in text.plain
