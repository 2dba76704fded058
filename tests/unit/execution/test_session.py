"""The session: events become records, verdicts and ends. Driven over the fake backend, without Ray."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from pathlib import Path
from typing import cast

import optuna
import pytest

from backends.contract import Backend, Checkpointed, Event, Failure, FailureKind, Finished, Handle, Measured, Started
from backends.waiting import Waiting
from sweeps.errors import SweepError
from sweeps.execution import finals_scoring
from sweeps.execution.environment import Environment, open_study
from sweeps.execution.finals_decision import decide_finals
from sweeps.execution.model_retention import ModelRetention
from sweeps.execution.outcome import SweepEnd
from sweeps.execution.running_trial import TrialEnd
from sweeps.execution.session import Session
from sweeps.planning.plan import make_plan
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.spec.loading import from_document
from sweeps.spec.yaml_source import parse, with_overrides
from sweeps.study import state
from sweeps.study.finals import FinalsResult
from sweeps.study.steering import Change
from sweeps.study.study import NoTrial, Study, StudyDefinition
from sweeps.trials.trial import StoppedBy, Trial, TrialState, leaderboard
from sweeps.verdicts.verdict import VerdictKind
from sweeps.workspace import Workspace

pytestmark = pytest.mark.unit

FILE = """\
name: pairs
data: {source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 120, valid_examples: 60, test_examples: 30}
backend: {type: fake, model: fake-small}
space:
  n_epochs: [2, 3, 4]
  batch_size: {low: 1, high: 8}
  learning_rate_multiplier: {low: 0.01, high: 0.4, log: true}
search: {sampler: random, trials: 5, concurrency: 2}
objective: {maximize: valid_accuracy}
"""


class Recorder:
    """An observer that writes down what it hears."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.ended: list[Trial] = []
        self.events: dict[str, list[Event]] = {}
        self.waited: list[tuple[int, Waiting]] = []
        self.steered_to: list[tuple[Change, bool]] = []

    def trial_started(self, trial: Trial) -> None:
        self.started.append(trial.number)

    def observed(self, trial: Trial, first: int, events: Sequence[Event]) -> None:
        heard = self.events.setdefault(trial.key, [])
        assert len(heard) == first
        heard += events

    def trial_ended(self, trial: Trial) -> None:
        self.ended.append(trial)

    def waits(self, trial: Trial, waiting: Waiting) -> None:
        self.waited.append((trial.number, waiting))

    def steered(self, change: Change, *, made: bool) -> None:
        self.steered_to.append((change, made))


def planned(tmp_path: Path, *overrides: str) -> SweepPlan:
    return make_plan(
        from_document(with_overrides(parse(FILE, "f.yaml"), overrides)), Workspace(tmp_path), estimate=False
    )


def session(
    tmp_path: Path, *overrides: str, observer: Recorder | None = None, clock: Callable[[], float] = lambda: 100.0
) -> Session:
    plan = planned(tmp_path, *overrides)
    objectives = [each.objective for each in plan.spec.objectives]
    study = Study.open(
        tmp_path / "j", StudyDefinition("pairs", plan.fingerprint, plan.space, objectives, plan.spec.search, plan.base_model)
    )
    return Session(plan, study, [observer] if observer else [], clock)


def drive(session: Session, until: Callable[[], bool] = lambda: False) -> None:
    """Run trials one after another, as the engine does, until there are no more or `until` says so."""
    with closing(session.plan.open_backend()) as backend:
        while isinstance(trial := session.next_trial(), Trial):
            handle = backend.submit(session.plan.request(trial))
            events = backend.events(handle, 0)
            half = len(events) // 2
            session.observe(trial.number, handle, 0, events[:half])
            if until():
                return
            session.observe(trial.number, handle, 0, events)  # the first half once more: known events are skipped
            session.trial_ended(trial.number, TrialEnd.ITSELF)


def test_trials_run_to_their_number_and_each_gets_a_verdict(tmp_path: Path) -> None:
    recorder = Recorder()
    running = session(tmp_path, observer=recorder)
    drive(running)
    assert running.finish() is SweepEnd.TRIALS
    assert len(recorder.ended) == len(running.study.search_trials) == 5
    for trial in recorder.ended:
        assert trial.state is TrialState.COMPLETE
        assert trial.verdict is not None
        assert trial.verdict.evidence
        evaluations = [
            each for each in recorder.events[trial.key] if isinstance(each, Measured) and each.scope == "evaluation"
        ]
        assert list(trial.curve) == evaluations
        best = max(each.values["valid_accuracy"] for each in evaluations[1:])
        assert trial.values == (best,)
        assert next(each.epoch for each in evaluations[1:] if each.values["valid_accuracy"] == best) == trial.best_epoch


