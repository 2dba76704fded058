"""A trial that ran out of memory keeps the sampler from points that need at least as much."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import TrialState as OptunaState

from backends.contract import FailureKind, Scalar
from search_spaces.space import Limit, ResolvedSpace, SearchSpace
from sweeps.spec.objective import Objective
from sweeps.spec.sweep_file import SearchSpec
from sweeps.study.memory_limit import MemoryLimit
from sweeps.study.study import NoTrial, Study, StudyDefinition
from sweeps.trials.trial import Trial, TrialState

pytestmark = pytest.mark.unit

LIMITS = {
    "rank": Limit(kind="int", low=1, high=1024, default=8),
    "rate": Limit(kind="float", low=1e-6, high=10.0, default=0.1),
    "model": Limit(kind="str", choices=("small", "large"), default="small"),
}
WRITTEN: dict[str, object] = {
    "rank": {"low": 1, "high": 512, "log": True},
    "rate": {"low": 0.01, "high": 1.0, "log": True},
    "model": ["small", "large"],
}
LARGEST_THAT_FITS = 40
SAMPLERS = ["tpe", "gp", "random", "qmc"]


def space() -> ResolvedSpace:
    return SearchSpace.parse(WRITTEN).resolve(1000, LIMITS, "local")


def search(sampler: str) -> SearchSpec:
    return SearchSpec.model_validate({"sampler": sampler, "trials": 30, "startup_trials": 3})


def study(path: Path, sampler: str = "random", drivers: tuple[str, ...] = ("rank", "model")) -> Study:
    objectives = [Objective("acc", "maximize")]
    definition = StudyDefinition("s", "print", space(), objectives, search(sampler), "base", memory_drivers=drivers)
    return Study.open(path, definition)


def failed(trial: Trial, kind: FailureKind = FailureKind.OUT_OF_MEMORY) -> Trial:
    return replace(trial, state=TrialState.FAILED, failure=kind, reason="it failed")


def point(rank: int = 64, rate: float = 0.1, model: str = "small") -> dict[str, Scalar]:
    return {"rank": rank, "rate": rate, "model": model}


def exceeded(*points: dict[str, Scalar], drivers: tuple[str, ...] = ("rank", "model")) -> MemoryLimit:
    limit = MemoryLimit(drivers)
    for number, hyperparameters in enumerate(points):
        limit.learn(failed(Trial(number, f"k{number}", "m", hyperparameters, 7)))
    return limit


# ------------------------------------------------------------------------------------ the decision
def test_points_that_need_at_least_as_much_are_excluded_whatever_else_differs() -> None:
    limit = exceeded(point(rank=64))
    assert limit.excluded_by(point(rank=64, rate=0.9), space()) == 0
    assert limit.excluded_by(point(rank=65), space()) == 0
    assert limit.excluded_by(point(rank=63), space()) is None
    assert limit.excluded_by(point(rank=512, model="large"), space()) is None


def test_a_driver_that_takes_no_part_compares_with_no_value() -> None:
    full = {"rate": 0.1, "model": "small"}
    limit = exceeded(full)
    assert limit.excluded_by(full, space()) == 0
    assert limit.excluded_by(point(rank=1), space()) is None


def test_without_drivers_only_nearby_points_are_excluded() -> None:
    limit = exceeded(point(rank=64, rate=0.1), drivers=())
    assert limit.excluded_by(point(rank=60, rate=0.11), space()) == 0
    assert limit.excluded_by(point(rank=300, rate=0.1), space()) is None
    assert limit.excluded_by(point(rank=64, rate=0.9), space()) is None
    assert limit.excluded_by(point(rank=60, rate=0.11, model="large"), space()) is None


@pytest.mark.parametrize("kind", [kind for kind in FailureKind if kind is not FailureKind.OUT_OF_MEMORY])
def test_other_failures_exclude_nothing(kind: FailureKind) -> None:
    limit = MemoryLimit(("rank",))
    limit.learn(failed(Trial(0, "k", "m", point(), 7), kind))
    limit.learn(Trial(1, "k", "m", point(), 7))
    assert limit.excluded_by(point(), space()) is None


# ---------------------------------------------------------------------------------------- the study
def run(opened: Study, trials: int) -> list[Trial]:
    """Ask for trials; those above the limit run out of memory."""
    ended = []
    for _ in range(trials):
        trial = opened.ask()
        if not isinstance(trial, Trial):
            assert trial is NoTrial.EXHAUSTED
            break
        if int(trial.hyperparameters["rank"]) > LARGEST_THAT_FITS:
            trial = failed(trial)
        else:
            trial = replace(trial, state=TrialState.COMPLETE, values=(0.5,), best_epoch=1.0, model="m")
        opened.tell(trial)
        ended.append(trial)
    return ended


def assert_learnt(trials: list[Trial]) -> None:
    """No sampled trial needs at least as much as an earlier one that ran out of memory."""
    seeds = len(space().seed_points)
    for position, trial in enumerate(trials):
        ranks = [
            int(earlier.hyperparameters["rank"])
            for earlier in trials[:position]
            if earlier.state is TrialState.FAILED and earlier.hyperparameters["model"] == trial.hyperparameters["model"]
        ]
        if position >= seeds and ranks:
            assert int(trial.hyperparameters["rank"]) < min(ranks)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_sampler_repeats_what_ran_out_of_memory(tmp_path: Path, sampler: str) -> None:
    trials = run(study(tmp_path / "j", sampler), 12)
    assert_learnt(trials)
    states = [trial.state for trial in trials]
    assert len(states) == 12
    assert states.count(TrialState.FAILED) >= 1


def test_a_reopened_and_a_steered_study_remember(tmp_path: Path) -> None:
    trials = run(study(tmp_path / "j"), 10)
    assert any(trial.state is TrialState.FAILED for trial in trials)
    reopened = study(tmp_path / "j")
    trials += run(reopened, 8)
    reopened.steer([], space(), search("random"))
    trials += run(reopened, 8)
    assert_learnt(trials)
    stored = study(tmp_path / "j")
    assert stored.search_trial_count == len(trials)  # points that were left out are no trials
    assert len({trial.number for trial in trials}) == len(trials)


def test_optuna_learns_from_a_trial_that_ran_out_of_memory(tmp_path: Path) -> None:
    opened = study(tmp_path / "j")
    for kind in (FailureKind.OUT_OF_MEMORY, FailureKind.BUG):
        trial = opened.ask()
        assert isinstance(trial, Trial)
        opened.tell(failed(trial, kind))
    states = [trial.state for trial in opened._study.get_trials(deepcopy=False)]
    assert states == [OptunaState.PRUNED, OptunaState.FAIL]
