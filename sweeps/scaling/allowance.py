"""Divides the budget of a scale run among its points. Pure.

Each point is a sweep that never exceeds its own limit. The limits add up to that of the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sweeps.errors import Problem
from sweeps.spec.sweep_file import BudgetSpec
from sweeps.trials.budget import Amount, total

ROUNDING = 1e-12
"""The sum of a point's cost bounds may exceed its limit by this share, from rounding alone."""


@dataclass(frozen=True)
class Standing:
    """What a point needs and has taken.

    `required` is what it must be able to use in all, and `most` the most that it can use.
    `committed` is what it has used or may still use for runs that have begun, in `seconds`.
    """

    required: Amount
    most: Amount
    committed: Amount = field(default_factory=Amount)
    seconds: float = 0.0

    @property
    def outstanding(self) -> Amount:
        """What must stay reserved for it."""
        return _rest(self.required, self.committed)


def budget_problems(limit: BudgetSpec, standings: Sequence[Standing], others: Amount, place: str) -> Iterable[Problem]:
    """Yield that the limit does not cover all points.

    `others` is what other points of the same scale run have taken.
    """
    needed = total((others, *(total((each.committed, each.outstanding)) for each in standings)))
    hint = "raise it, or leave out sizes, models or seeds"
    if limit.usd is not None and needed.usd > limit.usd:
        yield Problem(place, f"${limit.usd:,.2f} does not cover all points: up to ${needed.usd:,.2f}", hint)
    if limit.tokens is not None and needed.tokens > limit.tokens:
        yield Problem(place, f"{limit.tokens:,} tokens do not cover all points: up to {needed.tokens:,}", hint)


def allowance(
    limit: BudgetSpec, standings: Sequence[Standing], index: int, others: Amount, other_seconds: float
) -> BudgetSpec | None:
    """Return the limits of the point at `index`, which runs next; None if nothing is left for it.

    They cover all that it has taken. The points after it keep what they require. What is left
    beyond that is shared in proportion to what each could use.
    """
    own, later = standings[index], standings[index + 1 :]
    elsewhere = [each for number, each in enumerate(standings) if number != index]
    taken = total((others, *(each.committed for each in elsewhere)))
    kept = total(each.outstanding for each in later)
    ends: dict[str, float | int] = {}
    if limit.usd is not None:
        wishes = [max(0.0, each.most.usd - each.required.usd) for each in (own, *later)]
        ends["usd"] = _share(limit.usd - taken.usd, own.committed.usd + own.outstanding.usd, kept.usd, wishes)
    if limit.tokens is not None:
        wishes = [float(max(0, each.most.tokens - each.required.tokens)) for each in (own, *later)]
        needed = own.committed.tokens + own.outstanding.tokens
        ends["tokens"] = math.floor(_share(limit.tokens - taken.tokens, needed, kept.tokens, wishes))
    if limit.hours is not None:
        seconds = limit.hours * 3600 - other_seconds - math.fsum(each.seconds for each in elsewhere)
        if seconds <= own.seconds:
            return None
        ends["hours"] = seconds / 3600
    if any(end <= 0 for end in ends.values()):
        return None
    return BudgetSpec.model_validate(ends)


def _share(left: float, needed: float, kept: float, wishes: Sequence[float]) -> float:
    """Return what is needed, and a share of the rest. Never more than `left`."""
    surplus = max(0.0, left - kept - needed)
    share = wishes[0] / math.fsum(wishes) if math.fsum(wishes) > 0 else 1 / len(wishes)
    return min(left, (needed + surplus * share) * (1 + ROUNDING))


def _rest(wanted: Amount, taken: Amount) -> Amount:
    return Amount(max(0.0, wanted.usd - taken.usd), max(0, wanted.tokens - taken.tokens))
