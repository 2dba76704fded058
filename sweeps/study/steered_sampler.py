"""What a sampler proposes once steering has moved the space: an Optuna study in memory, made of what still fits.

Samplers learn from the distributions of past trials, and most ignore, or refuse, trials whose range was another one. So
the sampler is given the trials that lie in the space as it is now, as if they had been drawn from it. The study that is
the record stays as it is.
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
    """Proposes points of a space with a sampler; told of trials as they end. Not for several threads."""

    def __init__(
        self,
        space: ResolvedSpace,
        sampler: optuna.samplers.BaseSampler,
        directions: Sequence[optuna.study.StudyDirection],
        past: Sequence[optuna.trial.FrozenTrial],
    ) -> None:
        """`past` are trials of the record; those that have not ended, or lie outside of the space, are left out."""
        self._space = space
        self._study = optuna.create_study(
            directions=list(directions), sampler=sampler, pruner=optuna.pruners.NopPruner()
        )
        for each in past:
            self.tell(each)

    def propose(self) -> dict[str, Scalar]:
        """Return a point; what becomes of it is heard through `tell`."""
        asked = self._study.ask()
        point = self._space.suggest(asked)
        # Samplers pass failed trials over; the result comes as a trial of its own.
        self._study.tell(asked, state=OptunaState.FAIL)
        return point

    def tell(self, trial: optuna.trial.FrozenTrial) -> None:
        """Let the sampler learn from a trial of the record."""
        distributions = self._fitting(trial)
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

    def _fitting(self, trial: optuna.trial.FrozenTrial) -> dict[str, BaseDistribution] | None:
        distributions: dict[str, BaseDistribution] = {}
        for name, value in trial.params.items():
            parameter = self._space.parameter(name)
            if parameter is None or parameter.distribution is None or not parameter.contains(value):
                return None
            distributions[name] = parameter.distribution
        return distributions
