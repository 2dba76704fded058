"""The YAML reader: YAML 1.2 scalars, the line of every key, and all mistakes at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.errors import UserInputError
from sweeps.spec.yaml_source import Document, parse, read, with_overrides

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        (".5", 0.5),
        ("3.", 3.0),
        ("1_000", 1000),
        ("-7", -7),
        ("010", 10),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("12:30", "12:30"),
        ("2024-10-06", "2024-10-06"),
        ("'5'", "5"),
        ("0.5%", "0.5%"),
        ("5.1.2", "5.1.2"),
    ],
)
def test_a_scalar_has_its_yaml_1_2_type(written: str, value: object) -> None:
    read_value = parse(f"key: {written}", "f").value["key"]
    assert read_value == value
    assert type(read_value) is type(value)


@given(st.floats(allow_nan=False))
def test_every_float_that_python_writes_is_read_back(number: float) -> None:
    written = {float("inf"): ".inf", float("-inf"): "-.inf"}.get(number, repr(number))
    assert parse(f"key: {written}", "f").value["key"] == number


def test_the_place_of_a_key_is_its_line_and_the_place_of_a_missing_key_is_its_parent() -> None:
    document = parse("a: 1\nb:\n  c: [1,\n   2]\n", "f.yaml")
    assert document.place(("a",)) == "f.yaml:1"
    assert document.place(("b", "c", 1)) == "f.yaml:4"
    assert document.place(("b", "absent", "deeper")) == "f.yaml:2"


def test_all_mistakes_of_a_file_are_reported_together() -> None:
    with pytest.raises(UserInputError) as caught:
        parse("a: 1\na: 2\nb: !!python/name:os.system x\nc: !secret y\n[1, 2]: z\n", "f.yaml")
    places = [problem.place for problem in caught.value.problems]
    assert "f.yaml:2" in places  # given twice
    assert "f.yaml:3" in places  # a tag that would run code
    assert "f.yaml:4" in places  # a custom tag
    assert "f.yaml:5" in places  # a key that is not text


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\tx: 1", "- 1\n- 2", "", "just text"])
def test_text_that_is_not_a_mapping_is_an_input_error(text: str) -> None:
    with pytest.raises(UserInputError) as caught:
        parse(text, "f.yaml")
    assert caught.value.problems[0].place.startswith("f.yaml")
    assert caught.value.exit_code == 2


def test_the_error_for_a_missing_file_lists_the_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "snli.yaml").write_text("a: 1")
    with pytest.raises(UserInputError) as caught:
        read(tmp_path / "sni.yaml")
    assert "snli.yaml" in caught.value.problems[0].hint


def test_overrides_are_yaml_and_do_not_change_the_document() -> None:
    document = parse("search: {trials: 3}\n", "f.yaml")
    changed = with_overrides(document, ["search.trials=8", "budget.hours=1e-1", "space.x=[1, 2]", "a.b.c="])
    assert changed.value == {
        "search": {"trials": 8},
        "budget": {"hours": 0.1},
        "space": {"x": [1, 2]},
        "a": {"b": {"c": None}},
    }
    assert document.value == {"search": {"trials": 3}}
    assert changed.place(("search", "trials")) == "--set search.trials"


@pytest.mark.parametrize("bad", ["no-equals", "=1", "a..b=1", "a=[1"])
def test_a_malformed_override_is_an_input_error(bad: str) -> None:
    with pytest.raises(UserInputError):
        with_overrides(Document("f", {}, {}), [bad])
