"""The schedulers' memory: a resumed sweep decides about a trial as an uninterrupted one does."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import plans_by_hand
import pytest
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from backends.contract import Measured
from sweeps.execution.trial_schedulers import scheduler_with_history
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.trials.trial import Trial, TrialState

pytestmark = pytest.mark.unit

SCHEDULERS = (
    "{type: asha, reduction_factor: 3}",
    "{type: asha, reduction_factor: 2, grace_epochs: 2}",
    "{type: median, min_trials: 1}",
    "{type: median, min_trials: 3, grace_epochs: 2}",
)
N_EPOCHS = 6
HISTORIES = 200

STOPPED = "stopped"
COMPLETE = "complete"
FAILED = "failed"
CRASHED = "crashed"
STOPPED_LATER = "stopped by a result without an evaluation"


@dataclass(eq=False)
class TuneTrial:
    """A trial as Tune gives it to a scheduler, with the values that it will measure."""

    trial_id: str
    values: list[float | None]
    """The objective after each evaluation; None if the evaluation lacks it."""
    ends: str = COMPLETE
    shown: list[float | None] = field(default_factory=list)
    ended: str = ""
    decisions: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)


class Controller:
    """Calls a scheduler in the order in which Tune does."""

    def __init__(self, scheduler: TrialScheduler) -> None:
        self.scheduler: Any = scheduler

    def add(self, trial: TuneTrial) -> None:
        self.scheduler.on_trial_add(self, trial)

    def step(self, trial: TuneTrial) -> None:
        """Report the next result of a trial, as a worker does, and do what the scheduler says."""
        value = trial.values[len(trial.shown)]
        trial.shown.append(value)
        result: dict[str, Any] = {"evaluations": len(trial.shown), "done": False}
        if len(trial.shown) == N_EPOCHS:  # the last evaluation comes with the end
            measured = [shown for shown in trial.shown if shown is not None]
            result["objective"] = measured[-1] if measured else math.nan
            self._complete(trial, result, COMPLETE)
            return
        if value is not None:
            result["objective"] = value
            decision = self.scheduler.on_trial_result(self, trial, dict(result))
            trial.decisions.append(decision)
            if decision == TrialScheduler.STOP:
                self._complete(trial, result, STOPPED)
                return
        if len(trial.shown) == len(trial.values):
            # a failed run ends with the value that it measured last, a crashed one with nothing
            if trial.ends == CRASHED:
                self.scheduler.on_trial_error(self, trial)
                trial.ended = CRASHED
            elif trial.ends == FAILED:
                self._complete(trial, {"objective": math.nan, **result}, FAILED)
            else:
                self._complete(trial, {"evaluations": len(trial.shown)}, trial.ends)

    def _complete(self, trial: TuneTrial, result: dict[str, Any], ended: str) -> None:
        self.scheduler.on_trial_complete(self, trial, result)
        trial.ended = ended

    def get_live_trials(self) -> list[TuneTrial]:
        return []


def trials(dice: random.Random, count: int, prefix: str) -> Iterator[TuneTrial]:
    """Yield trials with random curves: ties, missing values, not finite ones, and every ending."""
    for number in range(count):
        level, slope = dice.random(), dice.choice([0.0, 0.05, -0.05])
        values: list[float | None] = []
        for epoch in range(N_EPOCHS):
            value: float | None = round(level + slope * epoch + dice.gauss(0, 0.05), dice.choice([1, 1, 4]))
            values.append(dice.choice([value] * 9 + [None, math.nan, math.inf, -math.inf]))
        ends = dice.choice([COMPLETE] * 4 + [FAILED, CRASHED, STOPPED_LATER])
        if ends != COMPLETE:
            values = values[: dice.randint(1, N_EPOCHS - 1)]
        yield TuneTrial(f"{prefix}{number}", values, ends)


def run(controller: Controller, waiting: Iterator[TuneTrial], dice: random.Random, at_once: int) -> list[TuneTrial]:
    """Run the trials, `at_once` of them at a time, until all have ended."""
    running: list[TuneTrial] = []
    ended: list[TuneTrial] = []
    waiting_trials = list(waiting)
    while waiting_trials or running:
        while waiting_trials and len(running) < at_once:
            running.append(waiting_trials.pop(0))
            controller.add(running[-1])
        trial = dice.choice(running)
        controller.step(trial)
        if trial.ended:
            running.remove(trial)
            ended.append(trial)
    return ended


def stored(number: int, trial: TuneTrial, metric: str, *, with_baseline: bool) -> Trial:
    """Return the record of an ended trial in the study."""
    curve = [Measured(0, 0.0, {metric: 0.5}, "evaluation")] if with_baseline else []
    for epoch, value in enumerate(trial.shown, start=1):
        values = {} if value is None else {metric: value}
        curve.append(Measured(10 * epoch, float(epoch), values, "evaluation"))
    state = {COMPLETE: TrialState.COMPLETE, FAILED: TrialState.FAILED, CRASHED: TrialState.FAILED}
    ended = state.get(trial.ended, TrialState.STOPPED)
    return Trial(number, f"key-{number}", "model", {}, 1, state=ended, curve=tuple(curve))


def plan(scheduler: str, objective: str) -> SweepPlan:
    return plans_by_hand.plan(
        f"search={{trials: 99, scheduler: {scheduler}}}", f"objective={objective}", f"space.n_epochs={N_EPOCHS}"
    )


@pytest.mark.parametrize("objective", ["{maximize: valid_accuracy}", "{minimize: valid_loss}"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_resumed_scheduler_decides_as_an_uninterrupted_one(scheduler: str, objective: str) -> None:
    planned = plan(scheduler, objective)
    stops = 0
    for seed in range(HISTORIES):
        dice = random.Random(seed)
        uninterrupted = Controller(scheduler_with_history(planned, []))
        history = run(uninterrupted, trials(dice, dice.randint(0, 12), "t"), dice, at_once=dice.randint(1, 4))
        metric, with_baseline = planned.spec.objective.metric, dice.random() < 0.5
        past = [stored(number, trial, metric, with_baseline=with_baseline) for number, trial in enumerate(history)]
        open_trial = Trial(99, "open", "model", {}, 1, curve=(Measured(10, 1.0, {metric: 0.9}, "evaluation"),))
        resumed = Controller(scheduler_with_history(planned, [*past, open_trial]))

        later_seed = dice.random()
        outcomes = []
        for controller in (uninterrupted, resumed):
            later = random.Random(later_seed)
            ended = run(controller, trials(later, 6, "later"), later, at_once=2)
            outcomes.append([(trial.trial_id, trial.ended, trial.decisions) for trial in ended])
        assert outcomes[0] == outcomes[1], f"history {seed}"
        stops += sum(ended == STOPPED for _, ended, _ in outcomes[1])
    assert stops > HISTORIES / 4, "the histories stop trials, so equal decisions mean something"


def test_a_stopped_trial_of_an_earlier_run_counts_for_the_next_ones() -> None:
    """A trial that is worse than the median of the earlier runs is stopped at once."""
    planned = plan("{type: median, min_trials: 3}", "{maximize: valid_accuracy}")
    past = [
        stored(
            number, TuneTrial(str(number), [], shown=[value] * 4, ended=STOPPED), "valid_accuracy", with_baseline=True
        )
        for number, value in enumerate((0.7, 0.8, 0.9, 0.1))
    ]
    controller = Controller(scheduler_with_history(planned, past))
    good, bad = TuneTrial("good", [0.95] * 5), TuneTrial("bad", [0.2] * 5)
    for trial in (good, bad):
        controller.add(trial)
        controller.step(trial)
    assert good.decisions == [TrialScheduler.CONTINUE]
    assert bad.decisions == [TrialScheduler.STOP]


@pytest.mark.parametrize("scheduler", ["asha", "{type: median, min_trials: 3}"])
def test_a_trial_is_not_stopped_before_what_an_earlier_run_let_it_pass(scheduler: str) -> None:
    """The run reports its evaluations again, and MLflow shows them already."""
    planned = plan(scheduler, "{maximize: valid_accuracy}")
    shown: list[float | None] = [0.9] * 5
    past = [
        stored(number, TuneTrial(str(number), [], shown=shown, ended=COMPLETE), "valid_accuracy", with_baseline=True)
        for number in range(4)
    ]
    controller = Controller(scheduler_with_history(planned, past))
    bad = TuneTrial("bad", [0.2] * 5, config={"passed_evaluations": 3})
    controller.add(bad)
    while not bad.ended:
        controller.step(bad)
    assert TrialScheduler.STOP not in bad.decisions[:2]
    assert len(bad.shown) >= 3
    fresh = TuneTrial("fresh", [0.2] * 5)
    controller.add(fresh)
    controller.step(fresh)
    assert fresh.ended == STOPPED, "another trial as bad as this is stopped at once"


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_what_a_trial_passed_counts_for_the_others_as_without_an_interruption(scheduler: str) -> None:
    planned = plan(scheduler, "{maximize: valid_accuracy}")
    for seed in range(50):
        dice = random.Random(seed)
        values: list[float | None] = [dice.random() for _ in range(N_EPOCHS)]
        later_seed, outcomes = dice.random(), []
        for config in ({}, {"passed_evaluations": N_EPOCHS}):
            controller = Controller(scheduler_with_history(planned, []))
            first = TuneTrial("first", list(values), config=dict(config))
            controller.add(first)
            while not first.ended:
                controller.step(first)
            later = random.Random(later_seed)
            ended = run(controller, trials(later, 6, "later"), later, at_once=2)
            outcomes.append([(trial.trial_id, trial.ended, trial.decisions) for trial in ended])
        assert outcomes[0] == outcomes[1], f"history {seed}"


def test_without_a_scheduler_nothing_is_stopped_nor_remembered() -> None:
    past = [stored(0, TuneTrial("0", [], shown=[0.9] * 4, ended=COMPLETE), "valid_accuracy", with_baseline=True)]
    controller = Controller(scheduler_with_history(plan("none", "{maximize: valid_accuracy}"), past))
    bad = TuneTrial("bad", [0.1] * 5)
    controller.add(bad)
    for _ in bad.values:
        controller.step(bad)
    assert set(bad.decisions) == {TrialScheduler.CONTINUE}
    assert isinstance(controller.scheduler, FIFOScheduler)


@dataclass(eq=False)
class LiveTrial:
    """A trial in Tune's set of those that have not ended."""

    trial_id: str
    status: str


