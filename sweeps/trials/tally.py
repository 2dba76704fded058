"""Figures over the ended trials of a search, kept up to date one trial at a time.

A sweep of ten thousand trials asks for them after every trial, so no figure walks over all trials.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Sequence

from sweeps.spec.objective import Objective
from sweeps.trials.trial import Trial
from sweeps.verdicts.verdict import VerdictKind


class SearchTally:
    """The ended trials of a search, in the order in which they ended and by their value.

    `verdicts` counts their verdicts, `seconds` adds up the time of those that took any, and `timed`
    counts those.
    """

    def __init__(self, objective: Objective) -> None:
        self.verdicts: Counter[VerdictKind] = Counter()
        self.seconds = 0.0
        self.timed = 0
        self._sign = -1.0 if objective.direction == "maximize" else 1.0
        self._ended: dict[int, Trial] = {}
        self._ranks: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._ended)

    @property
    def ended(self) -> Sequence[Trial]:
        """The ended trials, the earliest end first."""
        return list(self._ended.values())

    def last_ended(self, count: int) -> list[Trial]:
        """Return the trials that ended last, the latest one at the end."""
        latest: list[Trial] = []
        for number in reversed(self._ended):
            if len(latest) == count:
                break
            latest.append(self._ended[number])
        return latest[::-1]

    @property
    def best(self) -> Trial | None:
        """The first trial of the `ranking`, or None."""
        return self._ended[self._ranks[0][1]] if self._ranks else None

    @property
    def ranking(self) -> list[int]:
        """The numbers of the trials with a value: best first, on a tie earliest first."""
        return [number for _, number in self._ranks]

    def best_with_model(self, count: int) -> list[int]:
        """Return the numbers of the best trials that have a model."""
        kept: list[int] = []
        for _, number in self._ranks:
            if len(kept) == count:
                break
            if self._ended[number].model:
                kept.append(number)
        return kept

    def update(self, trial: Trial) -> None:
        """Count a trial of the search if it has ended. Counts the latest record of each trial."""
        self.remove(trial.number)
        if not trial.state.ended:
            return
        self._ended[trial.number] = trial
        self._count(trial, 1)
        if trial.values is not None:
            bisect.insort(self._ranks, self._rank(trial))

    def remove(self, number: int) -> None:
        """Count this trial no more; another attempt counts instead."""
        trial = self._ended.pop(number, None)
        if trial is None:
            return
        self._count(trial, -1)
        if trial.values is not None:
            del self._ranks[bisect.bisect_left(self._ranks, self._rank(trial))]

    def sort_by_end(self) -> None:
        """Bring the trials into the order of their ends, after they came in another one."""
        self._ended = {trial.number: trial for trial in sorted(self._ended.values(), key=lambda t: t.ended_at or 0.0)}

    def _count(self, trial: Trial, sign: int) -> None:
        if trial.verdict is not None:
            self.verdicts[trial.verdict.kind] += sign
        if trial.spend.seconds > 0:
            self.seconds += sign * trial.spend.seconds
            self.timed += sign

    def _rank(self, trial: Trial) -> tuple[float, int]:
        assert trial.values is not None
        return self._sign * trial.values[0], trial.number
