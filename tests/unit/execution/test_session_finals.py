"""The finals: a session repeats the best trials with new seeds, and the repetitions decide."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from session_driver import Recorder, drive, evaluations, open_session, start_next

from backends.contract import BackendError, Failed, Failure, FailureKind, Handle
from backends.fake import FakeBackend
from sweeps.errors import SweepError
from sweeps.execution.finals_decision import decide_finals
from sweeps.execution.finals_scoring import score_finals
from sweeps.execution.outcome import SweepEnd
from sweeps.execution.running_trial import TrialEnd
from sweeps.study.study import NoTrial
from sweeps.trials.trial import Trial, TrialState, leaderboard

pytestmark = pytest.mark.unit


def test_the_finals_repeat_the_best_trials_with_new_seeds(tmp_path: Path) -> None:
    recorder = Recorder()
    session = open_session(tmp_path, "finals={candidates: 2, seeds: 3}", observer=recorder)
    drive(session)
    assert session.finish() is SweepEnd.TRIALS
    searched, repeats = session.study.search_trials, session.study.repeats
    assert len(searched) == 5
    best = [trial.number for trial in leaderboard(searched, session.objective)[:2]]
    assert sorted((repeat.repeat_of, repeat.seed) for repeat in repeats) == sorted(
        (number, 7 + offset) for number in best for offset in (1, 2, 3)
    )
    by_number = {trial.number: trial for trial in searched}
    for repeat in repeats:
        assert repeat.repeat_of is not None
        assert repeat.hyperparameters == by_number[repeat.repeat_of].hyperparameters
        assert repeat.state is TrialState.COMPLETE
    assert len({trial.key for trial in session.study.trials}) == 11
    assert max(trial.number for trial in searched) < min(repeat.number for repeat in repeats)


def test_interrupted_finals_resume_where_they_stopped(tmp_path: Path) -> None:
    recorder = Recorder()
    session = open_session(tmp_path, "finals={candidates: 2, seeds: 2}", observer=recorder)
    drive(session, until=lambda: len(recorder.started) == 7)
    session.interrupt()
    assert session.finish() is SweepEnd.INTERRUPTED
    resumed = open_session(tmp_path, "finals={candidates: 2, seeds: 2}")
    drive(resumed)
    assert resumed.finish() is SweepEnd.TRIALS
    assert len(resumed.study.search_trials) == 5
    assert len(resumed.study.repeats) == 4
    assert len({(repeat.repeat_of, repeat.seed) for repeat in resumed.study.repeats}) == 4


def test_the_finals_wait_for_the_running_trials_of_the_search(tmp_path: Path) -> None:
    session = open_session(tmp_path, "finals={candidates: 1, seeds: 2}", "search.trials=2")
    assert isinstance(session.next_trial(), Trial)
    assert isinstance(session.next_trial(), Trial)
    session.staged_trials = 1
    assert session.next_trial() is NoTrial.WAIT
    assert not session.study.repeats


def test_finals_are_decided_by_the_seeds_if_the_service_has_lost_the_models(tmp_path: Path) -> None:
    """The sweep did not delete them, so it cannot know before it asks."""
    session = open_session(tmp_path, "finals={candidates: 2, seeds: 2}")
    drive(session)
    end = session.finish()
    with closing(session.plan.open_backend()) as backend:
        for repeat in session.study.repeats:
            assert repeat.handle is not None
            backend.discard(repeat.handle)
        result = decide_finals(session.plan, session.study, backend, end, lambda line: None)
    assert result is not None
    assert result.test is None
    assert result.untested == "no model of the winner was kept"


def test_a_failed_repetition_is_retried_with_its_seed(tmp_path: Path) -> None:
    session = open_session(tmp_path, "finals={candidates: 1, seeds: 2}", "search.trials=1", "search.concurrency=1")
    with closing(session.plan.open_backend()) as backend:
        trial = start_next(session)
        while trial.repeat_of is None:
            handle = backend.submit(session.plan.request(trial))
            session.observe(trial.number, handle, 0, backend.events(handle, 0))
            session.trial_ended(trial.number, TrialEnd.ITSELF)
            trial = start_next(session)
    gone = [*evaluations((1.0, 1.0)), Failed(Failure(FailureKind.LOST, "the job is gone"))]
    session.observe(trial.number, Handle("fake", "gone"), 0, gone)
    session.trial_ended(trial.number, TrialEnd.ITSELF)
    drive(session)
    assert sorted(repeat.seed for repeat in session.study.repeats) == [8, 9]
    assert all(repeat.state is TrialState.COMPLETE for repeat in session.study.repeats)


def test_validation_decides_the_finals_and_only_the_winner_is_scored_on_the_test_split(tmp_path: Path) -> None:
    session = open_session(tmp_path, "finals={candidates: 2, seeds: 2}")
    drive(session)
    session.finish()
    study = session.study
    with closing(session.plan.open_backend()) as backend:
        result = score_finals(session.plan, study.search_trials, study.repeats, backend)
        for repeat in study.repeats:
            assert repeat.handle is not None
            backend.discard(repeat.handle)
        study.mark_models_deleted(study.repeats)
        result_without_models = score_finals(session.plan, study.search_trials, study.repeats, backend)
    assert result is not None
    assert result == result_without_models, "the correct answers are stored, so deleted models do not matter"
    best = [trial.number for trial in leaderboard(study.search_trials, session.objective)[:2]]
    assert {score.number for score in result.standings} == set(best)
    assert result.winner in best
    by_number = {trial.number: trial for trial in study.search_trials}
    assert by_number[result.winner].values == (result.searched_value,)
    for score in result.standings:
        values = [repeat.values[0] for repeat in study.repeats if repeat.repeat_of == score.number and repeat.values]
        assert score.values == tuple(values)
        assert score.low <= score.mean <= score.high
    assert result.test is not None
    assert result.test[1] <= result.test[0] <= result.test[2]
    study.store_finals(result)
    stored = open_session(tmp_path, "finals={candidates: 2, seeds: 2}").study.finals
    assert stored is not None
    assert stored == result


def test_the_seeds_alone_decide_if_models_were_deleted_before_they_were_scored(tmp_path: Path) -> None:
    session = open_session(tmp_path, "finals={candidates: 2, seeds: 2}")
    drive(session)
    session.finish()
    session.study.mark_models_deleted(session.study.repeats)
    with closing(session.plan.open_backend()) as backend:
        result = score_finals(session.plan, session.study.search_trials, session.study.repeats, backend)
    assert result is not None
    assert (result.test, result.untested) == (None, "no model of the winner was kept")


def test_finals_without_repetitions_have_no_result(tmp_path: Path) -> None:
    session = open_session(tmp_path, "search.trials=1")
    drive(session)
    with closing(session.plan.open_backend()) as backend:
        assert score_finals(session.plan, session.study.search_trials, session.study.repeats, backend) is None


def test_a_backend_that_fails_to_predict_is_an_error_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(tmp_path, "finals={candidates: 1, seeds: 2}", "search.trials=1")
    drive(session)
    end = session.finish()

    def refuse(*_: object) -> None:
        raise BackendError(Failure(FailureKind.USER, "the key has expired"))

    monkeypatch.setattr(FakeBackend, "predict", refuse)
    with (
        closing(session.plan.open_backend()) as backend,
        pytest.raises(SweepError, match="the finalists cannot be compared") as caught,
    ):
        decide_finals(session.plan, session.study, backend, end, lambda line: None)
    assert caught.value.hint
    assert session.study.finals is None
