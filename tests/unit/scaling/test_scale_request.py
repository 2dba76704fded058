"""The options of `sweep scale`: every mistake at once, each with its remedy."""

from __future__ import annotations

import pytest

from sweeps.errors import UserInputError
from sweeps.scaling.request import ModelChoice, model_label, read_request

pytestmark = pytest.mark.unit


def problems(sizes="100,300", models=(), seeds=3, searches=False) -> str:
    with pytest.raises(UserInputError) as raised:
        read_request(sizes, models, seeds, searches=searches)
    return "; ".join(f"{problem} -> {problem.hint}" for problem in raised.value.problems)


def test_sizes_models_and_labels_are_read():
    request = read_request("100, 300,1000", ["a/b-base,big=/models/x y", "builtin:tiny-lm"], 5, searches=True)
    assert request.sizes == (100, 300, 1000)
    assert request.models == (
        ModelChoice("b-base", "a/b-base"),
        ModelChoice("big", "/models/x y"),
        ModelChoice("tiny-lm", "builtin:tiny-lm"),
    )
    assert (request.seeds, request.searches) == (5, True)
    assert read_request("1,2", [], 1, searches=False).models == ()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sizes": "300,100"}, "do not ascend -> write --sizes 100,300"),
        ({"sizes": "100,100"}, "do not ascend"),
        ({"sizes": "100"}, "one size makes no curve -> name at least two"),
        ({"sizes": "100,,300"}, "'' is not a number of training examples"),
        ({"sizes": "0,10"}, "'0' is not a number"),
        ({"sizes": "1e3,10"}, "'1e3' is not a number"),
        ({"models": ["a,b/a"]}, "two models have the label 'a' -> give each its own label"),
        ({"models": ["=a"]}, "'' cannot be a label"),
        ({"models": ["a="]}, "'a' has no model"),
        ({"models": ["-x=a"]}, "'-x' cannot be a label"),
        ({"seeds": 2}, "two seeds"),
        ({"seeds": 0}, "not between 1 and 20"),
        ({"seeds": 21}, "not between 1 and 20"),
        ({"seeds": 1, "searches": True}, "chance -> write --seeds 3"),
    ],
)
def test_a_mistake_names_its_remedy(options, words):
    assert words in problems(**options)


def test_all_mistakes_are_reported_together():
    found = problems(sizes="300,x", models=["a,b/a"], seeds=2)
    assert all(words in found for words in ("'x' is not a number", "two models", "two seeds"))


@pytest.mark.parametrize(
    ("model", "label"),
    [("org/Model-7B", "Model-7B"), ("/a/b/model/", "model"), ("builtin:tiny-lm", "tiny-lm"), ("???", "model")],
)
def test_the_label_is_the_last_part_of_the_name(model, label):
    assert model_label(model) == label