@pytest.mark.parametrize("scheduler", ["none", "asha", "median"])
@pytest.mark.parametrize(
    ("states", "chosen"),
    [
        ("", None),
        ("R R", None),
        ("R W W", 1),
        ("S W", 1),  # a waiting trial comes before a paused one
        ("S R S", 0),
        ("R R R R R R R R S W W", 9),
    ],
)
def test_the_next_trial_is_the_first_added_one_that_waits(scheduler: str, states: str, chosen: int | None) -> None:
    class LiveTrials:
        @staticmethod
        def get_live_trials() -> set[LiveTrial]:
            return set(live)

    statuses = {"R": "RUNNING", "W": "PENDING", "S": "PAUSED"}
    live = [
        LiveTrial(f"{(7 * number) % 11:04x}", statuses[state])  # the identifiers are in no order
        for number, state in enumerate(states.split())
    ]
    made: Any = scheduler_with_history(plan(scheduler, "{maximize: valid_accuracy}"), [])
    controller = LiveTrials()
    ended = LiveTrial("ended", "TERMINATED")
    for trial in [ended, *live]:
        made.on_trial_add(controller, trial)
    assert made.choose_trial_to_run(controller) is (None if chosen is None else live[chosen])
    assert made.choose_trial_to_run(controller) is (None if chosen is None else live[chosen])