def test_concurrency_is_held(tmp_path: Path) -> None:
    running = session(tmp_path)
    assert isinstance(running.next_trial(), Trial)
    assert isinstance(running.next_trial(), Trial)
    assert running.next_trial() is NoTrial.WAIT


def test_an_interrupted_trial_is_taken_up_by_the_next_session_under_its_key(tmp_path: Path) -> None:
    first = Recorder()
    running = session(tmp_path, observer=first)
    drive(running, until=lambda: len(first.started) == 2)
    running.interrupt()
    assert running.next_trial() is NoTrial.EXHAUSTED
    assert running.finish() is SweepEnd.INTERRUPTED
    left = [each for each in running.study.trials if not each.state.ended]
    assert [each.number for each in left] == [1]

    second = Recorder()
    again = session(tmp_path, observer=second)
    drive(again)
    assert again.finish() is SweepEnd.TRIALS
    assert second.started[0] == 1
    assert next(each for each in second.ended if each.number == 1).key == left[0].key
    assert len(again.study.search_trials) == 5
    assert all(each.state is TrialState.COMPLETE for each in again.study.search_trials)


def test_the_target_ends_the_sweep(tmp_path: Path) -> None:
    running = session(tmp_path, "objective={maximize: valid_accuracy, target: 0.5}")
    drive(running)
    assert running.finish() is SweepEnd.TARGET
    assert len(running.study.search_trials) < 5


def test_the_time_limit_ends_the_sweep_and_counts_earlier_runs(tmp_path: Path) -> None:
    now = [0.0]
    running = session(tmp_path, "budget.hours=1", clock=lambda: now[0])
    drive(running, until=lambda: now.append(0) is None and len(now) > 1)
    now[0] = 3000.0
    running.interrupt()
    running.finish()
    assert running.seconds == 3000, "closing the books counts nothing twice"
    again = session(tmp_path, "budget.hours=1", clock=lambda: now[0])
    taken_up = again.next_trial()
    assert isinstance(taken_up, Trial)
    again.observe(taken_up.number, None, 0, [])  # a sign of life: it has begun
    now[0] += 601
    assert again.next_trial() is NoTrial.EXHAUSTED
    assert again.finish() is SweepEnd.TIME
    [trial] = again.study.search_trials
    assert trial.state is TrialState.STOPPED
    assert "time limit" in trial.reason


def test_what_the_scheduler_stops_is_stopped_and_not_failed(tmp_path: Path) -> None:
    recorder = Recorder()
    running = session(tmp_path, observer=recorder)
    with closing(running.plan.open_backend()) as backend:
        trial = running.next_trial()
        assert isinstance(trial, Trial)
        handle = backend.submit(running.plan.request(trial))
        events = backend.events(handle, 0)
        second = [n for n, each in enumerate(events) if isinstance(each, Measured) and each.scope == "evaluation"][1]
        running.observe(trial.number, handle, 0, events[: second + 1])
        running.trial_ended(trial.number, TrialEnd.SCHEDULER)
    [ended] = recorder.ended
    assert ended.state is TrialState.STOPPED
    assert ended.reason == "stopped early by asha after epoch 1"
    assert ended.values is not None


def fault(kind: str, times: int = 100, on: str = "train") -> str:
    return "backend.faults=" + json.dumps([{"on": on, "kind": kind, "times": times, "after_epoch": 1}])


def test_a_diverged_trial_is_stopped_with_that_verdict(tmp_path: Path) -> None:
    running = session(tmp_path, fault("diverged", times=1))
    drive(running)
    first = running.study.search_trials[0]
    assert first.state is TrialState.STOPPED
    assert first.verdict is not None
    assert first.verdict.kind is VerdictKind.DIVERGED


