"""Steering: repeated verdicts near an edge move it, inside the room; the study goes on with every sampler."""

from __future__ import annotations

from pathlib import Path

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
ROOM = {name: (limit.low, limit.high) for name, limit in LIMITS.items()}
RATE = "learning_rate_multiplier"


def resolved(bounds: dict[str, tuple[float, float]] | None = None) -> ResolvedSpace:
    return SearchSpace.parse(WRITTEN).resolve(2000, LIMITS, "local", bounds)


def trial(
    number: int, kind: VerdictKind, epochs: int = 3, rate: float = 0.06, keep: float = 1.0, **flags: bool
) -> Trial:
    verdict = FitVerdict(kind, "so", keep_epoch=keep, **flags)
    point: dict[str, Scalar] = {"n_epochs": epochs, RATE: rate, "batch_size": 8}
    return Trial(number, f"k{number}", "m", point, 7, state=TrialState.COMPLETE, values=(0.5,), verdict=verdict)


UNDER, OVER, DIVERGED, HEALTHY = (
    VerdictKind.UNDERFIT,
    VerdictKind.OVERFIT,
    VerdictKind.DIVERGED,
    VerdictKind.HEALTHY,
)


def found(*trials: Trial, before: tuple[Change, ...] = (), steering_bounds: object = None) -> dict[str, Change]:
    given_room = ROOM if steering_bounds is None else steering_bounds
    bounds = {each.parameter: (each.low, each.high) for each in before}
    return {each.parameter: each for each in propose_changes(trials, resolved(bounds), given_room, before)}  # type: ignore[arg-type]


def test_runs_that_still_improve_at_the_top_of_the_epochs_raise_it() -> None:
    change = found(trial(0, UNDER, 4, improving=True), trial(1, UNDER, 4, improving=True))["n_epochs"]
    assert (change.previous_range, change.low, change.high) == ((2, 4), 2, 6)
    assert change.trials == (0, 1)
    assert change.probe == 6
    assert "0, 1" in change.text
    assert "2 .. 4 -> 2 .. 6" in change.text


def test_one_run_or_a_minority_moves_nothing() -> None:
    assert not found(trial(0, UNDER, 4, improving=True))
    assert "n_epochs" not in found(
        *(trial(n, UNDER, 4, improving=True) for n in (0, 1)), *(trial(n, HEALTHY, 4) for n in (2, 3))
    )


def test_runs_that_learn_nothing_raise_the_rate_and_not_the_epochs() -> None:
    changed = found(trial(0, UNDER, 4, 0.18), trial(1, UNDER, 4, 0.15))
    assert set(changed) == {RATE}
    assert changed[RATE].high == pytest.approx(0.8)
    assert 0.2 < (changed[RATE].probe or 0) < 0.8


def test_under_fitting_far_from_the_edge_does_not_move_it() -> None:
    assert not found(trial(0, UNDER, 2, 0.021), trial(1, UNDER, 2, 0.03))


def test_divergence_cuts_the_rate_between_what_held_and_what_did_not() -> None:
    change = found(trial(0, HEALTHY, rate=0.04), trial(1, DIVERGED, rate=0.16), trial(2, DIVERGED, rate=0.19))[RATE]
    assert change.low == 0.02
    assert change.high == pytest.approx(0.08)


def test_where_everything_diverges_the_whole_range_goes_down() -> None:
    change = found(*(trial(n, DIVERGED, rate=rate) for n, rate in enumerate((0.021, 0.05, 0.2))))[RATE]
    assert change.high < 0.021
    assert change.low < change.high


def test_collapsed_runs_cut_the_rate_like_diverged_ones_and_never_raise_it() -> None:
    collapsed = [trial(n, UNDER, rate=rate, collapsed=True) for n, rate in ((1, 0.17), (2, 0.19))]
    change = found(trial(0, HEALTHY, rate=0.04), *collapsed)[RATE]
    assert 0.04 < change.high < 0.17
    assert change.reason == "trials 1, 2 diverged or collapsed"
    assert found(trial(0, HEALTHY, rate=0.04), trial(1, UNDER, rate=0.17), trial(2, UNDER, rate=0.19))[RATE].high > 0.2


