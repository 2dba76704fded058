"""Steering: repeated verdicts near an edge move it within its bounds, and every sampler goes on."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import codec
from backends.contract import Scalar
from search_spaces.space import Limit, ResolvedSpace, SearchSpace
from sweeps.spec.objective import Objective
from sweeps.spec.sweep_file import SearchSpec
from sweeps.study.steering import MAX_CHANGES, Change, propose_changes
from sweeps.study.study import Study, StudyDefinition
from sweeps.trials.trial import Trial, TrialState
from sweeps.verdicts.verdict import FitVerdict, VerdictKind

pytestmark = pytest.mark.unit

LIMITS = {
    "n_epochs": Limit("int", low=1, high=50, default=3),
    "learning_rate_multiplier": Limit("float", low=1e-4, high=10.0),
    "batch_size": Limit("int", low=1, high=256, default=8),
}
WRITTEN = {
    "n_epochs": {"low": 2, "high": 4},
    "learning_rate_multiplier": {"low": 0.02, "high": 0.2, "log": True},
    "batch_size": [4, 8],
}
BOUNDS = {name: (limit.low, limit.high) for name, limit in LIMITS.items()}
RATE = "learning_rate_multiplier"
ACCURACY = Objective("valid_accuracy", "maximize")


def resolved(bounds: dict[str, tuple[float, float]] | None = None) -> ResolvedSpace:
    return SearchSpace.parse(WRITTEN).resolve(2000, LIMITS, "local", bounds)


def trial(
    number: int,
    kind: VerdictKind,
    epochs: int = 3,
    rate: float = 0.06,
    keep: float = 1.0,
    value: float = 0.5,
    **flags: bool,
) -> Trial:
    verdict = FitVerdict(kind, "so", keep_epoch=keep, **flags)
    point: dict[str, Scalar] = {"n_epochs": epochs, RATE: rate, "batch_size": 8}
    return Trial(number, f"k{number}", "m", point, 7, state=TrialState.COMPLETE, values=(value,), verdict=verdict)


UNDER, OVER, DIVERGED, HEALTHY = (
    VerdictKind.UNDERFIT,
    VerdictKind.OVERFIT,
    VerdictKind.DIVERGED,
    VerdictKind.HEALTHY,
)


def proposed(*trials: Trial, before: tuple[Change, ...] = (), epochs_bounds: object = None) -> dict[str, Change]:
    bounds_by_name = BOUNDS if epochs_bounds is None else epochs_bounds
    bounds = {change.parameter: (change.low, change.high) for change in before}
    return {
        change.parameter: change
        for change in propose_changes(trials, resolved(bounds), bounds_by_name, before, ACCURACY)
    }  # type: ignore[arg-type]


def test_runs_that_still_improve_with_the_most_epochs_raise_the_edge() -> None:
    change = proposed(trial(0, UNDER, 4, improving=True), trial(1, UNDER, 4, improving=True))["n_epochs"]
    assert (change.previous_range, change.low, change.high) == ((2, 4), 2, 6)
    assert change.trials == (0, 1)
    assert change.probe == 6
    assert "0, 1" in change.text
    assert "2 .. 4 -> 2 .. 6" in change.text


def test_one_run_or_a_minority_moves_nothing() -> None:
    assert not proposed(trial(0, UNDER, 4, improving=True))
    assert "n_epochs" not in proposed(
        *(trial(n, UNDER, 4, improving=True) for n in (0, 1)), *(trial(n, HEALTHY, 4) for n in (2, 3))
    )


def test_runs_that_learn_nothing_raise_the_rate_and_not_the_epochs() -> None:
    changed = proposed(trial(0, UNDER, 4, 0.18), trial(1, UNDER, 4, 0.15))
    assert set(changed) == {RATE}
    assert changed[RATE].high == pytest.approx(0.8)
    assert 0.2 < (changed[RATE].probe or 0) < 0.8


def test_under_fitting_far_from_the_edge_does_not_move_it() -> None:
    assert not proposed(trial(0, UNDER, 2, 0.021), trial(1, UNDER, 2, 0.03))


def test_divergence_cuts_the_rate_between_the_stable_and_the_diverged_runs() -> None:
    change = proposed(trial(0, HEALTHY, rate=0.04), trial(1, DIVERGED, rate=0.16), trial(2, DIVERGED, rate=0.19))[RATE]
    assert change.low == 0.02
    assert change.high == pytest.approx(0.08)


def test_if_everything_diverges_the_whole_range_goes_down() -> None:
    change = proposed(*(trial(n, DIVERGED, rate=rate) for n, rate in enumerate((0.021, 0.05, 0.2))))[RATE]
    assert change.high < 0.021
    assert change.low < change.high


def test_collapsed_runs_cut_the_rate_like_diverged_ones_and_never_raise_it() -> None:
    collapsed = [trial(n, UNDER, rate=rate, collapsed=True) for n, rate in ((1, 0.17), (2, 0.19))]
    change = proposed(trial(0, HEALTHY, rate=0.04), *collapsed)[RATE]
    assert 0.04 < change.high < 0.17
    assert change.reason == "trials 1, 2 diverged or collapsed"
    assert (
        proposed(trial(0, HEALTHY, rate=0.04), trial(1, UNDER, rate=0.17), trial(2, UNDER, rate=0.19))[RATE].high > 0.2
    )


def test_over_fitting_with_the_most_epochs_leaves_the_useful_ones() -> None:
    change = proposed(*(trial(n, OVER, 4, keep=2.6) for n in range(3)))["n_epochs"]
    assert (change.low, change.high) == (2, 3)


def test_the_best_trial_stays_in_the_range_although_others_there_collapsed() -> None:
    """A sweep on real data wanted to cut its range to a fiftieth of the rate of its best trial."""
    lower = [trial(n, UNDER, rate=rate, value=0.4, collapsed=True) for n, rate in ((0, 0.03), (1, 0.05), (2, 0.08))]
    best = trial(3, HEALTHY, rate=0.19, value=0.8)
    assert RATE not in proposed(trial(4, UNDER, rate=0.021, value=0.35), *lower, best)
    diverged_above = [trial(n, DIVERGED, rate=rate, value=0.3) for n, rate in ((5, 0.18), (6, 0.19))]
    middle = trial(3, HEALTHY, rate=0.1, value=0.8)
    change = proposed(trial(4, UNDER, rate=0.021, value=0.35), *lower, middle, *diverged_above)[RATE]
    assert 0.1 < change.high < 0.18


def test_a_range_does_not_grow_where_smaller_values_were_better() -> None:
    top = [trial(n, UNDER, 3, rate, value=0.4) for n, rate in ((0, 0.18), (1, 0.15))]
    better_below = trial(2, HEALTHY, 3, 0.05, value=0.7)
    assert RATE in proposed(*top)
    assert RATE not in proposed(*top, better_below)


def test_fewer_epochs_only_as_far_as_the_best_trial_goes() -> None:
    overfitted = [trial(n, OVER, 4, keep=2.6, value=0.5) for n in range(3)]
    best = trial(3, HEALTHY, 4, keep=4, value=0.9)
    assert "n_epochs" not in proposed(*overfitted, best)


def test_the_hyperparameters_of_a_program_are_steered_under_their_own_names() -> None:
    limits = {"num_train_epochs": Limit("int", low=1, high=50), "lr": Limit("float", low=1e-6, high=1.0)}
    written = {"num_train_epochs": {"low": 2, "high": 4}, "lr": {"low": 1e-4, "high": 1e-3, "log": True}}
    space = SearchSpace.parse(written).resolve(2000, limits, "local")
    runs = [
        Trial(
            number,
            f"k{number}",
            "m",
            {"num_train_epochs": 4, "lr": 3e-4},
            7,
            state=TrialState.COMPLETE,
            values=(0.5,),
            verdict=FitVerdict(UNDER, "so", improving=True),
        )
        for number in range(2)
    ]
    [change] = propose_changes(runs, space, {}, [], ACCURACY)
    assert (change.parameter, change.high, change.probe) == ("num_train_epochs", 6, 6)


def test_evidence_from_before_a_change_no_longer_counts() -> None:
    trials = [trial(n, UNDER, 4, improving=True) for n in range(2)]
    first = proposed(*trials)["n_epochs"]
    assert "n_epochs" not in proposed(*trials, before=(first,))
    more = [trial(n, UNDER, 6, improving=True) for n in (2, 3)]
    assert proposed(*trials, *more, before=(first,))["n_epochs"].high == 9


def test_a_range_that_begins_below_its_bounds_moves_into_them() -> None:
    trials = [trial(n, UNDER, 4, improving=True) for n in range(2)]
    [change] = propose_changes(trials, resolved({}), {**BOUNDS, "n_epochs": (3, 5)}, [], ACCURACY)
    assert (change.low, change.high) == (3, 5)


@given(
    verdicts=st.lists(
        st.tuples(
            st.sampled_from(list(VerdictKind)),
            st.integers(1, 60),
            st.floats(1e-4, 10),
            st.floats(0.1, 60),
            st.booleans(),
            st.sampled_from([0.2, 0.4, 0.6, 0.8]),
        ),
        max_size=30,
    ),
    epochs_bounds=st.tuples(st.integers(1, 3), st.integers(4, 60)),
    rate_bounds=st.tuples(st.floats(1e-4, 0.02), st.floats(0.2, 10.0)),
)
@settings(max_examples=100, deadline=None)
def test_ranges_stay_within_their_bounds_and_are_never_empty(
    verdicts: list[tuple[VerdictKind, int, float, float, bool, float]],
    epochs_bounds: tuple[int, int],
    rate_bounds: tuple[float, float],
) -> None:
    made: list[Change] = []
    ended: list[Trial] = []
    limits = {**BOUNDS, "n_epochs": epochs_bounds, RATE: rate_bounds}
    for number, (kind, epochs, rate, keep, improving, value) in enumerate(verdicts):
        ended.append(trial(number, kind, epochs, rate, keep, value, improving=improving))
        space = resolved({change.parameter: (change.low, change.high) for change in made})
        for change in propose_changes(ended, space, limits, made, ACCURACY):
            low, high = limits[change.parameter]
            assert low is not None
            assert high is not None
            assert low <= change.low <= change.high <= high
            assert (change.low, change.high) != change.previous_range
            assert change.probe is None or change.low <= change.probe <= change.high
            best = max(ended, key=lambda run: run.values or (0.0,))
            found = float(best.hyperparameters[change.parameter])
            before_low, before_high = change.previous_range
            stands_out = (best.values or (0.0,))[0] > median((run.values or (0.0,))[0] for run in ended)
            if stands_out and before_low <= found <= before_high and found >= low:
                inside = change.low <= found * (1 + 1e-12) and found * (1 - 1e-12) <= change.high
                assert inside, "the first of the best trials stays in the range"
            made.append(change)
    for name in ("n_epochs", RATE):
        assert sum(change.parameter == name for change in made) <= MAX_CHANGES
    assert all(codec.from_json(Change, codec.to_json(change)) == change for change in made)


# ---------------------------------------------------------------------------------------- the study
def opened(path: Path, sampler: str, directions: int = 1) -> tuple[Study, SearchSpec]:
    search = SearchSpec.model_validate({"sampler": sampler, "trials": 30, "startup_trials": 3})
    objectives = [Objective("valid_accuracy", "maximize"), Objective("valid_loss", "minimize")][:directions]
    return Study.open(path, StudyDefinition("s", "f", resolved(), objectives, search, "m")), search


def ended(study: Study, values: tuple[float, ...]) -> Trial:
    asked = study.ask()
    assert isinstance(asked, Trial)
    done = Trial(
        asked.number, asked.key, "m", asked.hyperparameters, 7, state=TrialState.COMPLETE, values=values, reason="done"
    )
    study.tell(done)
    return done


MOVED = Change("n_epochs", (2, 4), 5, 9, "because", (0, 1), 4)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "random", "qmc", "nsga2"])
def test_every_sampler_goes_on_in_the_moved_space_and_after_a_resume(tmp_path: Path, sampler: str) -> None:
    directions = 2 if sampler == "nsga2" else 1
    study, search = opened(tmp_path / "j", sampler, directions)
    values = (0.5, 0.7)[:directions]
    before = [ended(study, values) for _ in range(5)]
    assert all(2 <= float(trial.hyperparameters["n_epochs"]) <= 4 for trial in before)
    moved = resolved({"n_epochs": (5, 9)})
    study.steer([MOVED], moved, search)
    after = [ended(study, values) for _ in range(5)]
    assert all(5 <= float(trial.hyperparameters["n_epochs"]) <= 9 for trial in after)

    again, search = opened(tmp_path / "j", sampler, directions)
    assert again.steering == [MOVED]
    again.steer((), moved, search)
    assert again.steering == [MOVED]
    last = [ended(again, values) for _ in range(3)]
    assert all(5 <= float(trial.hyperparameters["n_epochs"]) <= 9 for trial in last)
    points = [str(trial.hyperparameters) for trial in (*before, *after, *last)]
    assert len(set(points)) == len(points)


def test_a_probe_comes_before_the_proposals_of_the_sampler(tmp_path: Path) -> None:
    study, search = opened(tmp_path / "j", "tpe")
    for _ in range(3):
        ended(study, (0.5,))
    study.steer([MOVED], resolved({"n_epochs": (5, 9)}), search)
    study.queue_probe({"n_epochs": 9, RATE: 0.1, "batch_size": 4})
    asked = study.ask()
    assert isinstance(asked, Trial)
    assert dict(asked.hyperparameters) == {"n_epochs": 9, RATE: 0.1, "batch_size": 4}
