"""Proposing points after steering has changed the space.

An Optuna study in memory holds the trials that still fit. Samplers learn from the distributions of
past trials, and most ignore or refuse trials from another range. So the sampler gets the trials
that lie in the present space, as if they had been drawn from it. The recorded study stays as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState as OptunaState

from backends.contract import Scalar
from search_spaces.space import ResolvedSpace


class Proposer:
    """Proposes points of a space with a sampler, and learns from trials as they end.

    Not thread-safe.
    """

    def __init__(
        self,
        space: ResolvedSpace,
        sampler: optuna.samplers.BaseSampler,
        directions: Sequence[optuna.study.StudyDirection],
        past: Sequence[optuna.trial.FrozenTrial],
    ) -> None:
        """`past` are recorded trials.

        Trials that have not ended, or lie outside the space, are left out.
        """
        self._space = space
        self._study = optuna.create_study(
            directions=list(directions), sampler=sampler, pruner=optuna.pruners.NopPruner()
        )
        for trial in past:
            self.tell(trial)

    def propose(self) -> dict[str, Scalar]:
        """Return a point. Its result arrives later through `tell`."""
        proposed = self._study.ask()
        point = self._space.suggest(proposed)
        # Samplers ignore failed trials. The result of this point comes as a trial of its own.
        self._study.tell(proposed, state=OptunaState.FAIL)
        return point

    def tell(self, trial: optuna.trial.FrozenTrial) -> None:
        """Let the sampler learn from a recorded trial."""
        distributions = self._distributions(trial)
        if distributions is None or trial.state not in (OptunaState.COMPLETE, OptunaState.PRUNED):
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=trial.state,
                    params=dict(trial.params),
                    distributions=distributions,
                    values=list(trial.values) if trial.state is OptunaState.COMPLETE else None,
                    intermediate_values=dict(trial.intermediate_values),
                )
            )

    def _distributions(self, trial: optuna.trial.FrozenTrial) -> dict[str, BaseDistribution] | None:
        """Return the distributions for a trial's point; None if it lies outside the space."""
        distributions: dict[str, BaseDistribution] = {}
        for name, value in trial.params.items():
            parameter = self._space.parameter(name)
            if parameter is None or parameter.distribution is None or not parameter.contains(value):
                return None
            distributions[name] = parameter.distribution
        return distributions