def test_a_transient_failure_is_tried_again_and_counts_once(tmp_path: Path) -> None:
    running = session(tmp_path, fault("transient", times=1))
    drive(running)
    assert running.finish() is SweepEnd.TRIALS
    assert len(running.study.trials) == 6
    assert len(running.study.search_trials) == 5
    assert {each.state for each in running.study.search_trials} == {TrialState.COMPLETE}
    assert running.study.trials[0].state is TrialState.FAILED


def test_failures_that_are_all_alike_end_the_sweep(tmp_path: Path) -> None:
    running = session(tmp_path, fault("out_of_memory"), "search.trials=20")
    drive(running)
    assert running.finish() is SweepEnd.FAILED
    assert running.error is not None
    assert "3 trials in a row failed alike" in running.error.message
    assert len(running.study.search_trials) == 3


def test_a_run_that_cannot_be_followed_ends_the_sweep_and_stays_open(tmp_path: Path) -> None:
    running = session(tmp_path)
    trial = running.next_trial()
    assert isinstance(trial, Trial)
    running.trial_started(trial.number)
    running.report_unreachable(Failure(FailureKind.USER, "the key has expired", "set another"))
    assert running.should_end()
    running.trial_ended(trial.number, TrialEnd.SWEEP)
    assert running.finish() is SweepEnd.FAILED
    assert running.error is not None
    assert running.error.message == "the key has expired"
    again = session(tmp_path).next_trial()
    assert isinstance(again, Trial)
    assert again.key == trial.key, "the service goes on with it, so the next run of the sweep adopts it"


def test_a_lost_worker_fails_the_trial_and_it_is_tried_again(tmp_path: Path) -> None:
    running = session(tmp_path)
    trial = running.next_trial()
    assert isinstance(trial, Trial)
    running.trial_ended(trial.number, TrialEnd.CRASH, "the worker died")
    assert running.study.trials[0].state is TrialState.FAILED
    drive(running)
    assert len(running.study.search_trials) == 5
    points = [json.dumps(dict(each.hyperparameters)) for each in running.study.search_trials]
    assert json.dumps(dict(trial.hyperparameters)) in points


def test_a_finite_space_ends_when_it_is_tried(tmp_path: Path) -> None:
    running = session(
        tmp_path, "space={n_epochs: [2, 3], batch_size: 4, learning_rate_multiplier: 0.1}", "search.trials=9"
    )
    drive(running)
    assert running.finish() is SweepEnd.EXHAUSTED
    assert len(running.study.search_trials) == 2


def test_several_objectives_are_recorded_in_their_order(tmp_path: Path) -> None:
    running = session(
        tmp_path,
        "objective=[{maximize: valid_accuracy}, {minimize: valid_loss}]",
        "search={sampler: nsga2, scheduler: none, trials: 4}",
    )
    drive(running)
    for trial in running.study.search_trials:
        kept = next(each for each in trial.curve[1:] if each.epoch == trial.best_epoch)
        assert trial.values == (kept.values["valid_accuracy"], kept.values["valid_loss"])


# ------------------------------------------------------------------------------------------------- finals and verdicts
def test_the_finals_train_the_best_again_with_other_seeds(tmp_path: Path) -> None:
    recorder = Recorder()
    running = session(tmp_path, "finals={candidates: 2, seeds: 3}", observer=recorder)
    drive(running)
    assert running.finish() is SweepEnd.TRIALS
    searched, repeats = running.study.search_trials, running.study.repeats
    assert len(searched) == 5
    best = [each.number for each in leaderboard(searched, running.objective)[:2]]
    assert sorted((each.repeat_of, each.seed) for each in repeats) == sorted(
        (n, 7 + k) for n in best for k in (1, 2, 3)
    )
    by_number = {each.number: each for each in searched}
    for each in repeats:
        assert each.repeat_of is not None
        assert each.hyperparameters == by_number[each.repeat_of].hyperparameters
        assert each.state is TrialState.COMPLETE
    assert len({each.key for each in running.study.trials}) == 11
    assert max(each.number for each in searched) < min(each.number for each in repeats)


def test_finals_go_on_where_they_were_interrupted(tmp_path: Path) -> None:
    first = Recorder()
    running = session(tmp_path, "finals={candidates: 2, seeds: 2}", observer=first)
    drive(running, until=lambda: len(first.started) == 7)
    running.interrupt()
    assert running.finish() is SweepEnd.INTERRUPTED
    again = session(tmp_path, "finals={candidates: 2, seeds: 2}")
    drive(again)
    assert again.finish() is SweepEnd.TRIALS
    assert len(again.study.search_trials) == 5
    assert len(again.study.repeats) == 4
    assert len({(each.repeat_of, each.seed) for each in again.study.repeats}) == 4


