"""Which replies hold a rating, and which."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.judge.replies import grade_in, preference_in

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "reply",
    [
        '{"grade": 4}',
        '{"reason": "good", "grade": 4}',
        '{"grade": "4"}',
        '{"grade": 4.0}',
        '{"grade": " 4 ", "reason": "x"}',
        '```json\n{"reason": "it {is} fine", "grade": 4}\n```',
        'Here is my grade: {"grade": 4}. I hope this helps!',
        '{not json} {"grade": 4}',
        '{"thought": {"a": 1}} then {"grade": 4}',
        '{"grade": 4} and, once more, {"grade": 4}',
        '<think>{"grade"</think>\n{"reason": "ünïcode", "grade": 4}',
    ],
)
def test_a_grade_is_found(reply: str) -> None:
    assert grade_in(reply, 1, 5) == 4


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "4",
        "I would give it a 4.",
        '{"grade": 6}',
        '{"grade": 0}',
        '{"grade": 4.5}',
        '{"grade": true}',
        '{"grade": null}',
        '{"grade": [4]}',
        '{"grade": {"value": 4}}',
        '{"grade": NaN}',
        '{"grade": Infinity}',
        '{"grade": "4/5"}',
        '{"grade": "four"}',
        '{"grade": 3} or {"grade": 4}',
        '{"grade": 4} or {"grade": "unsure"}',
        '{"score": 4}',
        '{"grade": 4',
        '{"reason": "cut off in the mid',
        "{" * 5000,
        '{"a":' * 3000,
    ],
)
def test_a_reply_without_one_clear_grade_has_none(reply: str) -> None:
    assert grade_in(reply, 1, 5) is None


@pytest.mark.parametrize(
    ("reply", "preference"),
    [
        ('{"reason": "shorter", "better": "A"}', 1),
        ('{"better": "b"}', -1),
        ('{"better": "Tie"}', 0),
        ('{"better": "A"} {"better": "B"}', None),
        ('{"better": "neither"}', None),
        ('{"better": null}', None),
        ("A", None),
        ("", None),
    ],
)
def test_preferences(reply: str, preference: int | None) -> None:
    assert preference_in(reply) == preference


@given(st.text(), st.integers(-3, 12))
def test_any_reason_may_stand_before_a_grade(reason: str, grade: int) -> None:
    reply = json.dumps({"reason": reason, "grade": grade})
    assert grade_in(reply, 0, 10) == (grade if 0 <= grade <= 10 else None)


@given(st.text())
def test_no_text_makes_the_reader_fail(text: str) -> None:
    assert grade_in(text, 1, 5) is None or "grade" in text
    assert preference_in(text) is None or "better" in text
