"""Tune's schedulers, which stop bad trials early, with the memory of the sweep's earlier runs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, assert_never

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from sweeps.planning.sweep_plan import SweepPlan
from sweeps.trials.trial import Trial


@dataclass(frozen=True)
class _PastTrial:
    """A trial of an earlier run, as far as a scheduler needs it."""

    trial_id: str


class _LiveTrials:
    """Makes a scheduler choose among the trials that have not ended, the first added one first.

    Tune's own rule does the same, but walks over all trials of the sweep at each step.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._positions: dict[str, int] = {}
        self._added = 0

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)  # type: ignore[misc]
        self._positions[trial.trial_id] = self._added
        self._added += 1

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        live = tune_controller.get_live_trials()
        self._positions = {trial.trial_id: self._positions[trial.trial_id] for trial in live}
        for status in ("PENDING", "PAUSED"):
            waiting = [trial for trial in live if trial.status == status]
            if waiting:
                return min(waiting, key=lambda trial: self._positions[trial.trial_id])
        return None


class _EvaluationMemory(_LiveTrials):
    """Makes a scheduler of Tune remember each evaluation of a trial exactly once.

    Tune reports the last result of a trial twice, a trial also ends with a result that has no new
    evaluation or none at all, and a diverged trial measures no number. Without this class such a
    result would count twice, or raise KeyError at the next trial. What the scheduler remembers is
    then a function of the curves alone, so `remember` restores it after an interruption.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._newest: dict[str, int] = {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if not self._is_new(trial, result):
            return TrialScheduler.CONTINUE
        if result["evaluations"] < trial.config.get("passed_evaluations", 0):
            self._learn(tune_controller, trial, result)
            return TrialScheduler.CONTINUE
        decision: str = super().on_trial_result(tune_controller, trial, result)  # type: ignore[misc]
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if self._is_new(trial, result):
            super().on_trial_complete(tune_controller, trial, result)  # type: ignore[misc]
        else:
            super().on_trial_remove(tune_controller, trial)  # type: ignore[misc]
        self._newest.pop(trial.trial_id, None)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_error(tune_controller, trial)  # type: ignore[misc]
        self._newest.pop(trial.trial_id, None)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_remove(tune_controller, trial)  # type: ignore[misc]
        self._newest.pop(trial.trial_id, None)

    def remember(self, trial_id: str, values: Iterable[float | None]) -> None:
        """Remember the evaluations of an ended trial, in order, without any decision about it.

        `values` are the objective after each evaluation; None or not finite if there was none.
        """
        # `on_trial_complete` records a result and decides nothing. A decision would be a new one,
        # made with other trials in memory than when the trial ran, and a rule that has stopped a
        # trial accepts no further result of it.
        past: Any = _PastTrial(trial_id)
        for evaluations, value in enumerate(values, start=1):
            if value is not None and math.isfinite(value):
                result = {"evaluations": evaluations, "objective": value}
                super().on_trial_add(None, past)
                super().on_trial_complete(None, past, result)  # type: ignore[misc]

    def _learn(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Remember an evaluation after which an earlier run of the sweep let the trial go on."""
        super().on_trial_result(tune_controller, trial, result)  # type: ignore[misc]

    def _is_new(self, trial: Any, result: dict[str, Any]) -> bool:
        value, evaluations = result.get("objective"), result.get("evaluations", 0)
        if value is None or not math.isfinite(value) or evaluations <= self._newest.get(trial.trial_id, 0):
            return False
        self._newest[trial.trial_id] = evaluations
        return True


class _Fifo(_LiveTrials, FIFOScheduler):
    """Stops no trial."""


class _Asha(_EvaluationMemory, ASHAScheduler):
    """Asynchronous successive halving."""


class _Median(_EvaluationMemory, MedianStoppingRule):
    """The median stopping rule."""

    def _learn(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        # `on_trial_result` would remember its decision, too, and accept no further result.
        MedianStoppingRule.on_trial_complete(self, tune_controller, trial, result)


UNKNOWN_LENGTH = 10**6
"""More evaluations than any trial has: the scheduler compares trials, and never ends a long one."""


def scheduler_with_history(plan: SweepPlan, past_trials: Iterable[Trial]) -> TrialScheduler:
    """Return Tune's scheduler, which remembers the ended ones of `past_trials`.

    So a resumed sweep stops trials as strictly as an uninterrupted one. Results have the number of
    `evaluations` so far and, after an evaluation, the `objective`.
    """
    scheduler = _scheduler(plan)
    if not isinstance(scheduler, _EvaluationMemory):
        return scheduler
    objective = plan.spec.objective
    scheduler.set_search_properties("objective", "max" if objective.direction == "maximize" else "min")
    for trial in past_trials:
        if trial.state.ended:
            evaluations = (measured for measured in trial.curve if measured.step > 0)
            scheduler.remember(f"past-{trial.number}", (found.values.get(objective.metric) for found in evaluations))
    return scheduler


def _scheduler(plan: SweepPlan) -> TrialScheduler:
    spec, per_epoch = plan.spec.search.scheduler, plan.evaluation.per_epoch
    grace = max(1, round(spec.grace_epochs * per_epoch))
    match spec.type:
        case "none":
            return _Fifo()
        case "asha":
            # One more than the longest trial has, so that its last evaluation ends it and not the
            # scheduler.
            longest = max(grace, round(plan.max_epochs * per_epoch)) + 1
            if plan.spec.capabilities.starts_programs:
                longest = UNKNOWN_LENGTH  # a program evaluates when it wants, and for as long as it wants
            return _Asha(
                time_attr="evaluations", max_t=longest, grace_period=grace, reduction_factor=spec.reduction_factor
            )
        case "median":
            return _Median(
                time_attr="evaluations",
                grace_period=grace,
                min_samples_required=spec.min_trials,
                # Never pause a trial, because it could not be restored.
                min_time_slice=float("inf"),
                hard_stop=True,
            )
        case _ as unreachable:
            assert_never(unreachable)