def test_finals_wait_for_the_trials_that_run(tmp_path: Path) -> None:
    running = session(tmp_path, "finals={candidates: 1, seeds: 2}", "search.trials=2")
    assert isinstance(running.next_trial(), Trial)
    assert isinstance(running.next_trial(), Trial)
    running.staged_trials = 1
    assert running.next_trial() is NoTrial.WAIT
    assert not running.study.repeats


def test_a_failed_repetition_is_retried_with_its_seed(tmp_path: Path) -> None:
    running = session(tmp_path, "finals={candidates: 1, seeds: 2}", "search.trials=1")
    drive(running, until=lambda: bool(running.study.search_trials and running.study.search_trials[0].state.ended))
    with closing(running.plan.open_backend()) as backend:
        trial = running.next_trial()
        assert isinstance(trial, Trial)
        while trial.repeat_of is None:
            handle = backend.submit(running.plan.request(trial))
            running.observe(trial.number, handle, 0, backend.events(handle, 0))
            running.trial_ended(trial.number, TrialEnd.ITSELF)
            trial = running.next_trial()
            assert isinstance(trial, Trial)
    running.trial_ended(trial.number, TrialEnd.CRASH, "gone")
    drive(running)
    seeds = sorted(each.seed for each in running.study.repeats)
    assert seeds == [8, 9]
    assert all(each.state is TrialState.COMPLETE for each in running.study.repeats)


def evaluations(*losses: tuple[float, float], accuracy: float = 0.6) -> list[Event]:
    base = {"valid_accuracy": 0.33, "train_accuracy": 0.33}
    found: list[Event] = [Started({}), Measured(0, 0.0, {"train_loss": 2.0, "valid_loss": 2.0, **base}, "evaluation")]
    for epoch, (train, valid) in enumerate(losses, start=1):
        values = {"train_loss": train, "valid_loss": valid, "valid_accuracy": accuracy, "train_accuracy": accuracy}
        found.append(Measured(10 * epoch, float(epoch), values, "evaluation"))
    return found


@pytest.mark.parametrize(
    ("losses", "kind", "optuna_state"),
    [
        (((1.0, 1.0), (0.5, 1.6), (0.2, 2.6), (0.05, 3.9)), VerdictKind.OVERFIT, "COMPLETE"),
        (((1.0, 1.0), (9.0, 9.0), (20.0, 20.0)), VerdictKind.DIVERGED, "PRUNED"),
    ],
)
def test_a_sure_verdict_stops_a_trial_and_is_no_failure(
    tmp_path: Path, losses: tuple[tuple[float, float], ...], kind: VerdictKind, optuna_state: str
) -> None:
    running = session(tmp_path)
    trial = running.next_trial()
    assert isinstance(trial, Trial)
    events = evaluations(*losses)
    running.observe(trial.number, None, 0, events[:3])
    assert not running.is_stopped_by_verdict(trial.number)
    running.observe(trial.number, None, 3, events[3:])
    assert running.is_stopped_by_verdict(trial.number)
    running.trial_ended(trial.number, TrialEnd.VERDICT)
    [ended] = running.study.search_trials
    assert ended.state is TrialState.STOPPED
    assert ended.stopped_by is StoppedBy.VERDICT
    assert ended.verdict is not None
    assert ended.verdict.kind is kind
    assert kind.value in ended.reason
    stored = optuna.load_study(
        study_name="pairs",
        storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "j"))),
    )
    assert stored.trials[trial.number].state.name == optuna_state


def test_verdicts_stop_nothing_where_they_are_told_not_to(tmp_path: Path) -> None:
    running = session(tmp_path, "search.stop_by_verdict=false")
    trial = running.next_trial()
    assert isinstance(trial, Trial)
    running.observe(trial.number, None, 0, evaluations((1.0, 1.0), (0.5, 1.6), (0.2, 2.6), (0.05, 3.9)))
    assert not running.is_stopped_by_verdict(trial.number)


