"""Functions on domains, the sets of values: membership, nearest value, size, text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal
from typing import TypeAlias, cast

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial

from search_spaces.limits import Scalar, yaml_text

Domain: TypeAlias = IntDistribution | FloatDistribution | CategoricalDistribution
"""Every distribution in this package is one of these three."""

_STEP_TOLERANCE = 1e-8
"""In steps. Optuna uses the same tolerance to decide whether a float is on its grid."""


def categorical(values: Iterable[Scalar]) -> CategoricalDistribution:
    """Return a choice in canonical order.

    Optuna cannot continue a study if the order of its choices has changed.
    """
    return CategoricalDistribution(sorted(values, key=_sort_key))


def same_value(one: object, other: object) -> bool:
    """Return whether two values are the same: 3 and 3.0 are, 1 and true are not."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def contains(domain: Domain, value: object) -> bool:
    """Return whether the domain contains the value."""
    if isinstance(domain, CategoricalDistribution):
        return any(same_value(value, choice) for choice in domain.choices)
    if isinstance(value, bool) or not isinstance(value, int | float) or not domain.low <= value <= domain.high:
        return False
    if domain.step is None:
        return True
    steps = (value - domain.low) / domain.step
    return abs(steps - round(steps)) < _STEP_TOLERANCE


def nearest(domain: IntDistribution | FloatDistribution, value: float) -> int | float:
    """Return the value of the domain that is nearest to the given number."""
    clamped = min(max(value, domain.low), domain.high)
    if domain.step is None:
        return float(clamped)
    steps = round((clamped - domain.low) / domain.step)
    if isinstance(domain, IntDistribution):
        return domain.low + steps * domain.step
    return float(Decimal(str(domain.low)) + steps * Decimal(str(domain.step)))


def middle(domain: IntDistribution | FloatDistribution) -> int | float:
    """Return the geometric mean of a logarithmic range, or the midpoint of any other range.

    The result is moved to the nearest value of the domain. In a continuous domain it is rounded to
    three digits, because more digits would have no meaning.
    """
    centre = math.sqrt(domain.low) * math.sqrt(domain.high) if domain.log else (domain.low + domain.high) / 2
    return nearest(domain, float(f"{centre:.3g}") if domain.step is None else centre)


def size(domain: Domain) -> int | None:
    """Return the number of values, or None for a continuous domain."""
    if isinstance(domain, CategoricalDistribution):
        return len(domain.choices)
    return None if domain.step is None else round((domain.high - domain.low) / domain.step) + 1


def values(domain: Domain) -> list[Scalar] | None:
    """Return all values in order, or None for a continuous domain."""
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
        return " | ".join(yaml_text(choice) for choice in domain.choices)
    ends = f"{yaml_text(domain.low)} .. {yaml_text(domain.high)}"
    if domain.log:
        return f"{ends}, log"
    has_step = domain.step is not None and not (isinstance(domain, IntDistribution) and domain.step == 1)
    return f"{ends}, step {yaml_text(domain.step)}" if has_step else ends


def suggest(domain: Domain, name: str, trial: BaseTrial) -> Scalar:
    """Ask the trial for a value and return it as a plain Python scalar."""
    if isinstance(domain, CategoricalDistribution):
        return cast(Scalar, trial.suggest_categorical(name, domain.choices))
    if isinstance(domain, IntDistribution):
        return int(trial.suggest_int(name, domain.low, domain.high, step=domain.step, log=domain.log))
    value = float(trial.suggest_float(name, domain.low, domain.high, step=domain.step, log=domain.log))
    return value if domain.step is None else nearest(domain, value)  # 0.3, not 0.1 + 2 * 0.1


def _sort_key(value: Scalar | None) -> tuple[str, float, str]:
    if isinstance(value, str):
        return ("text", 0.0, value)
    return ("bool" if isinstance(value, bool) else "number", float(value or 0), "")
