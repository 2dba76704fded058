"""The engine with real Ray Tune and the fake service: stopping, failures, limits, workers."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.contract import Event, Measured, Placement
from sweeps.errors import SweepError
from sweeps.execution import engine, silence
from sweeps.execution.environment import Environment, open_study
from sweeps.execution.observers import Observer
from sweeps.execution.outcome import SweepEnd
from sweeps.execution.session import Session
from sweeps.planning.plan import make_plan
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.spec.loading import from_document
from sweeps.spec.yaml_source import parse, with_overrides
from sweeps.trials.trial import Trial, TrialState
from sweeps.workspace import Workspace

pytestmark = pytest.mark.integration

FILE = """\
name: pairs
data: {checks: quick, source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 120, valid_examples: 60, test_examples: 30}
backend: {type: fake, model: fake-small, events_per_poll: 1}
space:
  n_epochs: 4
  batch_size: {low: 1, high: 8}
  learning_rate_multiplier: {low: 0.002, high: 0.2, log: true}
search: {sampler: random, scheduler: none, trials: 8, concurrency: 1}
objective: {maximize: valid_accuracy}
"""


class RunningCounter(Observer):
    """Counts how many trials run at once."""

    def __init__(self) -> None:
        self.running = self.most_at_once = 0

    def trial_started(self, trial: Trial) -> None:
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)

    def trial_ended(self, trial: Trial) -> None:
        self.running -= 1


class LeapingClock(Observer):
    """A clock that leaps by an hour once a certain trial has trained for an epoch."""

    def __init__(self, trial_number: int) -> None:
        self._trial_number = trial_number
        self._leap_s = 0.0

    def events_received(self, trial: Trial, first: int, events: Sequence[Event]) -> None:
        trained_an_epoch = any(isinstance(event, Measured) and event.epoch >= 1 for event in events)
        if trial.number == self._trial_number and trained_an_epoch:
            self._leap_s = 3600.0

    def __call__(self) -> float:
        return time.time() + self._leap_s


@pytest.fixture(scope="module", autouse=True)
def ray_connected() -> Iterator[None]:
    engine.connect(None, logging.NullHandler())
    yield
    engine.disconnect()


def planned(root: Path, *overrides: str) -> SweepPlan:
    return make_plan(from_document(with_overrides(parse(FILE, "f.yaml"), overrides)), Workspace(root), estimate=False)


def run(plan: SweepPlan, observer: Observer | None = None, clock: Callable[[], float] = time.time) -> Session:
    """Run the sweep, or resume it in the folder of the plan. Returns the finished session."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    workspace = Workspace(plan.folder.parent.parent)
    assert workspace.sweep_folder(plan.spec.name) == plan.folder
    session = Session(plan, open_study(plan, Environment(workspace, "unused")), [observer] if observer else [], clock)
    engine.run(session)
    session.finish()
    return session


def fault(kind: str, **more: object) -> str:
    """Return the override that makes one trial fail after its first epoch."""
    return "backend.faults=" + json.dumps([{"on": "train", "kind": kind, "times": 1, "after_epoch": 1, **more}])


@pytest.mark.parametrize("scheduler", ["{type: asha, reduction_factor: 3}", "{type: median, min_trials: 2}"])
def test_a_scheduler_stops_bad_trials_and_never_the_best(tmp_path: Path, scheduler: str) -> None:
    """Run the same points with and without a scheduler, which must not stop the best."""
    complete = {trial.number: trial for trial in run(planned(tmp_path / "none")).study.search_trials}
    assert {trial.state for trial in complete.values()} == {TrialState.COMPLETE}
    assert {len(trial.curve) for trial in complete.values()} == {5}

    session = run(planned(tmp_path / "stops", f"search.scheduler={scheduler}"))
    stopped = [trial for trial in session.study.search_trials if trial.state is TrialState.STOPPED]
    assert stopped
    for trial in stopped:
        assert trial.hyperparameters == complete[trial.number].hyperparameters
        assert len(trial.curve) < 5, "the scheduler stopped it before its last epoch"
        assert trial.reason.startswith(f"stopped early by {session.plan.spec.search.scheduler.type}")
    best = max(complete.values(), key=lambda trial: trial.values or (0.0,))
    assert best.number not in [trial.number for trial in stopped]
    assert session.end is SweepEnd.TRIALS


def test_a_resumed_sweep_stops_as_strictly_as_an_uninterrupted_one(tmp_path: Path) -> None:
    """The engine rebuilds the scheduler's memory from the study.

    So a bad trial after a resume meets the old rungs.
    """
    plan = planned(tmp_path, "search.scheduler=asha", "search.trials=4", "space.learning_rate_multiplier=[0.1, 0.11]")
    run(plan)
    longer = planned(tmp_path, "search.scheduler=asha", "search.trials=5", "space.learning_rate_multiplier=[0.1, 0.11]")
    bad = replace(longer, space=planned(tmp_path, "space.learning_rate_multiplier=0.0001").space)
    session = run(bad)
    last = session.study.search_trials[-1]
    assert last.hyperparameters["learning_rate_multiplier"] == 0.0001
    assert last.state is TrialState.STOPPED


