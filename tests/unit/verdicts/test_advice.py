"""Advice: the directions of the catalogue, with a next value that the backend accepts."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from search_spaces.catalogue import Catalogue
from search_spaces.space import Limit, SearchSpace
from sweeps.verdicts.advice import Advice, NoLearningCause, advice_for_space
from sweeps.verdicts.suggestion import FOR_ONE_EPOCH, SEPARATOR, Direction, Suggestion
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


def test_over_fitting_keeps_the_epochs_up_to_the_best_one() -> None:
    advice = ADVICE.for_run({"n_epochs": 10})
    assert advice.for_curve(2, 10).for_verdict(VerdictKind.OVERFIT).startswith("lower n_epochs from 10 to 2")
    assert advice.for_curve(8.5, 10).for_verdict(VerdictKind.OVERFIT).startswith("lower n_epochs from 10 to 9")


def test_no_fewer_epochs_where_the_last_one_was_the_best() -> None:
    assert "n_epochs" not in ADVICE.for_run({"n_epochs": 3}).for_curve(3, 3).for_verdict(VerdictKind.OVERFIT)
    assert "n_epochs" not in ADVICE.for_curve(3, 3).for_verdict(VerdictKind.OVERFIT), "its value is unknown"
    assert "n_epochs" not in ADVICE.for_run({"n_epochs": 3}).for_curve(2.5, 3).for_verdict(VerdictKind.OVERFIT)


def test_no_more_epochs_where_an_early_one_was_the_best() -> None:
    advice = ADVICE.for_run({"n_epochs": 10, RATE: 0.06})
    assert advice.for_curve(2, 10).for_verdict(VerdictKind.UNDERFIT).startswith(f"raise {RATE} from 0.06 to 0.12")
    assert "n_epochs" not in advice.for_curve(2, 10).for_verdict(VerdictKind.UNDERFIT)
    assert advice.for_curve(9, 10).for_verdict(VerdictKind.UNDERFIT).startswith("raise n_epochs from 10 to 15")


def test_an_axis_of_steps_or_evaluations_counts_by_its_share() -> None:
    advice = ADVICE.for_run({"n_epochs": 4})
    assert advice.for_curve(300, 1000).for_verdict(VerdictKind.OVERFIT).startswith("lower n_epochs from 4 to 2")


def test_a_run_that_was_stopped_early_keeps_its_best_epoch() -> None:
    advice = ADVICE.for_run({"n_epochs": 10})
    assert advice.for_curve(3, 5).for_verdict(VerdictKind.OVERFIT).startswith("lower n_epochs from 10 to 3")


def test_the_hyperparameters_of_a_program_keep_their_names() -> None:
    limits = {
        "num_train_epochs": Limit("int", low=1, high=50, default=3),
        "optim.lr": Limit("float", low=1e-6, high=1.0),
    }
    written = {"optim.lr": {"low": 1e-5, "high": 1e-3, "log": True}, "num_train_epochs": {"low": 2, "high": 4}}
    space = SearchSpace.parse(written).resolve(2000, limits, "local")
    advice = advice_for_space(Catalogue.load(), "local", space, limits)
    run = advice.for_run({"num_train_epochs": 3, "optim.lr": 1e-4})
    assert run.for_verdict(VerdictKind.UNDERFIT) == (
        "raise num_train_epochs from 3 to 5; raise optim.lr from 0.0001 to 0.0002"
    )
    assert run.for_verdict(VerdictKind.DIVERGED) == "lower optim.lr from 0.0001 to 2e-05"


def test_a_program_without_a_hyperparameter_for_its_epochs_gets_advice_in_words() -> None:
    limits = {"lr": Limit("float", low=1e-6, high=1.0)}
    space = SearchSpace.parse({"lr": {"low": 1e-5, "high": 1e-3, "log": True}}).resolve(2000, limits, "local")
    advice = advice_for_space(Catalogue.load(), "local", space, limits).for_run({"lr": 1e-4})
    assert advice.for_curve(1, 3).for_verdict(VerdictKind.OVERFIT).startswith("lower the number of epochs")
    assert "n_epochs" not in advice.for_curve(1, 3).for_verdict(VerdictKind.OVERFIT)


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
    kept=st.one_of(st.none(), st.floats(0, 60)),
)
@example(VerdictKind.OVERFIT, 1, 1.0000000000000002e-06, (1, 6), (1e-06, 1.0), None, None)
def test_every_suggested_value_is_within_the_limits_of_the_backend(
    kind: VerdictKind,
    epochs: int,
    rate: float,
    epochs_limits: tuple[int, int],
    rate_limits: tuple[float, float],
    cause: NoLearningCause | None,
    kept: float | None,
) -> None:
    limits = {"n_epochs": epochs_limits, RATE: rate_limits}
    advice = ADVICE.for_run({"n_epochs": epochs, RATE: rate}, limits)
    text = advice.for_curve(kept, 60).for_verdict(kind, cause=cause)
    for name, before, after in re.findall(r"(\w+) from (\S+) to ([^;\s]+)", text):
        low, high = limits[name]
        assert low * 0.995 <= float(after) <= high * 1.005  # written with three digits
        assert float(after) != float(before)


@given(
    kind=st.sampled_from(list(VerdictKind)),
    epochs=st.integers(1, 60),
    kept_share=st.floats(0, 1),
    stopped_share=st.floats(0.1, 1),
    rate=st.floats(1e-6, 1e3),
    cause=st.sampled_from([None, "slow", "collapsed", "unclear"]),
)
def test_advice_never_contradicts_the_kept_epoch_or_itself(
    kind: VerdictKind,
    epochs: int,
    kept_share: float,
    stopped_share: float,
    rate: float,
    cause: NoLearningCause | None,
) -> None:
    last = epochs * stopped_share
    kept = last * kept_share
    advice = ADVICE.for_run({"n_epochs": epochs, RATE: rate}).for_curve(kept, last)
    text = advice.for_verdict(kind, cause=cause)
    found = [Suggestion.parse(piece) for piece in text.split(SEPARATOR)]
    for suggestion in filter(None, found):
        if suggestion.parameter == "n_epochs" and suggestion.direction == "lower":
            assert suggestion.target >= kept - 1e-6
            assert suggestion.target < suggestion.value
            assert kept < last
        if suggestion.parameter == "n_epochs" and suggestion.direction == "raise":
            assert kept >= last / 2
    sure = [suggestion for suggestion in found if suggestion is not None and not suggestion.before]
    for name in ("n_epochs", RATE):
        assert len({suggestion.direction for suggestion in sure if suggestion.parameter == name}) <= 1


@given(
    direction=st.sampled_from(["raise", "lower"]),
    value=st.floats(1e-9, 1e9),
    target=st.floats(1e-9, 1e9),
)
def test_a_suggestion_is_read_from_its_own_text(direction: Direction, value: float, target: float) -> None:
    written = Suggestion(direction, "optim.lr", value, target, after=FOR_ONE_EPOCH)
    read = Suggestion.parse(written.text)
    assert read is not None
    assert read.text == written.text
    assert Suggestion.parse("add training examples") is None
