"""Deletes the models of trials that can no longer win, so that disk use stays bounded."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from backends.contract import Backend, BackendError, FailureKind, Handle
from sweeps.errors import SweepError
from sweeps.execution.cleanup import champion_versions
from sweeps.execution.observers import Observer
from sweeps.planning.sweep_plan import KEPT_MODELS, SweepPlan
from sweeps.study.study import Study
from sweeps.trials.trial import Trial, TrialState

_LOG = logging.getLogger("sweeps")


class ModelRetention(Observer):
    """Keeps the models of the best `KEPT_MODELS` trials of the search.

    Deletes the models of all other ended trials.
    """

    def __init__(self, plan: SweepPlan, study: Study, backend: Backend, protected_keys: Collection[str]) -> None:
        """The models of the trials with `protected_keys` always stay."""
        self._study = study
        self._backend = backend
        self._protected_keys = protected_keys
        self._candidates = {trial.number for trial in study.tally.ended}

    def trial_ended(self, trial: Trial) -> None:
        """Remember that the trial may have to go."""
        if trial.repeat_of is None:
            self._candidates.add(trial.number)

    def trial_started(self, trial: Trial) -> None:
        """Delete now and not at the end of a trial, when its worker may still be writing."""
        losing = self._candidates.difference(self._study.tally.best_with_model(KEPT_MODELS))
        self._candidates -= losing
        self._delete([self._study.trial(number) for number in sorted(losing)])

    def finish(self, keep: Trial | None) -> dict[int, str]:
        """Stop the runs of stopped trials, and delete every model that is not among the best.

        All workers must be idle. Once the finals are decided, only the model of the repetition
        `keep` stays of the finals. Returns the trials whose runs could not be stopped and may go
        on, each with the reason.
        """
        unstopped = {}
        for trial in (*self._study.search_trials, *self._study.repeats):
            is_stopped = trial.state is TrialState.STOPPED
            if is_stopped and trial.handle is not None and (reason := self._stop(trial.number, trial.handle)):
                unstopped[trial.number] = reason
        losing = self._losing_trials()
        if self._study.finals is not None:
            losing += [repeat for repeat in self._study.repeats if keep is None or repeat.number != keep.number]
        self._delete(losing)
        self._study.mark_models_deleted(
            trial for trial in losing if trial.state.ended and trial.key not in self._protected_keys
        )
        return unstopped

    def _stop(self, number: int, handle: Handle) -> str:
        """Stop a run. Returns why it may go on; the empty string if it does not."""
        try:
            self._backend.stop(handle)
        except BackendError as error:
            _LOG.warning("the run of trial %d was not stopped: %s", number, error)
            if error.failure.kind is not FailureKind.LOST:  # a service may forget a run that has ended
                return error.failure.message
        return ""

    def _losing_trials(self) -> list[Trial]:
        """Return the trials of the search that are not among the best, with retried attempts.

        `_delete` skips those that have not ended.
        """
        kept = self._study.tally.best_with_model(KEPT_MODELS)
        return [
            trial
            for trial in self._study.trials
            if trial.number not in kept and trial.repeat_of is None and trial.duplicate_of is None
        ]

    def _delete(self, trials: Iterable[Trial]) -> None:
        for trial in trials:
            if trial.key in self._protected_keys or not trial.state.ended or trial.handle is None:
                continue
            try:
                self._backend.discard(trial.handle)
            except BackendError as error:
                _LOG.warning("the model of trial %d was not deleted: %s", trial.number, error)


def protected_trial_keys(plan: SweepPlan, tracking_uri: str) -> Collection[str]:
    """Return the keys of the trials that became champions.

    An earlier winner of a resumed sweep may be one. Raises SweepError if the registry cannot be
    reached and the sweep file asks for a champion.
    """
    try:
        versions = champion_versions(tracking_uri)
    except SweepError as error:
        if plan.spec.champion is not None:
            raise
        _LOG.warning("models of champions are not protected, because the registry gave no answer: %s", error.message)
        return ()
    return {*versions.champions, *versions.former}
