"""Steers the search space during a sweep: moves its edges by the verdicts, or advises to."""

from __future__ import annotations

from collections.abc import Sequence

from backends.contract import Scalar
from search_spaces.usual_names import role_of
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.study import steering
from sweeps.study.steering import Change
from sweeps.study.study import Study
from sweeps.verdicts.advice import EPOCHS

LOOK_AFTER_SHARE = 0.01
"""Beyond a hundred ended trials, the verdicts are looked at again after this share of new trials:
one more out of thousands moves no majority."""


class SpaceSteering:
    """The current space of a sweep and the changes that led to it.

    `changes` holds every change that the verdicts called for. With `applies` (mode `act`) the sweep
    also makes them.
    """

    def __init__(self, plan: SweepPlan, study: Study) -> None:
        """Restore the space that earlier runs of the sweep had reached."""
        self.applies = plan.spec.steering == "act"
        self.changes = study.steering
        self._plan, self._study = plan, study
        self._next_look = 0
        self._space = plan.space
        if self.changes:
            self._space = plan.steered_space(self.changes)
            study.steer((), self._space, plan.spec.search)

    def step(self) -> Sequence[Change]:
        """Return the changes that the verdicts newly call for, after making them where `applies`.

        The finals repeat fixed points, so there is no change once they have begun.
        """
        tally = self._study.tally
        if self._plan.spec.steering == "off" or self._study.repeats or len(tally) < self._next_look:
            return ()
        self._next_look = len(tally) + max(1, round(LOOK_AFTER_SHARE * len(tally)))
        objective = self._plan.spec.objective
        new_changes = steering.propose_changes(
            tally.ended, self._space, self._plan.steering_bounds, self.changes, objective
        )
        if not new_changes:
            return ()
        self.changes += new_changes
        if self.applies:
            self._space = self._plan.steered_space(self.changes)
            probes = list(filter(None, map(self._probe, new_changes)))
            self._study.steer(new_changes, self._space, self._plan.spec.search, probes)
        return new_changes

    def _probe(self, change: Change) -> dict[str, Scalar] | None:
        """Return the best point with the probe value of the change; None if there is none.

        The changed space must allow it.
        """
        best = self._study.tally.best
        if change.probe is None or best is None:
            return None
        value = int(change.probe) if role_of(change.parameter) == EPOCHS else change.probe
        point = {**best.hyperparameters, change.parameter: value}
        return None if self._space.violations(point) else point