def still_improving(epochs: int) -> list[Event]:
    """The events of a run that was clearly getting better until its end."""
    found: list[Event] = [Started({})]
    for epoch in range(epochs + 1):
        loss, share = 2.0 * 0.6**epoch, 0.33 + 0.15 * epoch
        values = {"train_loss": loss, "valid_loss": loss, "valid_accuracy": share, "train_accuracy": share}
        found.append(Measured(10 * epoch, float(epoch), values, "evaluation"))
    return [*found, Checkpointed(10 * epochs, float(epochs), "model"), Finished("model")]


def under_fitted(running: Session, trials: int) -> None:
    """Run trials that all end while they still improve."""
    for _ in range(trials):
        trial = running.next_trial()
        assert isinstance(trial, Trial)
        running.observe(trial.number, None, 0, still_improving(int(trial.hyperparameters["n_epochs"])))
        running.trial_ended(trial.number, TrialEnd.ITSELF)


STEERED = ("space.n_epochs={low: 3, high: 4}", "search.trials=12", "search.concurrency=1")


def test_steering_moves_the_edge_tells_everybody_and_goes_on_after_a_resume(tmp_path: Path) -> None:
    recorder = Recorder()
    running = session(tmp_path, *STEERED, "steering=act", "bounds={n_epochs: [1, 7]}", observer=recorder)
    under_fitted(running, 6)
    change, made = recorder.steered_to[0]
    assert made
    assert change.parameter == "n_epochs"
    assert (change.was, change.high) == ((3, 4), 6)
    assert running.study.steering[0] == change
    beyond = [each for each in running.study.search_trials if float(each.hyperparameters["n_epochs"]) > 4]
    assert beyond, "a later trial uses the room"
    running.interrupt()
    running.finish()

    again = session(tmp_path, *STEERED, "steering=act", "bounds={n_epochs: [1, 7]}")
    assert again.changes == running.changes
    under_fitted(again, 6)
    assert all(float(each.hyperparameters["n_epochs"]) <= 7 for each in again.study.search_trials)
    assert max(float(each.hyperparameters["n_epochs"]) for each in again.study.search_trials) > 4


def test_steering_only_advises_where_it_is_told_to(tmp_path: Path) -> None:
    recorder = Recorder()
    running = session(tmp_path, *STEERED, observer=recorder)
    under_fitted(running, 8)
    assert recorder.steered_to
    assert not any(made for _, made in recorder.steered_to)
    assert not running.study.steering
    assert all(float(each.hyperparameters["n_epochs"]) <= 4 for each in running.study.search_trials)


def test_steering_is_silent_where_it_is_off(tmp_path: Path) -> None:
    recorder = Recorder()
    running = session(tmp_path, *STEERED, "steering=off", observer=recorder)
    under_fitted(running, 8)
    assert not recorder.steered_to


def test_the_finals_are_decided_on_validation_and_the_winner_alone_meets_the_test_split(tmp_path: Path) -> None:
    running = session(tmp_path, "finals={candidates: 2, seeds: 2}")
    drive(running)
    running.finish()
    with closing(running.plan.open_backend()) as backend:
        result = finals_scoring.score_finals(running.plan, running.study.search_trials, running.study.repeats, backend)
        for each in running.study.repeats:
            assert each.handle is not None
            backend.discard(each.handle)
        running.study.mark_models_deleted(running.study.repeats)
        again = finals_scoring.score_finals(running.plan, running.study.search_trials, running.study.repeats, backend)
    assert result is not None
    assert result == again, "what the models got right is known, though they are gone"
    best = [each.number for each in leaderboard(running.study.search_trials, running.objective)[:2]]
    assert {each.number for each in result.standings} == set(best)
    assert result.winner in best
    by_number = {each.number: each for each in running.study.search_trials}
    assert by_number[result.winner].values == (result.searched_value,)
    for each in result.standings:
        values = [r.values[0] for r in running.study.repeats if r.repeat_of == each.number and r.values]
        assert each.values == tuple(values)
        assert each.low <= each.mean <= each.high
    assert result.test is not None
    assert result.test[1] <= result.test[0] <= result.test[2]
    running.study.store_finals(result)
    stored = session(tmp_path, "finals={candidates: 2, seeds: 2}").study.finals
    assert stored is not None
    assert stored == result


