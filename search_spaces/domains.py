"""What may be asked of a set of values, an Optuna distribution: is this one in it, which is nearest, how many."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal
from typing import TypeAlias, cast

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial

from search_spaces.limits import Scalar, plain

Domain: TypeAlias = IntDistribution | FloatDistribution | CategoricalDistribution
"""Every distribution of this package is one of the three."""

_STEP_TOLERANCE = 1e-8
"""In steps; the same with which Optuna decides whether a value is on the grid of a float with a step."""


def of_choices(values: Iterable[Scalar]) -> CategoricalDistribution:
    """Return a choice in canonical order: Optuna cannot go on with a study whose choices have changed their order."""
    return CategoricalDistribution(sorted(values, key=_rank))


def same(one: object, other: object) -> bool:
    """Return whether two values are the same; 3 and 3.0 are, 1 and true are not."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def contains(domain: Domain, value: object) -> bool:
    """Return whether the value is one of the domain's."""
    if isinstance(domain, CategoricalDistribution):
        return any(same(value, choice) for choice in domain.choices)
    if isinstance(value, bool) or not isinstance(value, int | float) or not domain.low <= value <= domain.high:
        return False
    if domain.step is None:
        return True
    steps = (value - domain.low) / domain.step
    return abs(steps - round(steps)) < _STEP_TOLERANCE


def nearest(domain: IntDistribution | FloatDistribution, value: float) -> int | float:
    """Return the domain's value that is nearest to the given number."""
    inside = min(max(value, domain.low), domain.high)
    if domain.step is None:
        return float(inside)
    steps = round((inside - domain.low) / domain.step)
    if isinstance(domain, IntDistribution):
        return domain.low + steps * domain.step
    return float(Decimal(str(domain.low)) + steps * Decimal(str(domain.step)))


def middle(domain: IntDistribution | FloatDistribution) -> int | float:
    """Return the geometric mean of a log range, the midpoint of a linear one, moved onto the nearest value.

    A continuous one is rounded to three digits, which are more than it means.
    """
    centre = math.sqrt(domain.low) * math.sqrt(domain.high) if domain.log else (domain.low + domain.high) / 2
    return nearest(domain, float(f"{centre:.3g}") if domain.step is None else centre)


def size(domain: Domain) -> int | None:
    """Return the number of values; None where they cannot be counted."""
    if isinstance(domain, CategoricalDistribution):
        return len(domain.choices)
    return None if domain.step is None else round((domain.high - domain.low) / domain.step) + 1


def values(domain: Domain) -> list[Scalar] | None:
    """Return all values in order; None where they cannot be counted."""
    if isinstance(domain, CategoricalDistribution):
        return cast(list[Scalar], list(domain.choices))
    if isinstance(domain, IntDistribution):
        return list(range(domain.low, domain.high + 1, domain.step))
    if domain.step is None:
        return None
    low, step = Decimal(str(domain.low)), Decimal(str(domain.step))
    return [float(low + number * step) for number in range(size(domain) or 0)]


def text(domain: Domain) -> str:
    """Return the domain in words: "1 .. 80, log", "2 .. 10, step 2", "0.01 | 0.1 | 1"."""
    if isinstance(domain, CategoricalDistribution):
        return " | ".join(plain(choice) for choice in domain.choices)
    ends = f"{plain(domain.low)} .. {plain(domain.high)}"
    if domain.log:
        return f"{ends}, log"
    stepped = domain.step is not None and not (isinstance(domain, IntDistribution) and domain.step == 1)
    return f"{ends}, step {plain(domain.step)}" if stepped else ends


def suggest(domain: Domain, name: str, trial: BaseTrial) -> Scalar:
    """Ask the trial for a value; a plain Python scalar."""
    if isinstance(domain, CategoricalDistribution):
        return cast(Scalar, trial.suggest_categorical(name, domain.choices))
    if isinstance(domain, IntDistribution):
        return int(trial.suggest_int(name, domain.low, domain.high, step=domain.step, log=domain.log))
    value = float(trial.suggest_float(name, domain.low, domain.high, step=domain.step, log=domain.log))
    return value if domain.step is None else nearest(domain, value)  # 0.3, not 0.1 + 2 * 0.1


def _rank(value: Scalar | None) -> tuple[str, float, str]:
    if isinstance(value, str):
        return ("text", 0.0, value)
    return ("bool" if isinstance(value, bool) else "number", float(value or 0), "")