def test_over_fitting_at_the_top_leaves_as_many_epochs_as_were_of_use() -> None:
    change = found(*(trial(n, OVER, 4, keep=2.6) for n in range(3)))["n_epochs"]
    assert (change.low, change.high) == (2, 3)


def test_what_was_seen_before_a_change_counts_no_more() -> None:
    trials = [trial(n, UNDER, 4, improving=True) for n in range(2)]
    first = found(*trials)["n_epochs"]
    assert "n_epochs" not in found(*trials, before=(first,))
    more = [trial(n, UNDER, 6, improving=True) for n in (2, 3)]
    assert found(*trials, *more, before=(first,))["n_epochs"].high == 9


@given(
    verdicts=st.lists(
        st.tuples(
            st.sampled_from(list(VerdictKind)),
            st.integers(1, 60),
            st.floats(1e-4, 10),
            st.floats(0.1, 60),
            st.booleans(),
        ),
        max_size=30,
    ),
    steering_bounds=st.tuples(st.integers(1, 3), st.integers(4, 60)),
    rate_room=st.tuples(st.floats(1e-4, 0.02), st.floats(0.2, 10.0)),
)
@settings(max_examples=100, deadline=None)
def test_ranges_stay_inside_the_room_and_are_never_empty(
    verdicts: list[tuple[VerdictKind, int, float, float, bool]],
    steering_bounds: tuple[int, int],
    rate_room: tuple[float, float],
) -> None:
    made: list[Change] = []
    ended: list[Trial] = []
    limits = {**ROOM, "n_epochs": steering_bounds, RATE: rate_room}
    for number, (kind, epochs, rate, keep, improving) in enumerate(verdicts):
        ended.append(trial(number, kind, epochs, rate, keep, improving=improving))
        space = resolved({each.parameter: (each.low, each.high) for each in made})
        for change in propose_changes(ended, space, limits, made):
            low, high = limits[change.parameter]
            assert low is not None
            assert high is not None
            assert low <= change.low <= change.high <= high
            assert (change.low, change.high) != change.previous_range
            assert change.probe is None or change.low <= change.probe <= change.high
            made.append(change)
    for name in ("n_epochs", RATE):
        assert sum(each.parameter == name for each in made) <= MAX_CHANGES
    assert all(codec.from_json(Change, codec.to_json(each)) == each for each in made)


# ------------------------------------------------------------------------------------------------------------ the study
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
    assert all(2 <= float(each.hyperparameters["n_epochs"]) <= 4 for each in before)
    moved = resolved({"n_epochs": (5, 9)})
    study.steer([MOVED], moved, search)
    after = [ended(study, values) for _ in range(5)]
    assert all(5 <= float(each.hyperparameters["n_epochs"]) <= 9 for each in after)

    again, search = opened(tmp_path / "j", sampler, directions)
    assert again.steering == [MOVED]
    again.steer((), moved, search)
    assert again.steering == [MOVED]
    last = [ended(again, values) for _ in range(3)]
    assert all(5 <= float(each.hyperparameters["n_epochs"]) <= 9 for each in last)
    points = [str(each.hyperparameters) for each in (*before, *after, *last)]
    assert len(set(points)) == len(points)


def test_a_probe_comes_before_what_the_sampler_proposes(tmp_path: Path) -> None:
    study, search = opened(tmp_path / "j", "tpe")
    for _ in range(3):
        ended(study, (0.5,))
    study.steer([MOVED], resolved({"n_epochs": (5, 9)}), search)
    study.queue_probe({"n_epochs": 9, RATE: 0.1, "batch_size": 4})
    asked = study.ask()
    assert isinstance(asked, Trial)
    assert dict(asked.hyperparameters) == {"n_epochs": 9, RATE: 0.1, "batch_size": 4}