def test_where_models_are_gone_before_they_were_asked_the_seeds_alone_decide(tmp_path: Path) -> None:
    running = session(tmp_path, "finals={candidates: 2, seeds: 2}")
    drive(running)
    running.finish()
    running.study.mark_models_deleted(running.study.repeats)
    with closing(running.plan.open_backend()) as backend:
        result = finals_scoring.score_finals(running.plan, running.study.search_trials, running.study.repeats, backend)
    assert result is not None
    assert (result.test, result.untested) == (None, "no model of the winner was kept")


def test_without_repetitions_nothing_is_decided(tmp_path: Path) -> None:
    running = session(tmp_path, "search.trials=1")
    drive(running)
    with closing(running.plan.open_backend()) as backend:
        assert finals_scoring.score_finals(running.plan, running.study.search_trials, running.study.repeats, backend) is None


def test_bounds_keep_steering_inside_what_the_backend_accepts(tmp_path: Path) -> None:
    plan = planned(tmp_path, *STEERED, "bounds={n_epochs: [2, 100000], batch_size: [0, 4]}")
    accepted = {each.name: each for each in plan.spec.capabilities.hyperparameters}
    assert plan.steering_bounds["n_epochs"] == (2, accepted["n_epochs"].high)
    assert plan.steering_bounds["batch_size"] == (accepted["batch_size"].low, 4)
    assert plan.steering_bounds["prompt_loss_weight"] == (
        accepted["prompt_loss_weight"].low,
        accepted["prompt_loss_weight"].high,
    )


def test_a_backend_that_cannot_predict_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    running = session(tmp_path, "finals={candidates: 1, seeds: 2}", "search.trials=1")
    drive(running)
    end = running.finish()
    with closing(running.plan.open_backend()) as backend:
        for each in running.study.repeats:
            assert each.handle is not None
            backend.discard(each.handle)
        with pytest.raises(SweepError, match="the finalists cannot be compared") as caught:
            decide_finals(running.plan, running.study, backend, end, lambda line: None)
    assert caught.value.hint
    assert running.study.finals is None


def test_what_a_trial_waits_for_is_told_once(tmp_path: Path) -> None:
    recorder = Recorder()
    running = session(tmp_path, observer=recorder)
    first = running.next_trial()
    assert isinstance(first, Trial)
    limit = Waiting("the daily limit of jobs is reached", 5000.0)
    for _ in range(3):
        running.trial_waiting(first.number, limit)
    running.trial_waiting(first.number, Waiting("the daily limit of jobs is reached", 9000.0))
    running.trial_waiting(99, limit)
    assert [each for each, _ in recorder.waited] == [first.number] * 2
    assert recorder.started == [first.number], "it has a worker, and waits there"
    running.trial_ended(first.number, TrialEnd.ITSELF)
    running.trial_waiting(first.number, limit)
    assert len(recorder.waited) == 2


def test_a_trial_that_became_a_champion_keeps_its_model_when_the_sweep_goes_on(tmp_path: Path) -> None:
    running = session(tmp_path, "search.trials=6")
    drive(running)
    worst = leaderboard(running.study.search_trials, running.objective)[-1]
    discarded: list[str] = []

    class Watched:
        def discard(self, handle: Handle) -> None:
            discarded.append(handle.id)

        def stop(self, handle: Handle) -> None: ...

    def tidied(spared: Collection[str]) -> set[str]:
        discarded.clear()
        housekeeper = _Housekeeper(running.plan, cast(Backend, Watched()), spared)
        housekeeper.session = running
        housekeeper.tidy(keep=None)
        return set(discarded)

    assert worst.handle is not None
    assert worst.handle.id in tidied(())
    assert len(tidied({worst.key})) == len(tidied(())) - 1
    assert worst.handle.id not in tidied({worst.key})


def test_a_sweep_that_was_set_aside_can_still_be_read(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    plan = planned(tmp_path)
    study = open_study(plan, Environment(workspace, "sqlite://"))
    workspace.sweep_folder("pairs").mkdir(exist_ok=True)
    (workspace.sweep_folder("pairs") / "plan.json").write_text(json.dumps(plan.to_json(), default=str))
    aside = workspace.set_aside("pairs")
    assert aside is not None
    assert state.read_state(workspace, aside.name, None).name == aside.name
    assert workspace.study_name("pairs") == "pairs", "what is begun anew has its own"
    assert study.trials == []
