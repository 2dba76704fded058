"""The check of hyperparameters: accepted values are within the declaration, others are named."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.contract import Capabilities, FailureKind, Hyperparameter, Scalar
from backends.hyperparameter_checks import check_hyperparameters

pytestmark = pytest.mark.unit

CAPABILITIES = Capabilities(
    hyperparameters=(
        Hyperparameter("n_epochs", "int", "passes", 1, 50),
        Hyperparameter("weight", "float", "weight", 0.0, 1.0),
        Hyperparameter("rank", "int", "rank", choices=(4, 8)),
        Hyperparameter("schedule", "str", "schedule", choices=("constant", "linear")),
        Hyperparameter("note", "str", "any text"),
        Hyperparameter("shuffle", "bool", "whether"),
        Hyperparameter("rate", "float", "the absolute rate", excludes=("multiplier",)),
        Hyperparameter("multiplier", "float", "the relative rate"),
    ),
    metrics=("valid_loss",),
    label_metrics=(),
    recommendation_scope="any",
    in_process=True,
)


@pytest.mark.parametrize(
    "point",
    [
        {},
        {"n_epochs": 1, "weight": 0, "schedule": "linear", "shuffle": False},
        {"n_epochs": 50, "weight": 1.0, "rank": 8, "note": ""},
        {"rate": 1e-9},
        {"multiplier": 1e300},
    ],
)
def test_valid_points_pass(point: dict[str, Scalar]) -> None:
    assert check_hyperparameters(point, CAPABILITIES) == []


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("n_epochs", 0, "below 1"),
        ("n_epochs", 51, "above 50"),
        ("n_epochs", 2.0, "not a whole number"),
        ("n_epochs", True, "not a whole number"),
        ("n_epochs", "2", "not a whole number"),
        ("weight", math.nan, "not a finite number"),
        ("weight", math.inf, "not a finite number"),
        ("weight", False, "not a finite number"),
        ("weight", -1e-9, "below 0"),
        ("rank", 5, "not one of the choices"),
        ("schedule", "cubic", "not one of the choices"),
        ("note", 1, "not a text"),
        ("shuffle", 1, "not true or false"),
    ],
)
def test_an_invalid_value_is_named_with_the_accepted_values(name: str, value: Scalar, problem: str) -> None:
    (failure,) = check_hyperparameters({name: value}, CAPABILITIES)
    assert failure.kind is FailureKind.USER
    assert failure.message.startswith(f"{name}: {value!r} ")
    assert problem in failure.message
    assert failure.detail.startswith("Accepted: ")


def test_an_unknown_name_gets_the_nearest_name_or_the_list() -> None:
    near, far = check_hyperparameters({"n_epoch": 1, "zzz": 2}, CAPABILITIES)
    assert (near.message, near.detail) == (
        "n_epoch is not a hyperparameter of this backend",
        "Did you mean n_epochs?",
    )
    assert "n_epochs" in far.detail
    assert "schedule" in far.detail


@pytest.mark.parametrize("order", [("rate", "multiplier"), ("multiplier", "rate")])
def test_an_exclusion_applies_both_ways_and_is_reported_once(order: tuple[str, str]) -> None:
    (failure,) = check_hyperparameters(dict.fromkeys(order, 1.0), CAPABILITIES)
    assert failure.message == "multiplier and rate cannot be given together"


@given(st.integers() | st.floats() | st.booleans() | st.text(max_size=3), st.sampled_from(["n_epochs", "weight"]))
def test_accepted_values_are_within_the_bounds(value: Scalar, name: str) -> None:
    declared = CAPABILITIES.hyperparameter(name)
    assert declared is not None
    assert declared.low is not None
    assert declared.high is not None
    if not check_hyperparameters({name: value}, CAPABILITIES):
        assert not isinstance(value, bool | str)
        assert declared.low <= value <= declared.high


def test_all_mistakes_are_reported_together() -> None:
    point: dict[str, Scalar] = {"n_epochs": 0, "weight": 2.0, "schedule": "cubic", "unknown": 1}
    assert len(check_hyperparameters(point, CAPABILITIES)) == 4
