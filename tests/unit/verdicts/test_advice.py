"""Advice: the directions of the catalogue, with a next value that the backend accepts."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from search_spaces.catalogue import Catalogue
from sweeps.verdicts.advice import Advice, NoLearningCause
from sweeps.verdicts.verdict import VerdictKind

pytestmark = pytest.mark.unit

NAMES = ("learning_rate_multiplier", "n_epochs", "lora_rank", "lora_dropout", "weight_decay")
ADVICE = Advice.from_recommendations(
    found for name in NAMES if (found := Catalogue.load().get(name, "local")) is not None
)
RATE = "learning_rate_multiplier"


def test_the_more_important_suggestion_comes_first() -> None:
    assert ADVICE.for_verdict(VerdictKind.OVERFIT) == "lower n_epochs; lower learning_rate_multiplier"
    assert ADVICE.for_verdict(VerdictKind.DIVERGED) == "lower learning_rate_multiplier"


@pytest.mark.parametrize("kind", [VerdictKind.HEALTHY, VerdictKind.UNSETTLED])
def test_a_verdict_that_needs_no_advice_gets_none(kind: VerdictKind) -> None:
    assert ADVICE.for_run({"n_epochs": 3}).for_verdict(kind) == ""


def test_a_known_value_gets_a_next_one() -> None:
    advice = ADVICE.for_run({"n_epochs": 3, RATE: 0.06})
    assert advice.for_verdict(VerdictKind.UNDERFIT) == (
        "raise n_epochs from 3 to 5; raise learning_rate_multiplier from 0.06 to 0.12"
    )
    assert advice.for_verdict(VerdictKind.UNDERFIT, cause="slow") == (
        "raise learning_rate_multiplier from 0.06 to 0.24; raise n_epochs from 3 to 5"
    )
    assert (
        advice.for_verdict(VerdictKind.UNDERFIT, cause="collapsed")
        == "lower learning_rate_multiplier from 0.06 to 0.012"
    )
    assert advice.for_verdict(VerdictKind.UNDERFIT, cause="unclear") == (
        "raise learning_rate_multiplier from 0.06 to 0.24 for one epoch; "
        "if the losses still do not move, lower learning_rate_multiplier from 0.06 to 0.012"
    )
    assert advice.for_verdict(VerdictKind.DIVERGED) == "lower learning_rate_multiplier from 0.06 to 0.012"


def test_over_fitting_keeps_the_useful_epochs() -> None:
    advice = ADVICE.for_run({"n_epochs": 10})
    assert advice.for_verdict(VerdictKind.OVERFIT, useful_epochs=2).startswith("lower n_epochs from 10 to 2")
    assert advice.for_verdict(VerdictKind.OVERFIT, useful_epochs=9).startswith("lower n_epochs from 10 to 6")


def test_a_value_at_its_limit_gets_no_suggestion_and_data_are_the_last_resort() -> None:
    advice = Advice.from_recommendations(
        found for found in [Catalogue.load().get("n_epochs", "local")] if found is not None
    )
    at_the_top = advice.for_run({"n_epochs": 50}, {"n_epochs": (1, 50)})
    assert at_the_top.for_verdict(VerdictKind.UNDERFIT) == ""
    assert (
        advice.for_run({"n_epochs": 1}, {"n_epochs": (1, 50)}).for_verdict(VerdictKind.OVERFIT)
        == "add training examples"
    )


def test_a_diverged_run_gets_advice_without_any_adjustable_parameter() -> None:
    assert Advice().for_verdict(VerdictKind.DIVERGED) == "lower the learning rate"


@given(
    kind=st.sampled_from(list(VerdictKind)),
    epochs=st.integers(1, 60),
    rate=st.floats(1e-6, 1e3),
    epochs_limits=st.tuples(st.integers(1, 5), st.integers(6, 60)),
    rate_limits=st.tuples(st.floats(1e-6, 1e-2), st.floats(0.1, 1e3)),
    cause=st.sampled_from([None, "slow", "collapsed", "unclear"]),
    useful=st.one_of(st.none(), st.floats(0, 60)),
)
@example(VerdictKind.OVERFIT, 1, 1.0000000000000002e-06, (1, 6), (1e-06, 1.0), None, None)
def test_every_suggested_value_is_within_the_limits_of_the_backend(
    kind: VerdictKind,
    epochs: int,
    rate: float,
    epochs_limits: tuple[int, int],
    rate_limits: tuple[float, float],
    cause: NoLearningCause | None,
    useful: float | None,
) -> None:
    limits = {"n_epochs": epochs_limits, RATE: rate_limits}
    advice = ADVICE.for_run({"n_epochs": epochs, RATE: rate}, limits)
    text = advice.for_verdict(kind, cause=cause, useful_epochs=useful)
    for name, before, after in re.findall(r"(\w+) from (\S+) to ([^;\s]+)", text):
        low, high = limits[name]
        assert low * 0.995 <= float(after) <= high * 1.005  # written with three digits
        assert float(after) != float(before)
