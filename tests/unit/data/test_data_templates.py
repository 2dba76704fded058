"""Templates: their syntax, the text they take from a record, and errors for missing fields."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.data.templates import FieldError, Template

pytestmark = pytest.mark.unit


def filled(text: str, record: dict) -> str:
    template = Template.parse(text)
    return template.fill(template.values(record))


def test_a_template_knows_its_fields_in_order_and_the_text_after_the_last():
    template = Template.parse("Premise: {premise}\nHypothesis: {hypothesis}\n\n###\n\n")
    assert (template.fields, template.tail) == (("premise", "hypothesis"), "\n\n###\n\n")


def test_doubled_braces_become_single_braces_in_the_text():
    assert filled('{{"text": "{a}"}}', {"a": "{b}"}) == '{"text": "{b}"}'


def test_a_dotted_path_reaches_into_a_record_unless_a_column_has_that_name():
    record = {"instances": [{"input": "x"}], "a.b": "own name wins", "a": {"b": "inner"}}
    assert filled("{instances.0.input}|{a.b}", record) == "x|own name wins"


@pytest.mark.parametrize(("value", "text"), [(3, "3"), (0.5, "0.5"), (True, "true"), ("", "")])
def test_numbers_and_booleans_become_json_text(value, text):
    assert filled("{a}", {"a": value}) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no field", "the same for every example"),
        ("{}", "write the name of a column"),
        ("{a!r}", "may not have a format or a conversion"),
        ("{a:>5}", "may not have a format or a conversion"),
        ("{a", "write a column as {name}"),
        ("a}", "write a column as {name}"),
    ],
)
def test_the_error_for_a_broken_template_says_what_is_wrong(text, message):
    with pytest.raises(ValueError, match=message.replace("{", r"\{")):
        Template.parse(text)


@pytest.mark.parametrize(
    ("field", "missing", "hint"),
    [
        ("premis", True, "did you mean 'premise'?"),
        ("Premise", True, "did you mean 'premise'?"),
        ("list.3.a", True, "'list' is a list of 1; positions count from 0"),
        ("list.0.b", True, "available: 'list.0.answer'"),
        ("premise.x", True, "'premise' is a single value"),
        ("nothing", False, ""),
        ("list", False, "available: 'list.0'"),
        ("map", False, "available: 'map.key'"),
    ],
)
def test_a_missing_field_is_reported_with_the_nearest_available_name(field, missing, hint):
    record = {"premise": "p", "nothing": None, "list": [{"answer": "a"}], "map": {"key": "v"}}
    with pytest.raises(FieldError) as raised:
        Template.parse(f"{{{field}}}").values(record)
    assert (raised.value.field, raised.value.missing, raised.value.hint) == (field, missing, hint)


@given(
    literals=st.lists(st.text(max_size=8), min_size=2, max_size=4), values=st.lists(st.text(), min_size=3, max_size=3)
)
def test_filling_puts_every_value_unchanged_between_the_literals(literals, values):
    names = ["a", "b", "c"][: len(literals) - 1]
    escaped = [literal.replace("{", "{{").replace("}", "}}") for literal in literals]
    text = escaped[0] + "".join(f"{{{name}}}{literal}" for name, literal in zip(names, escaped[1:], strict=True))
    expected = literals[0] + "".join(value + literal for value, literal in zip(values, literals[1:], strict=False))
    assert filled(text, dict(zip("abc", values, strict=True))) == expected