def test_a_sweep_with_the_median_rule_resumes_after_it_has_stopped_a_trial(tmp_path: Path) -> None:
    median = "search.scheduler={type: median, min_trials: 1}"
    first = run(planned(tmp_path, median, "search.trials=6")).study.search_trials
    assert TrialState.STOPPED in {trial.state for trial in first}
    session = run(planned(tmp_path, median, "search.trials=8"))
    assert session.end is SweepEnd.TRIALS
    assert session.study.search_trials[: len(first)] == first
    assert TrialState.FAILED not in {trial.state for trial in session.study.search_trials}


def test_a_trial_that_needs_more_than_a_machine_has_is_an_error_at_once(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    too_large = replace(plan, placement=Placement(cpus=6400.0))
    with pytest.raises(SweepError, match="a trial needs 6400 CPU on one machine, but Ray has a machine with"):
        run(too_large)
    assert run(plan).end is SweepEnd.TRIALS, "nothing is lost"


def test_a_long_silence_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service trains for some seconds without any news."""
    monkeypatch.setattr(silence, "QUIET_S", 0.5)
    said: list[str] = []
    plan = planned(tmp_path, "backend={type: fake, seconds_per_epoch: 5}", "space.n_epochs=1", "search.trials=1")
    session = Session(plan, open_study(plan, Environment(Workspace(tmp_path), "unused")), [])
    engine.run(session, say=said.append)
    session.finish()
    assert any(re.fullmatch(r"no news for \d+ s: trial 0 trains in process \d+ on .+", line) for line in said), said


def test_the_sweep_continues_after_a_failed_trial(tmp_path: Path) -> None:
    session = run(planned(tmp_path, fault("out_of_memory"), "search.scheduler=asha", "search.trials=4"))
    states = [trial.state for trial in session.study.search_trials]
    assert states[0] is TrialState.FAILED
    assert TrialState.FAILED not in states[1:]
    assert session.end is SweepEnd.TRIALS
    assert session.study.search_trials[0].values is not None, "the values measured before the failure are kept"


def test_an_unreachable_run_stays_open_and_the_next_run_of_the_sweep_adopts_it(tmp_path: Path) -> None:
    """A key expires while a service trains.

    The trial has not failed, and the next run of the sweep follows it.
    """
    faults = "backend.faults=" + json.dumps([{"on": "events", "kind": "user", "times": 1}])
    plan = planned(tmp_path, faults, "search.trials=2", "search.concurrency=1")
    session = run(plan)
    assert session.end is SweepEnd.FAILED
    assert session.error is not None
    assert "injected fault" in session.error.message
    before = session.study.trials
    assert {trial.state for trial in before} == {TrialState.RUNNING}
    resumed = run(plan)
    assert resumed.end is SweepEnd.TRIALS
    assert [trial.state for trial in resumed.study.trials] == [TrialState.COMPLETE] * 2
    assert resumed.study.trials[0].key == before[0].key


def test_the_target_ends_the_sweep_early(tmp_path: Path) -> None:
    session = run(planned(tmp_path, "objective={maximize: valid_accuracy, target: 0.6}", "search.trials=50"))
    assert session.end is SweepEnd.TARGET
    assert len(session.study.search_trials) < 50
    assert any(trial.values and trial.values[0] >= 0.6 for trial in session.study.search_trials)


def test_the_time_limit_stops_the_running_trial_and_starts_no_other(tmp_path: Path) -> None:
    plan = planned(tmp_path, "backend={type: fake, seconds_per_epoch: 0.5}", "search.trials=500", "budget.hours=1")
    clock = LeapingClock(trial_number=1)
    session = run(plan, clock, clock=clock)
    assert session.end is SweepEnd.TIME
    first, second, *staged = session.study.search_trials
    assert not any(trial.state.ended for trial in staged), "staged trials wait for the next run of the sweep"
    assert first.state is TrialState.COMPLETE
    assert second.state is TrialState.STOPPED
    assert "time limit" in second.reason
    assert len(second.curve) < 5, "the time limit stopped it before its last epoch"


def test_as_many_trials_run_at_once_as_the_concurrency_allows(tmp_path: Path) -> None:
    counter = RunningCounter()
    plan = planned(tmp_path, "backend={type: fake, seconds_per_epoch: 0.6}", "search.concurrency=2", "search.trials=6")
    session = run(plan, counter)
    assert counter.most_at_once == 2
    assert len(session.study.search_trials) == 6


def test_one_worker_process_runs_all_trials_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process_ids: list[int] = []
    on_trial_result = engine._SessionCallback.on_trial_result

    def record_process_id(self: engine._SessionCallback, **info: Any) -> None:
        process_ids.append(info["result"]["pid"])
        on_trial_result(self, **info)

    monkeypatch.setattr(engine._SessionCallback, "on_trial_result", record_process_id)
    run(planned(tmp_path, "search.trials=5"))
    assert len(process_ids) >= 5 * 4
    assert len(set(process_ids)) == 1


def test_a_duplicate_is_not_trained_twice(tmp_path: Path) -> None:
    session = run(
        planned(tmp_path, "space={n_epochs: [1, 2], batch_size: 4, learning_rate_multiplier: 0.1}", "search.trials=9")
    )
    assert session.end is SweepEnd.EXHAUSTED
    assert sorted(trial.hyperparameters["n_epochs"] for trial in session.study.search_trials) == [1, 2]
    assert all(trial.values is not None for trial in session.study.trials)
