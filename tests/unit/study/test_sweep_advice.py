"""The advice of a whole sweep: edges, causes, and single trials that agree with all trials."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json

from backends.contract import Scalar
from sweeps.execution.tracked_sweep import SweepSummary
from sweeps.reports.formatting import advice_lines
from sweeps.spec.objective import Objective
from sweeps.study.state import SweepState
from sweeps.study.steering import Change
from sweeps.study.sweep_advice import StoredParameter, SweepAdvice, advise
from sweeps.trials.trial import Trial, TrialState
from sweeps.verdicts.baseline_comparison import BaselineComparison
from sweeps.verdicts.suggestion import FOR_ONE_EPOCH, IF_STILL_STUCK, SEPARATOR, Direction, Suggestion
from sweeps.verdicts.verdict import FitVerdict, VerdictKind

pytestmark = pytest.mark.unit

SPACE = [
    StoredParameter("lr", FloatDistribution(1e-5, 1e-2, log=True)),
    StoredParameter("num_train_epochs", CategoricalDistribution([2, 3, 4])),
    StoredParameter("batch", CategoricalDistribution([8, 16])),
]
LIMITS = {"lr": (1e-9, 1.0)}
ACCURACY = Objective("valid_accuracy", "maximize")
HEALTHY, UNDER, OVER, DIVERGED = (
    VerdictKind.HEALTHY,
    VerdictKind.UNDERFIT,
    VerdictKind.OVERFIT,
    VerdictKind.DIVERGED,
)


def trial(
    number: int,
    rate: float,
    value: float | None,
    kind: VerdictKind = HEALTHY,
    *,
    epochs: int = 3,
    batch: int = 8,
    advice: str = "",
    keep: float | None = None,
    **flags: bool,
) -> Trial:
    point: dict[str, Scalar] = {"lr": rate, "num_train_epochs": epochs, "batch": batch}
    return Trial(
        number,
        f"k{number}",
        "m",
        point,
        7,
        state=TrialState.COMPLETE,
        values=None if value is None else (value,),
        best_epoch=keep or float(epochs),
        verdict=FitVerdict(kind, "so", advice=advice, keep_epoch=keep or float(epochs), **flags),
        ended_at=float(number),
    )


def sampled(count: int, seed: int, score: Callable[[float], float]) -> list[Trial]:
    chance = random.Random(seed)
    rates = [10 ** chance.uniform(-5, -2) for _ in range(count)]
    return [
        trial(n, rate, score(rate), epochs=chance.choice([2, 3, 4]), batch=chance.choice([8, 16]))
        for n, rate in enumerate(rates)
    ]


def advised(trials: list[Trial], limits: Mapping[str, tuple[float | None, float | None]] = LIMITS) -> SweepAdvice:
    return advise(trials, SPACE, limits, (), ACCURACY)


def test_the_best_trials_at_an_edge_raise_it_with_the_reason() -> None:
    """The 3 best of 12 are the 3 with the largest rate."""
    rates = [10 ** (-5 + 3 * position / 11) for position in range(12)]
    trials = [trial(n, rate, 0.3 + 0.04 * n) for n, rate in enumerate(rates)]
    [move] = advised(trials).moves
    assert (move.parameter, move.edge, move.value, move.target) == ("lr", "upper", 0.01, 0.04)
    assert move.chance is not None
    assert move.chance < 0.01
    assert move.text == (
        "raise the upper edge of lr from 0.01 to 0.04 (clear): the 3 best of 12 trials lie in the top fifth of the "
        "range (rank correlation 1.00)"
    )
    turned = [trial(n, rate, 0.8 - 0.04 * n) for n, rate in enumerate(rates)]
    [move] = advised(turned).moves
    assert (move.edge, move.target) == ("lower", 2.5e-6)


def test_the_direction_of_the_objective_counts() -> None:
    rates = [10 ** (-5 + 3 * position / 11) for position in range(12)]
    trials = [trial(n, rate, 2 - 0.1 * n) for n, rate in enumerate(rates)]
    [move] = advise(trials, SPACE, LIMITS, (), Objective("valid_loss", "minimize")).moves
    assert move.edge == "upper"


def test_an_edge_at_its_limit_is_said_and_not_moved() -> None:
    rates = [10 ** (-5 + 3 * position / 11) for position in range(12)]
    trials = [trial(n, rate, 0.3 + 0.04 * n) for n, rate in enumerate(rates)]
    advice = advised(trials, {"lr": (1e-9, 0.01)})
    assert not advice.moves
    assert "its edge, 0.01, is a limit" in advice.sentences[0]


def test_a_best_rate_inside_the_range_is_wide_enough_and_few_trials_say_nothing() -> None:
    inside = sampled(20, 1, lambda rate: 0.8 - 0.2 * abs(math.log10(rate / 3e-4)))
    assert advised(inside).sentences == ("the ranges of lr, num_train_epochs and batch are wide enough",)
    [sentence] = advised(inside[:5]).sentences
    assert sentence.startswith("too few trials (5 of 8) to say")
    assert advised([]).sentences == ()


def test_chance_rarely_moves_an_edge() -> None:
    chance = random.Random(99)
    moved = sum(bool(advised(sampled(12, seed, lambda _: chance.random())).moves) for seed in range(60))
    assert moved <= 6


def test_best_trials_that_overfitted_do_not_raise_the_edge() -> None:
    rates = [10 ** (-5 + 3 * position / 11) for position in range(12)]
    trials = [trial(n, rate, 0.3 + 0.04 * n, OVER if n > 8 else HEALTHY) for n, rate in enumerate(rates)]
    assert not any(move.edge == "upper" for move in advised(trials).moves)


def test_no_learning_at_any_rate_is_no_matter_of_the_hyperparameters() -> None:
    rates = [10 ** (-5 + 3 * position / 7) for position in range(8)]
    suggested = [f"raise lr from {rate:.3g} to {4 * rate:.3g}" for rate in rates]
    advice = advised([trial(n, rate, 0.33, UNDER, advice=suggested[n]) for n, rate in enumerate(rates)])
    assert advice.sentences == (
        "none of 8 judged trials learned anything, with lr from 1e-05 to 0.01: "
        "look at the base model or the data, not at the hyperparameters",
    )
    assert not advice.trials
    stopped = trial(8, 1e-3, 0.7, VerdictKind.UNSETTLED)
    assert not advised([*(trial(n, rate, 0.33, UNDER) for n, rate in enumerate(rates)), stopped]).cause, "it learned"
    narrow = [trial(n, 1e-5 * (1 + n / 10), 0.33, UNDER) for n in range(8)]
    assert advised(narrow).sentences == ("none of 8 judged trials learned anything: widen the range of lr first",)


def test_the_sentence_about_the_base_model_is_said_once() -> None:
    rates = [10 ** (-5 + 3 * position / 7) for position in range(8)]
    trials = [trial(n, rate, 0.33, UNDER) for n, rate in enumerate(rates)]
    said = BaselineComparison("below", "tfidf", "the base model is too weak", excludes_hyperparameters=True)
    assert advice_lines(trials, advised(trials), said) == []
    unsaid = BaselineComparison("below", "tfidf", "more trials would show", excludes_hyperparameters=False)
    assert len(advice_lines(trials, advised(trials), unsaid)) == 1


def test_neighbours_with_the_same_rate_get_no_opposite_advice() -> None:
    """One sweep doubled the rate for one trial and divided it by five for its neighbour."""
    trials = [
        trial(0, 1e-3, 0.6, UNDER, batch=8, advice="raise lr from 0.001 to 0.002", improving=True),
        trial(1, 1e-3, 0.4, UNDER, batch=16, advice="lower lr from 0.001 to 0.0002", collapsed=True),
    ]
    assert advised(trials).trials == {0: "raise lr from 0.001 to 0.002"}


def test_a_better_healthy_neighbour_with_a_larger_rate_contradicts_a_smaller_one() -> None:
    lowered = trial(0, 1e-3, 0.4, UNDER, advice="lower lr from 0.001 to 0.0002")
    raised = trial(0, 1e-3, 0.4, UNDER, advice="raise lr from 0.001 to 0.004")
    assert advised([lowered]).trials == {0: "lower lr from 0.001 to 0.0002"}
    assert advised([lowered, trial(1, 2e-3, 0.8)]).trials == {}
    assert advised([raised, trial(1, 2e-3, 0.8)]).trials == {0: "raise lr from 0.001 to 0.002"}


def test_a_suggestion_stops_at_the_best_trials() -> None:
    trials = [
        trial(0, 1e-4, 0.4, UNDER, advice="raise lr from 0.0001 to 0.0004"),
        trial(1, 2e-4, 0.8),
        trial(2, 1e-3, 0.3, OVER, advice="lower lr from 0.001 to 0.0001"),
    ]
    assert advised(trials).trials == {0: "raise lr from 0.0001 to 0.0002", 2: "lower lr from 0.001 to 0.0002"}


def test_a_test_of_one_epoch_is_shortened_to_the_half_that_nobody_has_tried() -> None:
    unclear = (
        "raise lr from 0.002 to 0.008 for one epoch; if the losses still do not move, lower lr from 0.002 to 0.0004"
    )
    trials = [trial(0, 2e-3, 0.33, UNDER, advice=unclear), trial(1, 5e-4, 0.8)]
    assert advised(trials).trials == {0: "lower lr from 0.002 to 0.0005"}


WAYS = st.sampled_from([*get_args(Direction), None])


@given(
    rows=st.lists(
        st.tuples(
            st.floats(1e-5, 1e-2),
            st.sampled_from([None, 0.2, 0.4, 0.6, 0.8, 0.9]),
            st.sampled_from(list(VerdictKind)),
            st.integers(2, 4),
            st.sampled_from([8, 16]),
            st.sampled_from(["raise", "lower", "test", None]),
            WAYS,
            st.floats(0.1, 1),
            st.booleans(),
        ),
        max_size=24,
    )
)
@settings(max_examples=200, deadline=None)
def test_the_advice_of_a_sweep_never_contradicts_itself(
    rows: list[tuple[float, float | None, VerdictKind, int, int, Any, Direction | None, float, bool]],
) -> None:
    trials = []
    for number, (rate, value, kind, epochs, batch, rate_way, epochs_way, kept, improving) in enumerate(rows):
        keep = kept * epochs
        pieces = []
        if rate_way == "test":
            pieces.append(Suggestion("raise", "lr", rate, 4 * rate, after=FOR_ONE_EPOCH))
            pieces.append(Suggestion("lower", "lr", rate, rate / 5, before=IF_STILL_STUCK))
        elif rate_way:
            pieces.append(Suggestion(rate_way, "lr", rate, rate * {"raise": 4, "lower": 0.2}[rate_way]))
        if epochs_way == "raise":
            pieces.append(Suggestion("raise", "num_train_epochs", epochs, epochs + 2, is_integer=True))
        elif epochs_way == "lower" and math.ceil(keep) < epochs:
            pieces.append(Suggestion("lower", "num_train_epochs", epochs, math.ceil(keep), is_integer=True))
        text = SEPARATOR.join(piece.text for piece in pieces)
        run = trial(number, rate, value, kind, epochs=epochs, batch=batch, advice=text, keep=keep, improving=improving)
        trials.append(run)
    advice = advised(trials)
    found: dict[str, list[Suggestion]] = {}
    for number, text in advice.trials.items():
        assert advice.cause == ""
        for piece in text.split(SEPARATOR):
            suggestion = Suggestion.parse(piece)
            assert suggestion is not None
            assert suggestion.moves
            if not suggestion.before:
                found.setdefault(suggestion.parameter, []).append(suggestion)
            if suggestion.parameter == "num_train_epochs" and suggestion.direction == "lower":
                verdict = trials[number].verdict
                assert verdict is not None
                assert suggestion.target >= (verdict.keep_epoch or 0.0)
    for suggestions in found.values():
        raised = [one for one in suggestions if one.direction == "raise"]
        lowered = [one for one in suggestions if one.direction == "lower"]
        for one in raised:
            assert all(one.value < other.value and one.target <= other.value for other in lowered)
    for move in advice.moves:
        assert move.value is not None
        assert move.target is not None
        if move.extends:
            assert all(one.direction == move.way for one in found.get(move.parameter, ()))
        else:
            assert all(one.target <= 1.005 * move.target for one in found.get(move.parameter, ()))
        low, high = LIMITS.get(move.parameter, (-math.inf, math.inf))
        assert low <= move.target <= high
    for name in {move.parameter for move in advice.moves}:
        assert len({move.way for move in advice.moves if move.parameter == name}) == 1
    assert len(advice.sentences) == len(set(advice.sentences))


def test_a_cut_of_the_range_agrees_with_larger_values_below_it() -> None:
    diverged = [
        trial(n, rate, None, DIVERGED, advice=f"lower lr from {rate:.3g} to {rate / 5:.3g}")
        for n, rate in ((0, 8e-3), (1, 9e-3))
    ]
    slow = trial(2, 2e-5, 0.4, UNDER, advice="raise lr from 2e-05 to 8e-05")
    advice = advised([*diverged, slow, trial(3, 1e-4, 0.8), trial(4, 1.1e-4, 0.79), trial(5, 3e-4, 0.75)])
    [move] = advice.moves
    assert (move.edge, move.way, move.extends) == ("upper", "lower", False)
    assert 3e-4 < (move.target or 0) < 8e-3
    assert advice.trials[2] == "raise lr from 2e-05 to 8e-05"
    assert advice.trials[0].startswith("lower lr from 0.008 to")


# --------------------------------------------------------------------------- stored sweeps, views
def stored_plan(limits: Mapping[str, list[float]]) -> dict[str, Any]:
    parameters = [
        {"name": parameter.name, "distribution": json.loads(distribution_to_json(parameter.distribution))}
        for parameter in SPACE
        if parameter.distribution is not None
    ]
    fixed = {"name": "schedule", "distribution": None}
    return {
        "space": {"parameters": [*parameters, fixed]},
        "limits": limits,
        "data": {"name": "d"},
        "search": {"trials": 12},
        "objectives": [{"maximize": "valid_accuracy"}],
    }


def test_the_advice_of_a_stored_sweep_is_the_same_and_knows_the_moved_range() -> None:
    rates = [10 ** (-5 + 3 * position / 11) for position in range(12)]
    trials = tuple(trial(n, rate, 0.3 + 0.04 * n) for n, rate in enumerate(rates))
    plan = stored_plan({"lr": [1e-9, 1.0]})
    state = SweepState("s", plan, ACCURACY, trials)
    assert state.advice == advised(list(trials))
    written = json.loads(json.dumps(state.to_json()["advice"]))
    assert written["sentences"] == list(state.advice.sentences)
    assert written["ranges"][0]["finding"] == "move"
    moved = Change("lr", (1e-5, 1e-2), 1e-5, 0.5, "because", (1, 2), 12)
    assert not SweepState("s", plan, ACCURACY, trials, changes=(moved,)).advice.moves, "the best are inside now"
    assert "limits" not in (old := {name: value for name, value in plan.items() if name != "limits"})
    assert SweepState("s", old, ACCURACY, trials).advice.moves, "a plan of an earlier version has no limits"


def test_the_run_of_the_sweep_in_mlflow_shows_the_sentences() -> None:
    rates = [10 ** (-5 + 3 * position / 11) for position in range(12)]
    trials = [trial(n, rate, 0.3 + 0.04 * n) for n, rate in enumerate(rates)]
    summary = SweepSummary.of(ACCURACY, trials, (), None, trials, stored_plan({"lr": [1e-9, 1.0]}), ())
    assert summary.tags["advice"] == "\n".join(advised(trials).sentences)


def test_lines_of_advice_begin_with_the_sweep_and_name_the_trials() -> None:
    trials = [
        trial(0, 1e-4, 0.4, UNDER, advice="raise lr from 0.0001 to 0.0004"),
        trial(1, 2e-4, 0.8),
    ]
    assert advice_lines(trials, advised(trials)) == [
        "too few trials (2 of 8) to say whether the ranges of lr, num_train_epochs and batch are wide enough",
        "trial 0 is underfit: raise lr from 0.0001 to 0.0002",
    ]
