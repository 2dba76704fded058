"""The syntax of a space: the forms, the fingerprint, and every mistake with its place."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from search_spaces.parameters import Choices, Fixed, Range, Recommended, Share
from search_spaces.space import SearchSpace, SpaceError, SpaceProblem

pytestmark = pytest.mark.unit

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False) | st.integers(-1000, 1000)
SCALARS = NUMBERS | st.booleans() | st.sampled_from(["adamw", "linear", "0.5%", "1e-4"])


def form(written: object) -> object:
    return SearchSpace.parse({"p": written}).parameters[0].form


def problems(written: object) -> tuple[SpaceProblem, ...]:
    with pytest.raises(SpaceError) as caught:
        SearchSpace.parse(written)
    return caught.value.problems


def fingerprint(written: object) -> str:
    return SearchSpace.parse({"p": written}).fingerprint


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("recommended", Recommended()),
        ({"recommended": True}, Recommended()),
        (3, Fixed(3)),
        ("cosine", Fixed("cosine")),
        (False, Fixed(False)),
        ({"value": "recommended"}, Fixed("recommended")),
        ([1, 2.5, "x", True], Choices((1, 2.5, "x", True))),
        ({"choices": ["a", "b"]}, Choices(("a", "b"))),
        ({"low": 1, "high": 4}, Range(1, 4)),
        ({"low": "1e-5", "high": "1e-3", "log": True}, Range(1e-5, 1e-3, log=True)),
        ({"low": 0, "high": 1, "step": 0.25}, Range(0, 1, step=0.25)),
        ({"low": "0.01 %", "high": "4%"}, Range(Share(Fraction(1, 10_000)), Share(Fraction(1, 25)))),
    ],
)
def test_every_form_is_read(written: object, expected: object) -> None:
    assert form(written) == expected


def test_a_condition_is_read_as_values_of_other_parameters() -> None:
    space = SearchSpace.parse({"rank": {"low": 1, "high": 8, "when": {"method": "lora", "n_epochs": [2, 3]}}})
    assert space.parameters[0].when == {"method": ("lora",), "n_epochs": (2, 3)}


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ([0.01, "x", True], "[0.01, x, true]"),
        ({"low": 1e-5, "high": 0.1, "log": True}, "{low: 1e-05, high: 0.1, log: true}"),
        ({"recommended": True, "when": {"method": ["a", "b"]}}, "{recommended: true, when: {method: [a, b]}}"),
        ("0.5 %", "0.5 %"),
    ],
)
def test_the_written_text_is_kept_on_one_line(written: object, shown: str) -> None:
    assert SearchSpace.parse({"p": written}).parameters[0].written == shown


@pytest.mark.parametrize(
    ("written", "path", "message", "hint"),
    [
        ({"low": 1}, ("p",), "high is missing", "low and high"),
        ({"low": 5, "high": 2}, ("p", "low"), "low 5 is above high 2", "swap"),
        ({"low": "5%", "high": "2%"}, ("p", "low"), "low 5 % is above high 2 %", "swap"),
        ({"low": "x", "high": 2}, ("p", "low"), "low is x", "number"),
        ({"low": True, "high": 2}, ("p", "low"), "low is true", "number"),
        ({"low": 1, "high": [2]}, ("p", "high"), "high is [2]", "number"),
        ({"low": 1, "high": float("inf")}, ("p", "high"), "high is inf", "number"),
        ({"low": 1, "high": "200%"}, ("p", "high"), "high is 200%", "100 %"),
        ({"low": 0, "high": 1, "log": True}, ("p", "low"), "log scale needs low above 0, not 0", "log out"),
        ({"low": 1, "high": 2, "log": "yes"}, ("p", "log"), "log is yes", "true or false"),
        ({"low": 1, "high": 2, "step": 0}, ("p", "step"), "step is not a number above 0", ""),
        ({"low": 1, "high": 2, "step": 1, "log": True}, ("p", "step"), "step and log exclude", ""),
        ({"lwo": 1, "high": 2}, ("p", "lwo"), "lwo is not a key", "did you mean low?"),
        ({"low": 1, "high": 2, "choices": [1]}, ("p",), "range and choices exclude each other", "low"),
        ({"when": {"q": 1}}, ("p",), "the values are missing", "recommended"),
        ({"recommended": False}, ("p", "recommended"), "can only be true", ""),
        ({"value": 1, "when": "lora"}, ("p", "when"), "when needs the name of another parameter", "when: {other"),
        ({"value": 1, "when": {"q": []}}, ("p", "when", "q"), "is not a condition", "when: {other"),
        ({"choices": 3}, ("p", "choices"), "at least one value", "[a, b, c]"),
        ([], ("p",), "at least one value", "[a, b, c]"),
        ([1, [2]], ("p", 1), "[2] is not a single value", ""),
        ([1, "recommended"], ("p", 1), "recommended cannot be in a list", "alone"),
        ([2, 1, 2.0], ("p", 2), "2 is in the list twice", "once"),
        ({"choices": [1, None]}, ("p", "choices", 1), "the value is missing", ""),
        (None, ("p",), "the value is missing", "recommended"),
        (float("nan"), ("p",), "nan is not a finite number", ""),
        ("101 %", ("p",), "more than the training set", "100 %"),
    ],
)
def test_a_mistake_is_reported_with_its_place(written: object, path: tuple[Any, ...], message: str, hint: str) -> None:
    (problem,) = (problem for problem in problems({"p": written}) if problem.path == path)
    assert message in problem.message
    assert problem.message.startswith("p: ")
    assert hint in problem.hint


def test_all_mistakes_are_reported_together() -> None:
    written = {"a": {"low": 3, "high": 1}, "b": None, "c": [1, 1], 7: "x", "use": "clasification"}
    by_path = {problem.path: problem for problem in problems(written)}
    assert set(by_path) == {("a", "low"), ("b",), ("c", 1), (7,), ("use",)}
    assert by_path["use",].hint == "did you mean classification?"


@pytest.mark.parametrize("written", [None, [], "recommended", 3])
def test_a_space_that_is_not_a_mapping_is_refused(written: object) -> None:
    assert problems(written)[0].path == ()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (0.02, "2e-2"),
        (3, 3.0),
        (3, {"value": 3}),
        ("recommended", {"recommended": True}),
        ([1, 2], {"choices": [2, 1]}),
        ("0.5%", "0.50 %"),
        ({"low": 1, "high": 2}, {"high": 2.0, "low": "1", "log": False}),
        ({"value": 1, "when": {"q": "x", "r": [1, 2]}}, {"when": {"r": [2, 1], "q": ["x"]}, "value": 1}),
    ],
)
def test_the_fingerprint_ignores_the_notation(one: object, other: object) -> None:
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, [1]),
        ("0.5%", 0.005),
        ("recommended", {"value": "recommended"}),
        ({"low": 1, "high": 2}, {"low": 1, "high": 2, "log": True}),
        ({"low": 1, "high": 2}, {"low": 1, "high": 2, "step": 1}),
        ({"value": 1}, {"value": 1, "when": {"q": 1}}),
        ({"value": 1, "when": {"q": 1}}, {"value": 1, "when": {"q": 2}}),
    ],
)
def test_different_spaces_have_different_fingerprints(one: object, other: object) -> None:
    assert fingerprint(one) != fingerprint(other)


@given(st.dictionaries(st.sampled_from("abcdef"), SCALARS, min_size=2), st.randoms())
def test_the_fingerprint_ignores_the_order_of_keys(written: dict[str, Any], random: Any) -> None:
    shuffled = list(written.items())
    random.shuffle(shuffled)
    assert SearchSpace.parse(written).fingerprint == SearchSpace.parse(dict(shuffled)).fingerprint


@given(st.lists(SCALARS, min_size=1, max_size=6), st.randoms())
def test_the_fingerprint_ignores_the_order_of_choices(values: list[Any], random: Any) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)
    try:
        expected = fingerprint(values)
    except SpaceError:  # the same value twice
        assume(False)
    assert fingerprint(shuffled) == expected


@given(NUMBERS, NUMBERS)
def test_the_fingerprint_changes_with_every_value(one: float, other: float) -> None:
    assume(one != other)
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint([one]) != fingerprint([other])
    assert fingerprint({"low": one, "high": 1e9}) != fingerprint({"low": other, "high": 1e9})
    assert fingerprint({"low": -1e9, "high": one}) != fingerprint({"low": -1e9, "high": other})


@given(st.decimals(0, 100, places=4), st.integers(1, 10**7), st.integers(1, 10**7))
def test_a_share_never_decreases_as_the_training_set_grows(percent: Any, one: int, other: int) -> None:
    share = Share.parse(f"{percent}%")
    assert share is not None
    few, many = sorted((one, other))
    assert 1 <= share.examples(few) <= share.examples(many) <= many


@pytest.mark.parametrize(
    ("percent", "examples", "count"), [("0.01%", 2000, 1), ("4 %", 2000, 80), ("0.25%", 1000, 3), ("0.05%", 5000, 3)]
)
def test_a_share_is_rounded_half_up_to_at_least_one(percent: str, examples: int, count: int) -> None:
    share = Share.parse(percent)
    assert share is not None
    assert share.examples(examples) == count
