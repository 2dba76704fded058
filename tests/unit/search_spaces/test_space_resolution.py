"""The resolution of a space: clamping, shares, recommendations, conditions and refusals."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search_spaces.space import Limit, ResolvedParameter, ResolvedSpace, SearchSpace, SpaceError, SpaceProblem

pytestmark = pytest.mark.unit

LIMITS = {
    "n_epochs": Limit("int", 1, 50, default=3),
    "batch_size": Limit("int", 1, 1024, default=16),
    "learning_rate_multiplier": Limit("float", 1e-6, 100.0, excludes=("learning_rate",)),
    "learning_rate": Limit("float", 1e-9, 1.0),
    "prompt_loss_weight": Limit("float", 0.0, 1.0, default=0.0),
    "method": Limit("str", choices=("lora", "full"), default="full"),
    "lora_rank": Limit("int", 1, 256, default=8, requires={"method": ("lora",)}),
    "adapter": Limit("int", choices=(1, 2, 4, 8)),
    "packing": Limit("bool", default=False),
    "schedule": Limit("str", choices=("constant", "linear", "cosine")),
    "warmup": Limit("int", 0, 1000, requires={"schedule": ("linear", "cosine")}),
    "base_model": Limit("str"),
}


def resolve(written: Any, examples: int = 2000, scope: str = "local", **options: Any) -> ResolvedSpace:
    return SearchSpace.parse(written).resolve(examples, LIMITS, scope, **options)


def resolve_one(name: str, written: Any, **options: Any) -> ResolvedParameter:
    parameter = resolve({name: written}, **options).parameter(name)
    assert parameter is not None
    return parameter


def problems(written: Any, **options: Any) -> tuple[SpaceProblem, ...]:
    with pytest.raises(SpaceError) as caught:
        resolve(written, **options)
    return caught.value.problems


@pytest.mark.parametrize(
    ("name", "written", "distribution", "text"),
    [
        ("n_epochs", {"low": 1, "high": 4}, IntDistribution(1, 4), "1 .. 4"),
        ("n_epochs", {"low": "1", "high": 1e1, "step": 3}, IntDistribution(1, 10, step=3), "1 .. 10, step 3"),
        ("n_epochs", [3, 1.0, "2"], CategoricalDistribution((1, 2, 3)), "1 | 2 | 3"),
        ("learning_rate", {"low": "1e-5", "high": 1, "log": True}, FloatDistribution(1e-5, 1, True), "1e-05 .. 1, log"),
        (
            "prompt_loss_weight",
            {"low": 0, "high": 1, "step": 0.1},
            FloatDistribution(0, 1, step=0.1),
            "0 .. 1, step 0.1",
        ),
        ("packing", [True, False], CategoricalDistribution((False, True)), "false | true"),
        ("schedule", ["linear", "constant"], CategoricalDistribution(("constant", "linear")), "constant | linear"),
        ("batch_size", {"low": "0.1%", "high": "5%", "log": True}, IntDistribution(2, 100, True), "2 .. 100, log"),
        ("batch_size", ["0.5%", 64], CategoricalDistribution((10, 64)), "10 | 64"),
        ("adapter", {"low": 2, "high": 9}, CategoricalDistribution((2, 4, 8)), "2 | 4 | 8"),
    ],
)
def test_every_form_becomes_a_distribution(name: str, written: Any, distribution: Any, text: str) -> None:
    parameter = resolve_one(name, written)
    assert parameter.distribution == distribution
    assert parameter.text == text


@pytest.mark.parametrize(
    ("name", "written", "fixed"),
    [
        ("n_epochs", "3", 3),
        ("learning_rate", 1, 1.0),
        ("packing", True, True),
        ("base_model", "7b", "7b"),
        ("batch_size", "0.5 %", 10),
        ("n_epochs", [4], 4),
        ("n_epochs", {"low": 4, "high": 4}, 4),
        ("adapter", {"low": 5, "high": 9}, 8),
    ],
)
def test_a_single_value_is_fixed_and_has_the_type_of_the_backend(name: str, written: Any, fixed: Any) -> None:
    parameter = resolve_one(name, written)
    assert not parameter.is_searched
    assert parameter.fixed == fixed
    assert type(parameter.fixed) is type(fixed)


def test_the_order_of_a_list_does_not_change_the_distribution_so_that_a_study_can_continue() -> None:
    assert resolve_one("n_epochs", [4, 2]).distribution == resolve_one("n_epochs", [2, 4]).distribution
    assert [point["n_epochs"] for point in resolve({"n_epochs": [40, 20]}).seed_points] == [40, 20]


# -------------------------------------------------------------------------------------- recommended
def test_a_recommended_batch_is_a_share_of_the_training_set() -> None:
    parameter = resolve_one("batch_size", "recommended")
    assert parameter.text == "1 .. 80, log"
    assert parameter.notes == ("0.01 % .. 4 % of 2,000 examples",)
    assert parameter.follows_recommendation
    assert parameter.recommendation is not None
    assert parameter.recommendation.scope == "gpt3-classification"


def test_a_recommended_share_is_capped_where_the_source_caps_it() -> None:
    assert resolve_one("batch_size", "recommended", scope="gpt3-api-defaults", examples=10_000).fixed == 20
    assert resolve_one("batch_size", "recommended", scope="gpt3-api-defaults", examples=1_000_000).fixed == 256


def test_the_cap_also_applies_to_the_first_point_of_a_written_range() -> None:
    space = resolve({"batch_size": {"low": 1, "high": 1000}}, scope="gpt3-api-defaults", examples=1_000_000)
    assert space.seed_points[0] == {"batch_size": 256}


def test_a_recommendation_without_a_range_is_a_fixed_value_with_a_note() -> None:
    parameter = resolve_one("prompt_loss_weight", "recommended", scope="gpt3-classification")
    assert parameter.fixed == 0.1
    assert parameter.notes == ("the source recommends a value and no range",)


@pytest.mark.parametrize(("examples", "text"), [(50, "3 .. 5"), (300, "2 .. 3"), (1500, "1 .. 2"), (5000, "1")])
def test_recommended_epochs_depend_on_the_training_set(examples: int, text: str) -> None:
    assert resolve_one("n_epochs", "recommended", scope="hosted-current", examples=examples).text == text


@pytest.mark.parametrize(
    ("method", "text", "noted"),
    [
        ("lora", "0.0001 .. 0.001, log", False),
        ("full", "2e-05 .. 5e-05, log", False),
        (["lora", "full"], "2e-05 .. 0.001, log", True),
        (None, "2e-05 .. 5e-05, log", False),
    ],
)
def test_a_recommendation_depends_on_the_method_wherever_it_is_written(method: Any, text: str, noted: bool) -> None:
    written = {"learning_rate": "recommended", **({"method": method} if method else {})}
    parameter = resolve(written).parameter("learning_rate")
    assert parameter is not None
    assert parameter.text == text
    assert any(note.startswith("spans") for note in parameter.notes) == noted


def test_a_recommendation_depends_on_the_method_in_its_own_condition() -> None:
    written = {
        "learning_rate": {"recommended": True, "when": {"method": "full"}},
        "learning_rate_multiplier": {"low": 0.5, "high": 1.5, "when": {"method": "lora"}},
        "method": ["lora", "full"],
    }
    space = resolve(written)
    assert [parameter.name for parameter in space] == ["method", "learning_rate", "learning_rate_multiplier"]
    assert space.parameters[1].text == "2e-05 .. 5e-05, log"


def test_a_written_range_keeps_the_recommendation_for_display() -> None:
    parameter = resolve_one("learning_rate_multiplier", {"low": 0.1, "high": 10})
    assert parameter.recommendation is not None
    assert not parameter.follows_recommendation
    assert parameter.notes == ("searched on a linear scale; the recommendation is log: true",)


# ----------------------------------------------------------------------------------------- clamping
@pytest.mark.parametrize(
    ("name", "written", "text", "notes"),
    [
        (
            "n_epochs",
            {"low": 0, "high": 100},
            "1 .. 50",
            [
                "low clamped from 0 to 1: the backend accepts 1 .. 50",
                "high clamped from 100 to 50: the backend accepts 1 .. 50",
            ],
        ),
        (
            "n_epochs",
            {"low": -3, "high": 12, "step": 5},
            "2 .. 12, step 5",
            ["low clamped from -3 to 2: the backend accepts 1 .. 50"],
        ),
        ("n_epochs", {"low": 1, "high": 5, "step": 3}, "1 .. 4, step 3", ["high is 4, the last step before 5"]),
        (
            "n_epochs",
            {"low": 49, "high": 60, "step": 9},
            "49",
            ["high clamped from 60 to 49: the backend accepts 1 .. 50"],
        ),
        (
            "prompt_loss_weight",
            {"low": -0.3, "high": 0.4, "step": 0.2},
            "0.1 .. 0.3, step 0.2",
            ["low clamped from -0.3 to 0.1: the backend accepts 0 .. 1", "high is 0.3, the last step before 0.4"],
        ),
        ("adapter", {"low": 2, "high": 9, "step": 3}, "2 | 8", ["the backend accepts 1 or 2 or 4 or 8"]),
    ],
)
def test_a_clamped_range_keeps_its_steps_and_has_a_note(name: str, written: Any, text: str, notes: list[str]) -> None:
    parameter = resolve_one(name, written)
    assert parameter.text == text
    assert list(parameter.notes) == notes


def test_shares_with_equal_counts_are_used_once() -> None:
    parameter = resolve_one("batch_size", ["0.01%", "0.02%", "4%"])
    assert parameter.text == "1 | 80"
    assert "equal values are used once" in parameter.notes


def test_bounds_replace_the_written_ends_and_are_clamped_as_well() -> None:
    parameter = resolve_one("n_epochs", "recommended", bounds={"n_epochs": (3.5, 70)})
    assert parameter.text == "4 .. 50"
    assert parameter.notes == (
        "4 .. 70 replaces 2 .. 4",
        "high clamped from 70 to 50: the backend accepts 1 .. 50",
    )


def test_invalid_bounds_are_refused() -> None:
    written = {"n_epochs": {"low": 1, "high": 4, "log": True}, "batch_size": "recommended"}
    found = problems(written, bounds={"n_epochs": (0, 4), "batch_size": (9, 3), "n_epoch": (1, 2)})
    assert [(problem.path, problem.message, problem.hint) for problem in found] == [
        (
            ("n_epoch",),
            "n_epoch: the bounds are for a hyperparameter that is not in the space",
            "did you mean n_epochs?",
        ),
        (("n_epochs",), "n_epochs: a log scale needs low above 0, not 0", "raise low, or leave log out"),
        (("batch_size",), "batch_size: low 9 is above high 3", "swap the two"),
    ]


@pytest.mark.parametrize("written", [3, [2, 3]])
def test_bounds_need_a_range(written: Any) -> None:
    (problem,) = problems({"n_epochs": written}, bounds={"n_epochs": (2, 3)})
    assert problem.path == ("n_epochs",)
    assert "bounds apply to a range" in problem.message


# ----------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("written", "path", "message", "hint"),
    [
        ({"n_epoch": 3}, ("n_epoch",), "this backend has no hyperparameter n_epoch", "did you mean n_epochs?"),
        ({"n_epochs": 2.5}, ("n_epochs",), "2.5 is not a whole number", "accepted: 1 .. 50"),
        ({"n_epochs": True}, ("n_epochs",), "true is not a whole number", "1 .. 50"),
        ({"n_epochs": 51}, ("n_epochs",), "51 is outside", "accepted: 1 .. 50"),
        ({"n_epochs": [3, 0]}, ("n_epochs", 1), "0 is outside", "accepted: 1 .. 50"),
        ({"n_epochs": {"choices": [3, "x"]}}, ("n_epochs", "choices", 1), "x is not a whole number", ""),
        ({"batch_size": ["1%", "90%"]}, ("batch_size", 1), "90 % of 2,000 examples: 1800 is outside", "1 .. 1024"),
        ({"n_epochs": {"value": 0}}, ("n_epochs", "value"), "0 is outside", ""),
        ({"n_epochs": {"low": 60, "high": 70}}, ("n_epochs",), "60 .. 70 is outside", "accepted: 1 .. 50"),
        ({"n_epochs": {"low": 1.5, "high": 3}}, ("n_epochs", "low"), "low is 1.5, not a whole number", ""),
        ({"n_epochs": {"low": 1, "high": 3, "step": 0.5}}, ("n_epochs", "step"), "step is 0.5, not a whole", ""),
        ({"batch_size": {"low": 30, "high": "1%"}}, ("batch_size",), "low 30 is above high 20", "swap"),
        ({"learning_rate": "1%"}, ("learning_rate",), "1% is not a number", "only a count"),
        ({"learning_rate": {"low": "1%", "high": 1}}, ("learning_rate", "low"), "low cannot be 1 %", "only a count"),
        ({"schedule": "cosin"}, ("schedule",), "cosin is not accepted", "did you mean cosine?"),
        ({"schedule": 3}, ("schedule",), "3 is not text", "quotes"),
        ({"schedule": {"low": 1, "high": 2}}, ("schedule",), "a range needs numbers", "list"),
        ({"packing": "yes"}, ("packing",), "yes is not true or false", "write true or false"),
        ({"packing": 1}, ("packing",), "1 is not true or false", ""),
        ({"adapter": 3}, ("adapter",), "3 is not accepted", "accepted: 1 or 2 or 4 or 8"),
        ({"adapter": {"low": 5, "high": 7}}, ("adapter",), "5 .. 7 contains no accepted value", "1 or 2 or 4 or 8"),
        ({"schedule": "recommended"}, ("schedule",), "there is no recommendation in the scope local", "no other scope"),
        ({"learning_rate": 0.1, "learning_rate_multiplier": 1}, ("learning_rate_multiplier",), "together with", "when"),
    ],
)
def test_values_that_the_backend_does_not_accept_are_refused_with_their_place(
    written: Any, path: tuple[Any, ...], message: str, hint: str
) -> None:
    (problem,) = problems(written)
    assert problem.path == path
    assert message in problem.message
    assert hint in problem.hint


def test_a_missing_recommendation_names_the_scopes_with_one_and_the_form_to_write() -> None:
    (problem,) = problems({"batch_size": "recommended"}, scope="hosted-current")
    assert problem.message == "batch_size: there is no recommendation in the scope hosted-current"
    assert "gpt3-classification, gpt3-api-defaults, local" in problem.hint
    assert "`batch_size: {low: ..., high: ...}`" in problem.hint
    (problem,) = problems({"batch_size": "recommended"}, scope="elsewhere")
    assert problem.message == "batch_size: the catalogue has no scope elsewhere"


def test_all_problems_are_reported_together_and_survive_pickling() -> None:
    written = {"n_epoch": 3, "batch_size": 0, "packing": "no", "schedule": "linea", "lora_rank": 4}
    with pytest.raises(SpaceError) as caught:
        resolve(written)
    assert {problem.path[0] for problem in caught.value.problems} == set(written)
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems


@pytest.mark.parametrize("examples", [0, -1])
def test_a_training_set_without_examples_is_refused(examples: int) -> None:
    with pytest.raises(ValueError, match="training_examples"):
        resolve({}, examples=examples)


# --------------------------------------------------------------------------------------- conditions
METHODS = {"method": ["lora", "full"]}


def test_a_parameter_is_absent_where_its_condition_does_not_hold() -> None:
    space = resolve({"lora_rank": {"low": 2, "high": 4, "when": {"method": "lora"}}, **METHODS})
    assert [parameter.name for parameter in space] == ["method", "lora_rank"]
    assert space.parameters[1].condition_text == "method is lora"
    assert space.violations({"method": "full"}) == []
    assert space.violations({"method": "full", "lora_rank": 3}) == [
        "lora_rank has a value, but takes part only where method is lora"
    ]
    assert space.violations({"method": "lora"}) == ["lora_rank has no value"]


@pytest.mark.parametrize("written", [8, {"low": 2, "high": 4}, [2, 4], "recommended"])
def test_a_requirement_of_the_backend_becomes_a_condition_with_a_note(written: Any) -> None:
    parameter = resolve({"lora_rank": written, **METHODS}).parameter("lora_rank")
    assert parameter is not None
    assert parameter.condition == {"method": ("lora",)}
    assert "only where method is lora: elsewhere it has no effect" in parameter.notes


def test_a_condition_is_narrowed_to_the_values_with_an_effect() -> None:
    written = {
        "schedule": ["constant", "linear", "cosine"],
        "warmup": {"value": 10, "when": {"schedule": ["constant", "cosine"]}},
    }
    parameter = resolve(written).parameter("warmup")
    assert parameter is not None
    assert parameter.condition == {"schedule": ("cosine",)}


@pytest.mark.parametrize("others", [{"method": "lora"}, {"method": ["lora"]}])
def test_a_requirement_that_always_holds_is_omitted(others: Any) -> None:
    space = resolve({"lora_rank": {"low": 2, "high": 4, "when": {"method": "lora"}}, **others})
    assert not any(parameter.condition for parameter in space)


def test_a_requirement_that_another_condition_implies_is_omitted() -> None:
    written = {
        **METHODS,
        "packing": {"choices": [True, False], "when": {"method": "lora"}},
        "lora_rank": {"low": 2, "high": 4, "when": {"packing": True}},
    }
    parameter = resolve(written).parameter("lora_rank")
    assert parameter is not None
    assert parameter.condition == {"packing": (True,)}


def test_a_condition_on_a_conditional_fixed_value_is_kept() -> None:
    written = {
        **METHODS,
        "packing": {"value": True, "when": {"method": "lora"}},
        "n_epochs": {"value": 3, "when": {"packing": True}},
    }
    space = resolve(written)
    assert space.violations({"method": "full"}) == []
    assert space.violations({"method": "lora", "packing": True, "n_epochs": 3}) == []


def test_a_condition_on_a_hyperparameter_outside_the_space_uses_the_default_of_the_backend() -> None:
    parameter = resolve_one("n_epochs", {"value": 3, "when": {"method": "full"}})
    assert parameter.condition == {}
    assert parameter.notes == ("method is not in the space; the backend's default, full, fits",)


@pytest.mark.parametrize(
    ("written", "path", "message", "hint"),
    [
        ({"when": {"metod": "lora"}}, "metod", "the unknown parameter metod", "did you mean method?"),
        ({"when": {"method": "lroa"}}, "method", "lroa is not accepted", "did you mean lora?"),
        ({"when": {"schedule": "linear"}}, "schedule", "schedule, which is not in the space", "add schedule"),
        ({"when": {"base_model": "x"}}, "base_model", "base_model is never x", "base_model is y"),
        ({"when": {"batch_size": 3}}, "batch_size", "batch_size is never 3", "batch_size is 4 .. 8"),
        ({"when": {"learning_rate": 0.5}}, "learning_rate", "learning_rate, which is a range", "list"),
        (
            {"when": {"packing": True}},
            "packing",
            "by default false, so n_epochs would never be",
            "add `packing: true`",
        ),
    ],
)
def test_a_condition_that_cannot_be_met_is_refused(written: Any, path: str, message: str, hint: str) -> None:
    others = {
        **METHODS,
        "base_model": "y",
        "batch_size": {"low": 4, "high": 8},
        "learning_rate": {"low": 0.1, "high": 0.9},
    }
    (problem,) = problems({**others, "n_epochs": {"value": 3, **written}})
    assert problem.path == ("n_epochs", "when", path)
    assert message in problem.message
    assert hint in problem.hint


def test_conditions_that_contradict_each_other_are_refused() -> None:
    written = {
        **METHODS,
        "packing": {"choices": [True, False], "when": {"method": "full"}},
        "n_epochs": {"value": 3, "when": {"packing": True, "method": "lora"}},
    }
    (problem,) = problems(written)
    assert problem.path == ("n_epochs", "when")
    assert "never happens" in problem.message


def test_a_cycle_of_conditions_is_refused() -> None:
    written = {
        "n_epochs": {"choices": [1, 2], "when": {"batch_size": 1}},
        "batch_size": {"choices": [1, 2], "when": {"n_epochs": 1}},
    }
    (problem,) = problems(written)
    assert problem.path == ("batch_size", "when", "n_epochs")
    assert "n_epochs -> batch_size -> n_epochs" in problem.message
    (problem,) = problems({"n_epochs": {"choices": [1, 2], "when": {"n_epochs": 1}}})
    assert problem.path == ("n_epochs", "when", "n_epochs")


@pytest.mark.parametrize("others", [{"method": "full"}, {}])
def test_a_hyperparameter_without_effect_is_refused_with_the_remedy(others: Any) -> None:
    (problem,) = problems({"lora_rank": {"low": 2, "high": 4}, **others})
    assert problem.path == ("lora_rank",)
    assert problem.message == "lora_rank has no effect: method is full"
    assert "write `method: lora`" in problem.hint


def test_a_requirement_on_a_value_that_the_backend_chooses_is_only_noted() -> None:
    assert resolve_one("warmup", 10).notes == ("has an effect only where schedule is cosine or linear",)


def test_parameters_that_exclude_each_other_may_have_disjoint_conditions() -> None:
    branches = {
        **METHODS,
        "learning_rate": {"value": 0.1, "when": {"method": "full"}},
        "learning_rate_multiplier": {"value": 1, "when": {"method": "lora"}},
    }
    space = resolve(branches)
    assert space.violations({"method": "full", "learning_rate": 0.1}) == []
    assert space.size() == 2


# ------------------------------------------------------------------------------------------ library
def test_a_library_space_can_be_changed_and_reduced() -> None:
    written = {"use": "classification", "n_epochs": [1, 2], "prompt_loss_weight": None, "packing": True}
    space = SearchSpace.parse(written)
    assert space.library == "classification"
    resolved = resolve(written)
    assert [parameter.name for parameter in resolved] == [
        "n_epochs",
        "batch_size",
        "learning_rate_multiplier",
        "packing",
    ]
    assert resolved.parameters[0].text == "1 | 2"


def test_a_problem_of_a_library_parameter_points_to_use_and_says_how_to_remove_it() -> None:
    limits = {name: limit for name, limit in LIMITS.items() if name != "prompt_loss_weight"}
    with pytest.raises(SpaceError) as caught:
        SearchSpace.parse({"use": "classification", "batch_size": 0}).resolve(2000, limits, "local")
    by_path = {problem.path: problem for problem in caught.value.problems}
    assert set(by_path) == {("use",), ("batch_size",)}
    assert "no hyperparameter prompt_loss_weight" in by_path["use",].message
    assert "write prompt_loss_weight: null" in by_path["use",].hint


def test_an_optional_hyperparameter_is_left_out_where_the_backend_does_not_know_it() -> None:
    written = {"n_epochs": 3, "sparkle": {"choices": [1, 2], "optional": True}}
    space = SearchSpace.parse(written).resolve(1000, {"n_epochs": Limit("int", low=1, high=9)}, "local")
    assert [parameter.name for parameter in space] == ["n_epochs"]
    assert space.left_out == ("sparkle",)
    known = SearchSpace.parse(written).resolve(1000, {**LIMITS, "sparkle": Limit("int", low=1, high=9)}, "local")
    assert known.left_out == ()
    assert known.parameter("sparkle") is not None


def test_optional_is_true_or_false() -> None:
    with pytest.raises(SpaceError) as caught:
        SearchSpace.parse({"n_epochs": {"value": 3, "optional": "maybe"}})
    assert caught.value.problems[0].path == ("n_epochs", "optional")
