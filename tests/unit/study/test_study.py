"""The study: what survives a process, which trials it offers again, and what Optuna records."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState as OptunaState

from search_spaces.space import Limit, ResolvedSpace, SearchSpace
from sweeps.errors import SweepError, UserInputError
from sweeps.spec.objective import Objective
from sweeps.spec.sweep_file import SearchSpec
from sweeps.study.stored_study import read_study
from sweeps.study.study import NoTrial, Study, StudyDefinition
from sweeps.trials.trial import Trial, TrialState

pytestmark = pytest.mark.unit

LIMITS = {
    "n_epochs": Limit(kind="int", low=1, high=50, default=2),
    "rate": Limit(kind="float", low=1e-6, high=10.0, default=0.1),
}
WIDE = {"n_epochs": {"low": 1, "high": 6}, "rate": {"low": 0.01, "high": 1.0, "log": True}}
NARROW = {"n_epochs": [1, 2], "rate": [0.1, 0.2]}


def space(written: dict[str, object]) -> ResolvedSpace:
    return SearchSpace.parse(written).resolve(1000, LIMITS, "local")


def study(path: Path, written: dict[str, object] | None = None, **search: object) -> Study:
    spec = SearchSpec.model_validate({"sampler": "random", "trials": 8, **search})
    return Study.open(
        path, StudyDefinition("s", "print", space(written or WIDE), [Objective("acc", "maximize")], spec, "base")
    )


def asked(opened: Study) -> Trial:
    trial = opened.ask()
    assert isinstance(trial, Trial)
    return trial


def finish(opened: Study, trial: Trial, value: float = 0.5) -> Trial:
    done = replace(trial, state=TrialState.COMPLETE, values=(value,), best_epoch=1.0, model="m")
    opened.tell(done)
    return done


def in_optuna(path: Path) -> list[optuna.trial.FrozenTrial]:
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    return optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(backend)).get_trials()


def test_the_first_trials_are_the_seed_points(tmp_path: Path) -> None:
    opened = study(tmp_path / "j")
    first, second = asked(opened), asked(opened)
    assert [first.hyperparameters, second.hyperparameters] == list(space(WIDE).seed_points)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "random", "qmc", "nsga2"])
def test_every_sampler_proposes_points_of_the_space(tmp_path: Path, sampler: str) -> None:
    opened = study(tmp_path / "j", sampler=sampler, startup_trials=2)
    resolved = space(WIDE)
    for _ in range(6):
        trial = asked(opened)
        assert resolved.violations(trial.hyperparameters) == []
        finish(opened, trial, float(trial.hyperparameters["rate"]))


def test_a_grid_is_tried_once_and_completely(tmp_path: Path) -> None:
    opened = study(tmp_path / "j", NARROW, sampler="grid")
    seen = []
    while isinstance(trial := opened.ask(), Trial):
        seen.append(tuple(trial.hyperparameters.values()))
        finish(opened, trial)
    assert trial is NoTrial.EXHAUSTED
    assert sorted(seen) == [(1, 0.1), (1, 0.2), (2, 0.1), (2, 0.2)]


def test_every_end_becomes_the_matching_state_in_optuna(tmp_path: Path) -> None:
    opened = study(tmp_path / "j")
    complete, stopped, failed = asked(opened), asked(opened), asked(opened)
    opened.report(stopped, 1, 0.2)
    opened.report(stopped, 1, 0.9)  # the first value of an index stays
    finish(opened, complete, 0.7)
    opened.tell(replace(stopped, state=TrialState.STOPPED, values=(0.2,)))
    opened.tell(replace(failed, state=TrialState.FAILED, reason="out of memory"))
    stored = in_optuna(tmp_path / "j")
    assert [frozen.state for frozen in stored] == [OptunaState.COMPLETE, OptunaState.PRUNED, OptunaState.FAIL]
    assert [stored[0].value, stored[1].value, stored[2].value] == [0.7, 0.2, None]


def test_telling_a_trial_that_has_not_ended_is_an_error(tmp_path: Path) -> None:
    opened = study(tmp_path / "j")
    with pytest.raises(ValueError, match="has not ended"):
        opened.tell(asked(opened))


def test_a_reopened_study_first_offers_the_running_trials_under_their_keys(tmp_path: Path) -> None:
    opened = study(tmp_path / "j")
    done, running = asked(opened), asked(opened)
    opened.report(running, 1, 0.4)
    finish(opened, done)
    again = study(tmp_path / "j")
    assert again.has_interrupted
    assert again.ask() == running
    assert again.sweep_id == opened.sweep_id
    again.report(running, 1, 0.5)  # the adopted run reports again: no warning, no change
    finish(again, running, 0.6)
    assert [frozen.value for frozen in in_optuna(tmp_path / "j")] == [0.5, 0.6]
    assert in_optuna(tmp_path / "j")[1].intermediate_values == {1: 0.4}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_no_order_of_crashes_loses_or_doubles_a_trial(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """However often the process dies: each trial ends once, with its own point."""
    path = tmp_path_factory.mktemp("study") / "j"
    chance = random.Random(seed)
    opened, running, points = study(path, sampler="tpe"), {}, {}
    while len([trial for trial in opened.search_trials if trial.state.ended]) < 8:
        if chance.random() < 0.2:  # kill -9
            opened, running = study(path, sampler="tpe"), {}
        elif running and chance.random() < 0.5:
            number = chance.choice(sorted(running))
            finish(opened, running.pop(number), chance.random())
        elif len(running) < 3:
            trial = asked(opened)
            assert trial.number not in running
            assert points.setdefault(trial.number, trial.hyperparameters) == trial.hyperparameters
            running[trial.number] = trial
    assert len({str(trial.hyperparameters) for trial in opened.search_trials}) == len(opened.search_trials)
    assert [frozen.state for frozen in in_optuna(path)].count(OptunaState.COMPLETE) == len(
        [trial for trial in opened.trials if trial.state.ended]
    )


def test_a_point_is_trained_once_and_its_duplicate_takes_over_the_result(tmp_path: Path) -> None:
    opened = study(tmp_path / "j", {"n_epochs": [1, 2, 3], "rate": 0.1})
    trials = []
    while isinstance(trial := opened.ask(), Trial):
        trials.append(finish(opened, trial, 0.1 * len(trials)))
    assert sorted(trial.hyperparameters["n_epochs"] for trial in trials) == [1, 2, 3]
    values = {trial.hyperparameters["n_epochs"]: trial.values for trial in trials}
    for duplicate in opened.trials:
        assert duplicate.values == values[duplicate.hyperparameters["n_epochs"]]
    assert len(opened.search_trials) == 3


def test_the_duplicate_of_a_running_trial_waits_for_it(tmp_path: Path) -> None:
    opened = study(tmp_path / "j", {"n_epochs": [1, 2], "rate": 0.1})
    first, second = asked(opened), asked(opened)
    assert opened.ask() is NoTrial.WAIT
    finish(opened, first)
    finish(opened, second)
    assert opened.ask() is NoTrial.EXHAUSTED
    assert all(trial.state.ended for trial in opened.trials)


def test_a_retry_runs_the_same_point_again_and_counts_once(tmp_path: Path) -> None:
    opened = study(tmp_path / "j")
    trial = asked(opened)
    failed = replace(trial, state=TrialState.FAILED, reason="lost", will_retry=True)
    assert opened.attempts(failed) == 1
    opened.tell(failed)
    asked(opened)  # the second seed point, which was queued before
    retried = asked(opened)
    assert retried.hyperparameters == trial.hyperparameters
    assert retried.key != trial.key
    assert opened.attempts(retried) == 2
    assert trial.number not in [other.number for other in opened.search_trials]
    assert trial.number not in [other.number for other in study(tmp_path / "j").search_trials]


def test_another_space_under_the_same_name_is_a_user_error(tmp_path: Path) -> None:
    study(tmp_path / "j")
    spec = SearchSpec.model_validate({"trials": 8})
    with pytest.raises(UserInputError, match="another space"):
        Study.open(
            tmp_path / "j", StudyDefinition("s", "other", space(WIDE), [Objective("acc", "maximize")], spec, "base")
        )


def test_an_unreachable_database_is_an_error_without_its_password(tmp_path: Path) -> None:
    spec = SearchSpec.model_validate({"trials": 8})
    url = "postgresql+nodriver://user:secret@127.0.0.1:1/none"
    with pytest.raises(SweepError) as caught:
        Study.open(url, StudyDefinition("s", "print", space(WIDE), [Objective("acc", "maximize")], spec, "base"))
    assert "secret" not in caught.value.message + caught.value.hint


def test_seconds_add_up_over_runs_and_a_reader_sees_the_same_trials(tmp_path: Path) -> None:
    opened = study(tmp_path / "j")
    opened.add_seconds(2.5)
    finish(opened, asked(opened))
    again = study(tmp_path / "j")
    again.add_seconds(1.0)
    assert again.seconds_used == 3.5
    assert list(read_study(tmp_path / "j", "s").trials) == again.search_trials
    with pytest.raises(SweepError, match="has no study"):
        read_study(tmp_path / "absent", "s")


def test_a_study_is_finished_until_another_trial_ends(tmp_path: Path) -> None:
    opened = study(tmp_path / "j")
    finish(opened, asked(opened))
    assert not opened.is_finished
    opened.store_finished()
    assert study(tmp_path / "j").is_finished
    again = study(tmp_path / "j")
    finish(again, asked(again))
    assert not again.is_finished


def test_a_deleted_model_stays_deleted_for_every_reader(tmp_path: Path) -> None:
    opened = study(tmp_path / "j")
    kept, deleted = finish(opened, asked(opened)), finish(opened, asked(opened))
    opened.mark_models_deleted([deleted])
    expected = {kept.number: "m", deleted.number: None}
    for trials in (opened.search_trials, study(tmp_path / "j").search_trials, read_study(tmp_path / "j", "s").trials):
        assert {trial.number: trial.model for trial in trials} == expected
