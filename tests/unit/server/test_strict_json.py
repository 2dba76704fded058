"""What the server accepts as JSON it can store, and print again."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.server import strict_json
from sweeps.server.strict_json import JsonError

pytestmark = pytest.mark.unit

TEXTS = st.text(alphabet=st.characters(exclude_categories=[]))  # with lone surrogates
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_every_value_is_refused_or_can_be_sent_unchanged(value: Any) -> None:
    try:
        parsed = strict_json.parse(json.dumps(value).encode())
    except JsonError:
        return
    assert parsed == value
    assert strict_json.parse(strict_json.to_bytes(parsed)) == parsed


@given(VALUES)
def test_whatever_is_stored_can_be_sent(value: Any) -> None:
    json.loads(strict_json.to_bytes(value).decode(), parse_constant=pytest.fail)


@given(st.binary())
def test_no_bytes_raise_another_error(body: bytes) -> None:
    with contextlib.suppress(JsonError):
        strict_json.parse(body)


@pytest.mark.parametrize(
    ("body", "place", "message"),
    [
        (b'{"a": {"b": ["", "\\ud800"]}}', "a.b.1", "half a character"),
        (b'{"\\udfff": 1}', "", "A name has half a character"),
        (b'"\\ud800"', "", "The body has half a character"),
        (b'{"a": NaN}', "", "NaN is not JSON"),
        (b'{"a": 1e400}', "", "1e400 is too large"),
        (b'{"a": 9223372036854775808}', "", "9223372036854775808 is too large"),
        (b"[" * 65 + b"]" * 65, "", "nested too deeply"),
        (b"[" * 100_000, "", "nested too deeply"),
        (b"\xff", "", "not UTF-8"),
        (b"{", "", "could not parse"),
    ],
)
def test_the_error_names_the_mistake(body: bytes, place: str, message: str) -> None:
    with pytest.raises(JsonError) as raised:
        strict_json.parse(body)
    assert raised.value.place == place
    assert message in raised.value.message


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert strict_json.parse(b'["\\ud83d\\ude00", 9223372036854775807, -1.5e300]') == ["😀", 2**63 - 1, -1.5e300]
