"""Verdicts -> a moved edge of the search space, with its reason. Pure: trials and a space in, changes out.

An edge is only moved on repeated evidence from trials that stand near it, and what was seen before the edge was last
moved counts no more. Within `steering_bounds` a range may grow beyond what was written; a list has no edges and stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import FloatDistribution, IntDistribution

from search_spaces.space import ResolvedSpace
from sweeps.trials.trial import Trial
from sweeps.verdicts.advice import RATES
from sweeps.verdicts.verdict import VerdictKind

NEEDED = 2
"""Trials near the edge that must show the same before it is moved: one alone may be chance."""

NEAR = 2 / 3
"""The upper third of a range, on its own scale, is near its upper edge."""

EPOCHS_FACTOR, RATE_FACTOR = 1.5, 4.0
"""How far an upper edge goes up: half as many epochs again; about half of a power of ten of the learning rate."""

MOST_CHANGES = 3
"""An edge is moved so often at most: a space that is still wrong after that wants a person."""

Range = IntDistribution | FloatDistribution


@dataclass(frozen=True)
class Change:
    """A range that moves: from `was` to `low .. high`, both ends inclusive. `trials` are the evidence.

    `after` is how many trials had ended then; only later ones count for the next change. `probe` is the value of this
    hyperparameter to try first, with the best point's others; None where none is more telling than the sampler's.
    """

    parameter: str
    was: tuple[float, float]
    low: float
    high: float
    reason: str
    trials: tuple[int, ...]
    after: int
    probe: float | None = None

    @property
    def text(self) -> str:
        """The change in words: "n_epochs 2 .. 4 -> 2 .. 6: ..."."""
        was, now = (f"{low:.4g} .. {high:.4g}" for low, high in (self.was, (self.low, self.high)))
        return f"{self.parameter} {was} -> {now}: {self.reason}"


def changes(
    ended: Sequence[Trial],
    space: ResolvedSpace,
    steering_bounds: Mapping[str, tuple[float | None, float | None]],
    before: Sequence[Change],
) -> tuple[Change, ...]:
    """Return the edges that the verdicts of the ended trials want moved now, at most one change a hyperparameter.

    `ended` is in the order in which the trials ended, `steering_bounds` says how far each range may reach (None: without end), and
    `before` are the changes made so far. Every new end lies inside the room; a range never becomes empty.
    """
    found = []
    for each in space:
        if each.name not in ("n_epochs", *RATES) or not isinstance(each.distribution, Range):
            continue
        earlier = [change for change in before if change.parameter == each.name]
        since = earlier[-1].after if earlier else 0
        view = _View(
            each.name, each.distribution, ended[since:], len(ended), steering_bounds.get(each.name, (None, None))
        )
        if len(earlier) < MOST_CHANGES:
            found.append(next(view.epochs() if each.name == "n_epochs" else view.rate(), None))
    return tuple(each for each in found if each is not None)


class _View:
    """One range, and the trials that speak about it."""

    def __init__(
        self,
        name: str,
        domain: Range,
        trials: Sequence[Trial],
        after: int,
        steering_bounds: tuple[float | None, float | None],
    ) -> None:
        self._name, self._domain, self._after = name, domain, after
        self._lowest = -math.inf if steering_bounds[0] is None else steering_bounds[0]
        self._highest = math.inf if steering_bounds[1] is None else steering_bounds[1]
        self._judged = [
            (float(each.hyperparameters[name]), each, each.verdict)
            for each in trials
            if each.verdict is not None
            and each.verdict.kind is not VerdictKind.UNSETTLED
            and domain.low <= float(each.hyperparameters.get(name, math.nan)) <= domain.high
        ]

    def epochs(self) -> Iterator[Change]:
        """Under-fitted at the top and still improving: more. Over-fitted at the top: no more than was of use."""
        low, high = self._domain.low, self._domain.high
        near = self._near_the_top()
        improving = [each for _, each, verdict in near if verdict.kind is VerdictKind.UNDERFIT and verdict.improving]
        if _most(improving, near):
            more = min(self._highest, max(high + 1, math.ceil(high * EPOCHS_FACTOR)))
            if more > high:
                yield self._change(low, more, "were still improving when training ended", improving, probe=more)
        over = [(each, verdict) for _, each, verdict in near if verdict.kind is VerdictKind.OVERFIT]
        useful = max((math.ceil(verdict.keep_epoch or 1) for _, verdict in over), default=high)
        if _most([each for each, _ in over], near) and len(over) > NEEDED and max(low, useful) < high:
            yield self._change(
                low, max(low, useful), f"over-fitted, none with use of more than {useful} epochs", [e for e, _ in over]
            )

    def rate(self) -> Iterator[Change]:
        """Diverged or collapsed: cut. Under-fitted at the top: raise. Over-fitted at the top and not below: lower."""
        low, high = self._domain.low, self._domain.high
        diverged = [
            (value, each)
            for value, each, verdict in self._judged
            if verdict.kind is VerdictKind.DIVERGED or verdict.collapsed
        ]
        if diverged:
            lowest = min(value for value, _ in diverged)
            above = [value for value, _, _ in self._judged if value >= lowest]
            calm = [value for value, _, verdict in self._judged if value < lowest]
            if len(diverged) >= NEEDED and 2 * len(diverged) >= len(above):
                top = math.sqrt(max(calm) * lowest) if calm else lowest / RATE_FACTOR
                top = max(top, self._lowest)
                bottom = low if low < top else max(self._lowest, top / RATE_FACTOR**2)
                if bottom < top < high:
                    collapsed = any(verdict.collapsed for *_, verdict in self._judged)
                    what = "diverged or collapsed" if collapsed else "diverged"
                    yield self._change(bottom, top, what, [each for _, each in diverged])
        near = self._near_the_top()
        slow = [entry for entry in near if entry[2].kind is VerdictKind.UNDERFIT and not entry[2].collapsed]
        under = [each for _, each, _ in slow]
        more = min(self._highest, high * RATE_FACTOR)
        if _most(under, near) and more > high:
            probe = math.sqrt(high * more)
            yield self._change(low, more, "under-fitted near the upper edge", under, probe=probe)
        over = [each for _, each, verdict in near if verdict.kind is VerdictKind.OVERFIT]
        below = [verdict.kind for value, _, verdict in self._judged if self._place(value) < NEAR]
        less = self._at(NEAR)
        overfit_below = sum(kind is VerdictKind.OVERFIT for kind in below)
        if _most(over, near) and len(over) > NEEDED and len(below) >= NEEDED and 3 * overfit_below < len(below):
            yield self._change(low, less, "over-fitted near the upper edge, and few below it", over)

    def _near_the_top(self) -> list[Any]:
        return [entry for entry in self._judged if self._place(entry[0]) >= NEAR]

    def _place(self, value: float) -> float:
        low, high = self._domain.low, self._domain.high
        if low == high:
            return 1.0
        if self._domain.log:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)

    def _at(self, place: float) -> float:
        low, high = self._domain.low, self._domain.high
        return float(low * (high / low) ** place if self._domain.log else low + place * (high - low))

    def _change(
        self, low: float, high: float, what: str, trials: Sequence[Trial], probe: float | None = None
    ) -> Change:
        numbers = tuple(each.number for each in trials)
        reason = f"trials {', '.join(map(str, numbers))} {what}"
        was = (float(self._domain.low), float(self._domain.high))
        return Change(self._name, was, float(low), float(high), reason, numbers, self._after, probe)


def _most(some: Sequence[Trial], of: Sequence[Any]) -> bool:
    return len(some) >= NEEDED and 2 * len(some) > len(of)
